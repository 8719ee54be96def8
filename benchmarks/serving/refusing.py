"""A server that refuses everything with the same bytes: what a 429 costs a process that does nothing else.

python benchmarks/serving/refusing.py     prints its port, then refuses until it is stopped
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

BODY = b'{"error": {"message": "refused", "type": "rate_limit_error", "param": null, "code": "overloaded"}}'
REPLY = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Refusing(asyncio.Protocol):
    """A connection on which each packet is taken for a request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: ARG002
        self._transport.write(REPLY)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Refusing, "127.0.0.1", 0, backlog=2048)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
