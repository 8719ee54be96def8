from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from kdserve.errors import FolderError
from kdserve.locks import folder_in_use
from kdserve.manifest import verify_folder, write_manifest
from kdserve.staging import aside, remove_abandoned, remove_folder, staged_file, staged_folder


def make(target: Path) -> Path:
    with staged_folder(target) as folder:
        (folder / "a.txt").write_text("one")
        write_manifest(folder, kind="student")
    return target


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_every_file_follows_the_umask(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        with staged_folder(tmp_path / "s") as folder:
            (folder / "sub").mkdir(mode=0o700)
            for name in ("weights.safetensors", "sub/b.txt"):
                (folder / name).write_text("one")
                (folder / name).chmod(0o600)  # as safetensors writes
            write_manifest(folder, kind="student")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "s", *(tmp_path / "s").rglob("*")]}
    assert modes.pop("s") == modes.pop("sub") == 0o777 & ~umask
    assert set(modes.values()) == {0o666 & ~umask}


def test_a_failed_or_unmanifested_block_leaves_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match="half way"), staged_folder(tmp_path / "s") as folder:
        (folder / "a.txt").write_text("one")
        raise ValueError("half way")
    with pytest.raises(AssertionError), staged_folder(tmp_path / "s"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_removal_that_is_stopped_leaves_no_half_under_the_name(tmp_path: Path, monkeypatch):
    make(tmp_path / "folder")

    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdserve.staging.shutil.rmtree", stop)
    with pytest.raises(KeyboardInterrupt):
        remove_folder(tmp_path / "folder")
    monkeypatch.undo()
    assert not (tmp_path / "folder").exists()
    remove_abandoned(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_file_commits_whole_or_leaves_nothing(tmp_path: Path):
    with staged_file(tmp_path / "new" / "v.npy") as file:
        file.write(b"one")
        assert not (tmp_path / "new" / "v.npy").exists()
    with pytest.raises(ValueError, match="half way"), staged_file(tmp_path / "w.npy") as file:
        file.write(b"two")
        raise ValueError("half way")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["new", "new/v.npy"]
    assert (tmp_path / "new" / "v.npy").read_bytes() == b"one"


@pytest.mark.parametrize("is_gone", [True, False])
def test_what_another_process_takes_for_left_before_it_is_in_use_is_made_again(tmp_path: Path, is_gone: bool):
    made: list[Path] = []
    with ExitStack() as other:

        def make_watched(path: Path) -> None:
            path.mkdir()
            made.append(path)
            if len(made) == 1:
                if is_gone:
                    remove_abandoned(tmp_path / "s")
                else:  # it is about to
                    assert other.enter_context(folder_in_use(path))

        with aside(tmp_path / "s", make=make_watched) as staging:
            assert staging == made[-1] != made[0]
            remove_abandoned(tmp_path / "s")
            assert staging.exists()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused_and_kept(tmp_path: Path):
    make(tmp_path / "s")
    with pytest.raises(FolderError, match="exists already"):
        make(tmp_path / "s")
    assert (tmp_path / "s" / "a.txt").read_text() == "one"


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(FolderError, match="no space left"), staged_folder(tmp_path / "s"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("library", ["safetensors", "tokenizers"])
def test_a_disk_that_a_library_finds_full_is_one_line_too(tmp_path: Path, file_size_limit, library: str):
    def write(folder: Path) -> None:
        if library == "safetensors":
            save_file({"a": np.zeros(10_000)}, folder / "a.safetensors")
        else:
            Tokenizer(models.WordLevel({f"word{n}": n for n in range(5_000)})).save(str(folder / "tokenizer.json"))

    told = pytest.raises(FolderError, match=r"s cannot be written \(File too large\)")
    with file_size_limit(20_000), told, staged_folder(tmp_path / "s") as folder:
        write(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_is_no_full_disk(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "s"):
        print(1 / 0)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_inside_a_folder_whose_manifest_lists_its_files(tmp_path: Path):
    make(tmp_path / "s")
    for inside in (tmp_path / "s" / "t", tmp_path / "s" / "deep" / "t"):
        for begin in (make, lambda target: staged_file(target).__enter__()):
            with pytest.raises(FolderError, match=r"t lies inside .*s, whose kdserve.json lists all that may be there"):
                begin(inside)
    verify_folder(tmp_path / "s", kind="student")
