"""How many threads this process really has, its CPU affinity cut by the quota of its container, and those it keeps."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from kdserve.errors import EncodeError

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")
MOST_THREADS = 1024
"""Of a process, and processes of a server: each is started at once."""


def available_threads(*, cgroup_root: Path = CGROUP_ROOT, proc_cgroup: Path = PROC_CGROUP) -> int:
    """Return the number of CPUs that this process may keep busy, at least 1.

    The lowest of the CPU affinity and every cgroup quota (version 1 or 2) on the way from this process's group to the
    root, rounded up. `os.cpu_count()` alone would count the host's CPUs inside a container.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _group_folders(cgroup_root, proc_cgroup) if (quota := _quota(folder)) is not None]
    return max(1, min([affinity, *(math.ceil(quota) for quota in quotas)]))


def threads_or_all(num_threads: int | None) -> int:
    """Return the number of threads that was asked for, or where none was, all there are.

    Raises:
        EncodeError: it is below 1, or beyond `MOST_THREADS`.
    """
    if num_threads is not None and num_threads < 1:
        raise EncodeError(f"num_threads is {num_threads}; give 1 or more")
    if num_threads is not None and num_threads > MOST_THREADS:
        raise EncodeError(f"num_threads is {num_threads}; give {MOST_THREADS} or fewer")
    return num_threads or available_threads()


class KeptThreads:
    """Threads that stay from call to call: to start one takes as long as to embed twenty texts with a static student.

    None is started before it is needed. A forked process, in which none is alive, starts its own.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def pool(self) -> ThreadPoolExecutor:
        """The threads of this process, of which there must be one at least."""
        process = os.getpid()
        if self._pool is None or self._pool[0] != process:
            self._pool = (process, ThreadPoolExecutor(self._num_threads))
        return self._pool[1]


def _group_folders(cgroup_root: Path, proc_cgroup: Path) -> list[Path]:
    """List the folders that may hold a quota for this process, for both cgroup versions."""
    try:
        lines = proc_cgroup.read_text(encoding="utf-8").splitlines()
    except OSError:
        return [cgroup_root, cgroup_root / "cpu"]
    folders = [cgroup_root, cgroup_root / "cpu"]
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = cgroup_root / "cpu" if controllers else cgroup_root
        path = PurePosixPath(group.lstrip("/"))
        folders += [mount / parent for parent in [path, *path.parents] if ".." not in parent.parts]
    return folders


def _quota(folder: Path) -> float | None:
    """Return the CPUs that a cgroup folder grants, or None where it sets no limit."""
    version_2 = _read_words(folder / "cpu.max")
    if len(version_2) == 2 and version_2[0] != "max":
        return float(version_2[0]) / float(version_2[1])
    quota, period = _read_words(folder / "cpu.cfs_quota_us"), _read_words(folder / "cpu.cfs_period_us")
    if quota and period and int(quota[0]) > 0:
        return float(quota[0]) / float(period[0])
    return None


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []
