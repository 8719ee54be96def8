"""What holds a folder, and what cannot be held."""

import errno
import fcntl
import os
from contextlib import ExitStack

import pytest

from kdserve.errors import FolderError
from kdserve.locks import folder_in_use, folder_lock


def test_a_locked_folder_has_one_writer_and_others_may_wait(tmp_path):
    with ExitStack() as held:
        held.enter_context(folder_lock(tmp_path))
        with pytest.raises(FolderError, match="another process is writing to"), folder_lock(tmp_path):
            pass
        with folder_lock(tmp_path, waiting=held.close):
            pass


def test_a_file_system_without_locks_is_told_and_never_waited_for(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for waiting in (None, lambda: pytest.fail("waited")):
        with pytest.raises(FolderError, match=r"cannot be locked \(No locks"), folder_lock(tmp_path, waiting=waiting):
            pass
    with folder_in_use(tmp_path) as is_free:
        assert not is_free
