"""Settings and keys: strict, and paths beside their file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("msgspec", reason="needs the extra serve")

from kdserve.errors import KdserveError, RecipeError
from kdserve.serve import Limits, load_settings
from kdserve.serve.app import Application
from kdserve.serve.keys import Keys
from kdserve.serve.refusals import Refusal
from kdserve.serve.running import _listen

BUNDLES = Path(__file__).parents[1] / "runtime" / "bundles"


def test_a_file_flags_and_overrides_in_that_order(tmp_path: Path):
    path = tmp_path / "serve.toml"
    path.write_text('bundles = ["a"]\nport = 1\n[limits]\ntexts = 5\nhits = 7\n[aliases]\nada = "a"\n')
    settings = load_settings(path, given={"port": 2}, overrides=["limits.texts=6", "host=::1"])
    assert (settings.port, settings.host, settings.aliases) == (2, "::1", {"ada": "a"})
    assert settings.limits == Limits(texts=6, hits=7)


def test_paths_are_beside_the_file_and_names_are_names(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    path = tmp_path / "serve.toml"
    path.write_text('bundles = ["mine", "kdserve-static"]\nkeys = "no-such-file"\n')
    settings = load_settings(path)
    assert settings.bundles == (str(tmp_path / "mine"), "kdserve-static")
    assert settings.keys == "no-such-file"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("bundle = []", "did you mean bundles"),
        ('bundles = "a"', "list"),
        ("", "nothing to serve"),
        ('bundles = ["a"]\nport = 70000', "port"),
        ('bundles = ["a"]\nport = true', "port"),
        ('bundles = ["a"]\n[limits]\ntexts = 0', "limits.texts"),
        ('bundles = ["a"]\nprocesses = 0', "processes"),
        ('bundles = ["a"]\nprocesses = 5000', "processes is 5000; give 1024 or fewer"),
        ('bundles = ["a"]\nthreads = 1_000_000', "threads is 1000000; give 1024 or fewer"),
        ('bundles = ["a"]\nstop_s = -1', "stop_s"),
        ("bundles = [", "TOML"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, part: str):
    path = tmp_path / "serve.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=part):
        load_settings(path)


@pytest.mark.parametrize("host", ["", "a..b", "x" * 64, "\u202e"])
def test_what_is_no_host_is_one_line(host: str):
    with pytest.raises(RecipeError, match=r"cannot listen on .* port 0 .*; choose another"):
        _listen(host, 0)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(RecipeError, match="no file of settings"):
        load_settings(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"bundles": [BUNDLES / "static", BUNDLES / "static"]}, "two models are called tiny-static"),
        ({"bundles": [BUNDLES / "static"], "aliases": {"a": "b"}}, "alias a = b"),
        ({"bundles": [BUNDLES / "static"], "aliases": {"tiny-static": "tiny-static"}}, "alias"),
        ({"bundles": ["no-such-bundle"]}, "no-such-bundle"),
        ({"classifiers": [BUNDLES / "static"]}, "not a classifier"),
        ({"bundles": [BUNDLES / "static"], "indexes": ["no-such-index"]}, "no-such-index"),
        ({"bundles": [BUNDLES / "static"], "keys": "no-such-file"}, "no-such-file"),
    ],
)
def test_what_cannot_be_opened_is_named(given: dict[str, object], part: str):
    plain = {name: [str(one) for one in value] if isinstance(value, list) else value for name, value in given.items()}
    with pytest.raises(KdserveError, match=part):
        Application(load_settings(None, given=plain))


def key_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no key"),
        ('[[key]]\nname = "a"\nkey = "short"\nrole = "read"', "16"),
        ('[[key]]\nname = "a"\nkey = "0123456789abcdef"\nrole = "admin"', "read, write"),
        ('[[key]]\nname = "a"\nkey = "0123456789abcdef"\nrole = "read"\n' * 2, "twice"),
        ('[[key]]\nname = "a"\nkey = "0123456789abcdef"', "role"),
        ('key = "0123456789abcdef"', "tables"),
        ("keys = []", "tables"),
        ("[[", "readable"),
    ],
)
def test_a_file_of_keys_that_does_not_fit(tmp_path: Path, text: str, part: str):
    with pytest.raises(RecipeError, match=part):
        Keys.read(key_file(tmp_path, text))


def test_a_key_is_shown_as_a_bearer(tmp_path: Path):
    keys = Keys.read(key_file(tmp_path, '[[key]]\nname = "a"\nkey = "0123456789abcdef"\nrole = "read"\n'))
    assert keys.require("read", [(b"authorization", b"Bearer 0123456789abcdef")]) == "a"
    assert keys.require("", []) == ""
    for shown in (b"0123456789abcdef", b"Basic 0123456789abcdef", b"Bearer 0123456789abcdeF", b"Bearer "):
        with pytest.raises(Refusal):
            keys.require("read", [(b"authorization", shown)])
