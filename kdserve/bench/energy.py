"""Energy of the processor, where the machine tells (RAPL counters of Linux)."""

from __future__ import annotations

from pathlib import Path

COUNTERS = Path("/sys/class/powercap")


def joules_so_far(counters: Path = COUNTERS) -> float | None:
    """Energy of all processor packages since some start, in joules; None where no counter can be read.

    Counters wrap after hours: a difference below zero means that one did.
    """
    total = 0
    packages = [folder for folder in counters.glob("intel-rapl:*") if folder.name.count(":") == 1]
    for package in packages:
        try:
            total += int((package / "energy_uj").read_text(encoding="ascii"))
        except OSError:  # readable by root alone on most systems
            return None
    return total / 1e6 if packages else None
