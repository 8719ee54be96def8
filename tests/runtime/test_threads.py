from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdserve.runtime.threads import available_threads


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def threads(tmp_path: Path, group: str, files: dict[str, str]) -> int:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "self").write_text(group)
    return available_threads(cgroup_root=tmp_path, proc_cgroup=tmp_path / "self")


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert threads(tmp_path, "0::/\n", {"cpu.max": "max 100000\n"}) == 8


def test_a_version_2_quota_is_rounded_up(tmp_path: Path) -> None:
    assert threads(tmp_path, "0::/\n", {"cpu.max": "250000 100000\n"}) == 3


def test_the_tightest_quota_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    files = {"pod/cpu.max": "200000 100000\n", "pod/job/cpu.max": "400000 100000\n"}
    assert threads(tmp_path, "0::/pod/job\n", files) == 2


def test_a_version_1_quota_counts(tmp_path: Path) -> None:
    files = {"cpu/job/cpu.cfs_quota_us": "50000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}
    assert threads(tmp_path, "9:memory:/job\n4:cpu,cpuacct:/job\n", files) == 1


def test_a_version_1_group_without_a_quota_has_none(tmp_path: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert threads(tmp_path, "4:cpu,cpuacct:/\n", files) == 8
