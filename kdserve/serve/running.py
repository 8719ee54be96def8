"""uvicorn around the application: sockets, signals, processes, and an end in bounded time.

SIGTERM, SIGINT    readiness is false, replies close their connections; after `drain_s` nothing new is taken, open
                   requests get `stop_s` to end
SIGHUP             keys and indexes are looked at again
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import multiprocessing
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from kdserve.errors import RecipeError
from kdserve.serve.app import Application
from kdserve.serve.connections import Connection
from kdserve.serve.logs import log_to_stderr
from kdserve.serve.processes import supervise
from kdserve.serve.settings import ServerSettings

SWITCH_S = 0.0005
"""How soon a thread that computes in Python lets the event loop go on."""
KEEP_ALIVE_S = 75
LINGER_S, TICK_S = 1.0, 0.02
BACKLOG = 2048
GARBAGE_OBJECTS = 10_000
"""Requests leave little that counting references does not free; to look for it oftener takes a few percent."""
GUESTS_A_TURN = 16
"""The event loop lets one guest in a turn at each door: at a single one they would wait while turns are long."""
GUEST_IS_LOST = {
    errno.ECONNABORTED, errno.ECONNRESET, errno.ENOTCONN, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP,
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EPERM, errno.ETIMEDOUT,
}  # fmt: skip
"""What one connection alone may meet as it is let in (Linux, accept(2)): those behind it are let in all the same."""
SO_ATTACH_FILTER = 26
# flags = tcp[13] & (SYN | ACK); if flags == SYN: return 0 bytes; return all
DROP_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
_logger = logging.getLogger("kdserve.serve")


class Server(uvicorn.Server):
    """uvicorn's server, which drains before it stops and listens to SIGHUP."""

    def __init__(self, app: Application) -> None:
        self._app, self._settings = app, app.settings
        self._reloads: set[asyncio.Task[None]] = set()
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(app.settings.stop_s)),
            )
        )
        tasks = self.server_state.tasks
        app.batcher.is_alone = lambda: len(tasks) == 1

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the doors, and say where they are."""
        doors = sockets or []
        beside = [door.dup() for door in doors for _ in range(GUESTS_A_TURN - 1)]
        await super().startup([*doors, *beside])
        for one in beside:  # the loop holds a copy of its own
            one.close()
        loop, family = asyncio.get_running_loop(), multiprocessing.parent_process()
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if family is not None:
            loop.add_reader(family.sentinel, self._outlive, family.sentinel)
        for one in doors:
            host, port = one.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            models = [*self._app.models.encoders, *self._app.models.classifiers, *self._app.translating.translators]
            extra = {"url": url, "pid": os.getpid(), "models": models, "indexes": list(self._app.indexes)}
            _logger.info("ready", extra=extra)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer on for a while as one that is about to stop, then take nothing new and wait for what is open.

        Whoever had connected before the door shut is answered too; connections that stay silent are closed.
        """
        self._app.drain()
        _logger.info("draining", extra={"pid": os.getpid(), "seconds": self._settings.drain_s})
        await self._wait(self._settings.drain_s, lambda: False)
        for door in sockets or []:
            await self._shut(door)
        await self._wait(min(LINGER_S, self._settings.stop_s), lambda: not self.server_state.connections)
        await super().shutdown(sockets)
        _logger.info("stopped", extra={"pid": os.getpid()})

    async def _wait(self, seconds: float, is_over: Callable[[], bool]) -> None:
        """Wait until the seconds or something else is over, or nothing is to be waited for any more."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not is_over() and not self.force_exit and (left := end - loop.time()) > 0:
            await asyncio.sleep(min(TICK_S, left))

    def _outlive(self, sentinel: int) -> None:
        """Stop in order: whoever started and would stop this process is gone, and its address is to be free again."""
        asyncio.get_running_loop().remove_reader(sentinel)
        _logger.error("the process that watches this one is gone; it stops too", extra={"pid": os.getpid()})
        self.handle_exit(signal.SIGTERM, None)

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._app.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _shut(self, door: socket.socket) -> None:
        """Stop listening, but not before everybody is let in who knocked: the kernel would reset their connections."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError), door.dup() as last:  # nobody is left, or no descriptor to let them in
            last.setblocking(False)
            if self._settings.processes == 1:  # several share one door
                _deafen(last)
                await asyncio.sleep(TICK_S)  # for handshakes that have begun
            for server in self.servers:
                server.close()
            door.close()
            while True:
                try:
                    guest, _ = last.accept()
                    guest.setblocking(False)
                    await loop.connect_accepted_socket(self._protocol, guest)
                except OSError as error:
                    if error.errno not in GUEST_IS_LOST:
                        raise

    def _protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second SIGINT stops at once. The process then ends with 0, not by the signal."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def run(settings: ServerSettings) -> None:
    """Serve until a signal comes.

    Raises:
        KdserveError: something cannot be opened, or the address is taken.
    """
    log_to_stderr()
    _allow_connections()
    with _listen(settings.host, settings.port) as door:
        if settings.processes == 1:
            run_here(settings, door)
        else:
            supervise(settings, door, run_here)


def run_here(settings: ServerSettings, door: socket.socket) -> None:
    """Serve in this process. Threads that still compute at the end do not hold it."""
    log_to_stderr()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to look at again
    sys.setswitchinterval(SWITCH_S)
    app = Application(settings)
    gc.collect()
    gc.freeze()  # or every full collection would go over the models' tables again, which takes tens of milliseconds
    gc.set_threshold(GARBAGE_OBJECTS)
    Server(app).run([door])
    if app.send_last_spans is not None:
        app.send_last_spans()
    logging.shutdown()
    if app.is_busy:
        os._exit(0)


def _allow_connections() -> None:
    """Open as many files as the system lets us: many start programs with room for a thousand connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # what it tells is not always what it gives
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _deafen(door: socket.socket) -> None:
    """Let no further handshake begin, where the system can: a filter drops the first packet (SYN without ACK) of each
    connection, and no other (Linux, socket(7), SO_ATTACH_FILTER). Who knocks tries again, and finds the door shut."""
    if sys.platform == "linux":
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in DROP_SYN))
        door.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(DROP_SYN), ctypes.addressof(code)))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # the latter of a name that no host can have
        reason = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise RecipeError(f"cannot listen on {host!r} port {port} ({reason}); choose another") from error
