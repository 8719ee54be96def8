from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from kdserve.errors import FolderError
from kdserve.manifest import Kind, kind_of, read_manifest, verify_folder, write_manifest
from kdserve.staging import staged_folder


def make(target: Path) -> Path:
    with staged_folder(target) as folder:
        (folder / "a.txt").write_text("one")
        (folder / "sub").mkdir()
        (folder / "sub" / "b.txt").write_text("two")
        write_manifest(folder, kind="student", parents={"teacher": "f" * 64}, settings={"dim": 3})
    return target


def test_a_folder_commits_whole_and_verifies(tmp_path: Path):
    manifest = verify_folder(make(tmp_path / "s"), kind="student")
    assert set(manifest.files) == {"a.txt", "sub/b.txt"}
    assert manifest.settings == {"dim": 3}
    assert manifest.fingerprint == read_manifest(make(tmp_path / "again"), kind="student").fingerprint
    assert (tmp_path / "s" / "kdserve.json").read_bytes() == (tmp_path / "again" / "kdserve.json").read_bytes()
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) & 0o055 == 0o055


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "kdserve.json"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "a.txt").write_text("onf"), "does not match its SHA-256"),
        (lambda f: (f / "a.txt").write_text("long one"), "its manifest says 3"),
        (lambda f: (f / "a.txt").unlink(), "is missing"),
        (lambda f: ((f / "a.txt").unlink(), (f / "a.txt").symlink_to("/etc/hostname")), "symbolic link"),
        (lambda f: (f / "kdserve.json").write_text("{"), "is damaged"),
        (lambda f: (f / "kdserve.json").unlink(), "has no kdserve.json"),
        (lambda f: edit(f, '"a.txt"', '"' + "a" * 300 + '"'), "cannot be read .File name too long"),
        (lambda f: edit(f, '"a.txt"', '"\\udc80"'), "is damaged"),
        (lambda f: edit(f, '"settings": {', '"settings": {"prefix": "\\ud800", '), "is damaged"),
        (lambda f: edit(f, f'"{"f" * 64}"', "[1]"), "is damaged"),
        (lambda f: (f / "b.txt").write_text("two"), "b.txt is not in the manifest"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage, message: str):
    folder = make(tmp_path / "s")
    damage(folder)
    with pytest.raises(FolderError, match=message):
        verify_folder(folder, kind="student")


@pytest.mark.parametrize("name", ["../a.txt", "/etc/passwd", "sub/../../a", "a\\b"])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str):
    folder = make(tmp_path / "s")
    record = json.loads((folder / "kdserve.json").read_text())
    record["files"][name] = {"size_bytes": 1, "sha256": "0"}
    (folder / "kdserve.json").write_text(json.dumps(record))
    with pytest.raises(FolderError, match="leaves the folder"):
        verify_folder(folder, kind="student")


@pytest.mark.parametrize(
    ("found", "asked", "message"),
    [
        ("student", "classifier", "s is a student, not a classifier; kdserve export makes its bundle"),
        ("bundle", "translator", "s is a bundle, not a translator; name a translator folder; kdserve models says"),
        ("bundle", "student", "s is a bundle, not a student; kdserve reopen makes a student of it"),
        ("translator", "student", "s is a translator, not a student; name a student folder, as this one writes texts"),
        ("sequence-student", "student", "is a sequence-student, not a student; name a student folder, as this one"),
        ("sequence-student", "bundle", "s is a sequence-student, not a bundle; name a bundle folder; kdserve models"),
        ("translator", "sequence-student", "not a sequence-student; kdserve reopen makes a student of it"),
        ("student", "index", "s is a student, not an index; name an index folder"),
        ("index", "bundle", "s is an index, not a bundle; name a bundle folder"),
        ("[1]", "bundle", r"s is a \[1\], not a bundle; name a bundle folder"),
    ],
)
def test_a_folder_of_another_kind_says_what_leads_to_the_one_asked_for(
    tmp_path: Path, found: str, asked: Kind, message: str
):
    folder = make(tmp_path / "s")
    text = (folder / "kdserve.json").read_text().replace('"kind": "student"', f'"kind": "{found}"')
    (folder / "kdserve.json").write_text(text)
    with pytest.raises(FolderError, match=message):
        read_manifest(folder, kind=asked)


def test_kind_and_format_are_checked(tmp_path: Path):
    folder = make(tmp_path / "s")
    with pytest.raises(FolderError, match="is a student, not a bundle"):
        read_manifest(folder, kind="bundle")
    text = (folder / "kdserve.json").read_text().replace('"format": 1', '"format": 2')
    (folder / "kdserve.json").write_text(text)
    with pytest.raises(FolderError, match="format 2"):
        read_manifest(folder, kind="student")
    with pytest.raises(FolderError, match="there is no folder"):
        read_manifest(tmp_path / "none", kind="student")


def test_a_folder_says_its_kind(tmp_path: Path):
    assert kind_of(make(tmp_path / "s")) == "student"
    assert kind_of(tmp_path) is None
    (tmp_path / "kdserve.json").write_text("[]", encoding="utf-8")
    with pytest.raises(FolderError, match=r"kdserve\.json is damaged"):
        kind_of(tmp_path)
