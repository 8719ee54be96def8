"""The command line over an index."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from kdserve import samples
from kdserve.cli import app as whole
from kdserve.cli import index as cli
from kdserve.errors import DataError, FolderError
from kdserve.search import describe

BUNDLES = Path(__file__).parents[1] / "runtime" / "bundles"


@pytest.fixture
def run():
    """Run a command as a user would; a KdserveError comes through as such."""
    app = typer.Typer()
    cli.register(app)

    def invoke(*arguments, stdin=None):
        result = CliRunner().invoke(app, list(map(str, arguments)), input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    def run_with_bundle(command, *arguments, stdin=None):
        bundle = ["--bundle", str(BUNDLES / "static")] if arguments[:1] == ("build",) else []
        return invoke(command, *arguments, *bundle, stdin=stdin)

    return run_with_bundle


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"id": "a", "text": "red apples", "lang": "en"}\n{"id": "b", "text": "a train", "year": 1999}\n')
    return path


def test_build_then_search(tmp_path, run, texts):
    run("index", "build", texts, "--out", tmp_path / "index")
    assert run("search", tmp_path / "index", "apple", "-k", 1).split("\t")[1:] == ["a", "en", "red apples\n"]
    answer = json.loads(run("search", tmp_path / "index", "train", "-k", 1, "--json"))
    assert answer["query"] == "train"
    assert [(hit["id"], hit["text"], hit["metadata"]) for hit in answer["hits"]] == [("b", "a train", {"year": 1999})]


def test_without_a_bundle_the_quickest_student_embeds_and_the_one_that_finds_most_is_named(tmp_path, texts):
    result = CliRunner().invoke(whole, ["index", "build", str(texts), "--out", str(tmp_path / "index")])
    assert describe(tmp_path / "index").encoder_name == "kdserve-static"
    assert "kdserve-static embeds; --bundle kdserve-mini finds more and takes longer" in result.stderr


def test_the_command_that_it_names_can_be_pasted(tmp_path, texts):
    out = tmp_path / "my notes"
    options = ["--out", str(out), "--bundle", str(BUNDLES / "static")]
    result = CliRunner().invoke(whole, ["index", "build", str(texts), *options])
    (named,) = re.findall(r"ask it: (.*)", result.stderr)
    assert shlex.split(named) == ["kdserve", "search", str(out), "your question"]


def test_a_filter_narrows_the_search(tmp_path, run, texts):
    run("index", "build", texts, "--out", tmp_path / "index")
    answer = json.loads(run("search", tmp_path / "index", "apple", "--where", "year < 2000", "--json"))
    assert [hit["id"] for hit in answer["hits"]] == ["b"]


def test_texts_and_queries_come_through_stdin(tmp_path, run):
    run("index", "build", "-", "--out", tmp_path / "index", stdin="eins\nzwei\n")
    answers = run("search", tmp_path / "index", "-", "--json", "-k", 1, stdin="zwei\neins\n").splitlines()
    assert [json.loads(line)["hits"][0]["text"] for line in answers] == ["zwei", "eins"]


def test_info_and_verify(tmp_path, run, texts):
    run("index", "build", texts, "--out", tmp_path / "index", "--kind", "flat", "--precision", "int8")
    facts = json.loads(run("index", "info", tmp_path / "index", "--json"))
    assert (facts["documents"], facts["kind"], facts["precision"], facts["fields"]) == (2, "flat", "int8", ["year"])
    lines = run("index", "info", tmp_path / "index").splitlines()
    shown = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)
    assert shown["fields"] == "year (number)"
    assert shown["queries of"] == "-"
    assert "tuning" not in shown
    assert "5 files, all whole" in run("index", "verify", tmp_path / "index")


def test_an_index_of_another_encoder_is_refused(tmp_path, run, texts):
    run("index", "build", texts, "--out", tmp_path / "index")
    with pytest.raises(FolderError, match="build the index again"):
        run("search", tmp_path / "index", "apple", "--bundle", BUNDLES / "transformer")


def test_a_long_document_is_shown_by_its_passage(tmp_path, run):
    (tmp_path / "long.md").write_text("\n".join(f"{n} apples make a train of apples." for n in range(400)))
    run("index", "build", tmp_path, "--out", tmp_path / "index", "--passage-tokens", "40")
    shown = run("search", tmp_path / "index", "233 apples", "-k", 1)
    assert re.fullmatch(r"[\d.]+\tlong\.md\[\d+:\d+\]\t-\t.*apples.*\n", shown)


def test_add_update_delete_compact(tmp_path, run, texts):
    index = tmp_path / "index"
    run("index", "build", texts, "--out", index)
    more = tmp_path / "more.tsv"
    more.write_text("id\ttext\nc\tzebra\nd\tokapi\n")
    run("index", "add", index, more)
    more.write_text("id\ttext\nc\tgiraffe\n")
    run("index", "update", index, more)
    run("index", "add", index, "-", stdin="counted\n")
    run("index", "delete", index, "a", "0")
    run("index", "compact", index)
    facts = json.loads(run("index", "info", index, "--json"))
    assert (facts["documents"], facts["deleted_rows"], facts["segments"]) == (3, 0, 1)
    assert run("search", index, "giraffe", "-k", 1).split("\t")[1] == "c"


def test_wishes_choose_the_kind_and_the_choice_is_explained(tmp_path, run):
    index, texts = tmp_path / "index", tmp_path / "texts.txt"
    texts.write_text("\n".join(f"text number {n}" for n in range(300)))
    run("index", "build", texts, "--out", index, "--memory", "60kB", "--recall", "0.5")
    facts = json.loads(run("index", "info", index, "--json"))
    assert (facts["kind"], facts["tuning"]["num_queries"]) == ("ivf-pq", 300)
    assert "recall" in run("index", "info", index)
    run("index", "compact", index, "--kind", "exact")
    assert json.loads(run("index", "info", index, "--json"))["kind"] == "exact"


def test_lines_of_stdin_end_where_files_end_them(tmp_path, run, texts):
    run("index", "build", texts, "--out", tmp_path / "index")
    answers = run("search", tmp_path / "index", "-", "--json", "-k", 1, stdin="red\u2028apples\x0cand\nmore\n")
    assert [json.loads(line)["query"] for line in answers.split("\n") if line] == ["red\u2028apples\x0cand", "more"]
    with pytest.raises(DataError, match=r"standard input line 2 is not UTF-8 \(byte 0xe9 at offset 6\)"):
        run("search", tmp_path / "index", "-", stdin=b"ok\ncaf\xe9\n")


@pytest.mark.parametrize("typed", ["003", "٣", "-0", "+3", " 3", "3.0", "--3", "9" * 20, "9" * 5000, "\udcff"])
def test_only_the_canonical_form_of_a_number_deletes_its_document(tmp_path, run, typed):
    run("index", "build", "-", "--out", tmp_path / "index", stdin="a\nb\nc\nd\n")
    with pytest.raises(DataError, match=r"nothing was deleted|no valid Unicode"):
        run("index", "delete", tmp_path / "index", "--", typed)
    run("index", "delete", tmp_path / "index", "3", "0")
    assert json.loads(run("index", "info", tmp_path / "index", "--json"))["documents"] == 2


def test_a_str_that_looks_like_a_number_is_deleted_before_the_number(tmp_path, run):
    (tmp_path / "a.jsonl").write_text('{"id": "7", "text": "str"}\n{"id": 7, "text": "int"}\n')
    run("index", "build", tmp_path / "a.jsonl", "--out", tmp_path / "index")
    run("index", "delete", tmp_path / "index", "7")
    assert run("search", tmp_path / "index", "x").split("\t")[3] == "int\n"
    run("index", "delete", tmp_path / "index", "7")
    assert run("search", tmp_path / "index", "x") == ""


@pytest.mark.parametrize("k", ["3000000000", "99999999999999999999"])
def test_a_k_beyond_the_documents_gives_them_all(tmp_path, run, texts, k):
    run("index", "build", texts, "--out", tmp_path / "index", "--lexical")
    for options in ([], ["--lexical"], ["--per-language", "1"], ["--where", "year < 2000"]):
        assert 1 <= len(run("search", tmp_path / "index", "apple", "-k", k, *options).splitlines()) <= 2
    assert len(run("mine", texts, texts, "-k", k, "--min-score", "0").splitlines()) == 2


def test_the_same_build_again_finds_it_done_and_another_is_refused(tmp_path, run, texts):
    run("index", "build", texts, "--out", tmp_path / "index")
    before = json.loads(run("index", "info", tmp_path / "index", "--json"))
    run("index", "build", texts, "--out", tmp_path / "index")
    assert json.loads(run("index", "info", tmp_path / "index", "--json")) == before
    with pytest.raises(FolderError, match="exists already"):
        run("index", "build", texts, "--out", tmp_path / "index", "--kind", "flat")
    run("index", "delete", tmp_path / "index", "a")
    with pytest.raises(FolderError, match="exists already"):
        run("index", "build", texts, "--out", tmp_path / "index")


def test_an_index_keeps_sentences_unless_it_is_told_not_to(tmp_path, run):
    (tmp_path / "a.jsonl").write_text('{"text": "It rains. The bread is warm."}\n{"text": "Warm rain"}\n')
    run("index", "build", tmp_path / "a.jsonl", "--out", tmp_path / "plain", "--no-sentences")
    run("index", "build", tmp_path / "a.jsonl", "--out", tmp_path / "kept")
    facts = [json.loads(run("index", "info", tmp_path / name, "--json")) for name in ("plain", "kept")]
    assert [one["sentences"] for one in facts] == [0, 2]
    (hit,) = json.loads(run("search", tmp_path / "kept", "bread", "-k", "1", "--json"))["hits"]
    assert (hit["id"], hit["sentence"]["start"], hit["sentence"]["end"]) == (0, 10, 28)


def test_an_index_keeps_the_fields_that_are_named(tmp_path, run, texts):
    run("index", "build", texts, "--out", tmp_path / "none", "--fields", "")
    assert json.loads(run("index", "info", tmp_path / "none", "--json"))["field_types"] == {}
    (tmp_path / "more.csv").write_text("id,text,year,colour\nz,green pears,1999,green\n")
    run("index", "add", tmp_path / "none", tmp_path / "more.csv", "--fields", "colour")
    assert json.loads(run("index", "info", tmp_path / "none", "--json"))["field_types"].keys() == {"colour"}
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("# Pears\nThey are green.")
    run("index", "sync", tmp_path / "none", notes, "--fields", "title")
    found = json.loads(run("search", tmp_path / "none", "pears", "--where", 'title == "Pears"', "--json"))
    assert [hit["id"] for hit in found["hits"]] == ["a.md"]


def test_new_metadata_needs_no_text(tmp_path, run, texts):
    run("index", "build", texts, "--out", tmp_path / "index")
    (tmp_path / "new.csv").write_text("id,year\na,1980\n")
    run("index", "update", tmp_path / "index", tmp_path / "new.csv", "--numbers", "year")
    assert run("search", tmp_path / "index", "x", "--where", "year == 1980").split("\t")[1:] == [
        "a",
        "en",
        "red apples\n",
    ]
    assert "year (number)" in run("index", "info", tmp_path / "index")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "{texts}", "x"], "texts.jsonl is a file; name a folder made by kdserve"),
        (["index", "build", "{index}", "--out", "new"], "is a folder that kdserve made, not one of texts"),
        (["index", "build", "{texts}", "--format", "folder", "--out", "new"], "is a file, not a folder"),
        (["index", "add", "{index}", "a" * 300], "cannot be read .File name too long"),
        (["index", "build", "{texts}", "--out", "a" * 300], "cannot be written .File name too long"),
        (["search", "a" * 300, "x"], "cannot be read .File name too long"),
        (["index", "build", "-", "--out", "new", "--numbers", "year"], "plain text without columns"),
        (["index", "build", "-", "--out", "new", "--fields", "year"], "plain text without columns"),
        (
            ["index", "build", "{texts}", "--out", "new", "--numbers", "year", "--fields", "tag"],
            "--fields does not keep",
        ),
        (["index", "build", "notes", "--out", "new", "--fields", "year"], "have no field 'year' to keep, only 'title'"),
        (["mine", "-", "-"], "only one side can come through standard input"),
    ],
)
def test_what_is_in_the_wrong_place_is_one_clear_line(tmp_path, run, texts, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    run("index", "build", texts, "--out", "index")
    Path("notes").mkdir()
    Path("notes", "a.txt").write_text("pears")
    with pytest.raises((DataError, FolderError), match=message) as caught:
        run(*[one.format(texts=texts, index="index") for one in arguments])
    assert "\n" not in str(caught.value)
    assert "Errno" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "num_bytes"), [("", 0), ("200MB", 200_000_000), ("1.5 g", 1_500_000_000), ("7", 7)]
)
def test_amounts_of_memory(written, num_bytes):
    assert cli._num_bytes(written) == num_bytes


def test_an_amount_that_is_none_is_a_usage_error():
    with pytest.raises(typer.BadParameter, match="no amount of memory"):
        cli._num_bytes("much")
    for more in ("9" * 400, "10000000000TB"):
        with pytest.raises(typer.BadParameter, match="more than any machine has"):
            cli._num_bytes(more)


def test_info_prints_lines_that_drive_no_terminal(tmp_path, run):
    (tmp_path / "texts.jsonl").write_text('{"text": "a", "\\u001b[31mred\\u202e": 1}\n')
    run("index", "build", tmp_path / "texts.jsonl", "--out", tmp_path / "index")
    fields = next(line for line in run("index", "info", tmp_path / "index").splitlines() if line.startswith("fields"))
    assert fields.split(maxsplit=1)[1] == "\ufffd[31mred\ufffd (number)"


def test_mine_writes_a_table_that_distil_reads(tmp_path, run):
    for language in ("de", "fr"):
        (tmp_path / language).write_text("\n".join(samples.parallel()[language][:40]))
    out = tmp_path / "pairs.tsv"
    bundle = ["--bundle", str(BUNDLES / "static")]
    run("mine", tmp_path / "de", tmp_path / "fr", "--out", out, "--min-score", "0.9", *bundle)
    rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert rows
    assert all(a in samples.parallel()["de"] and b in samples.parallel()["fr"] and float(c) >= 0.9 for a, b, c in rows)
    with pytest.raises(FolderError, match="exists already"):
        run("mine", tmp_path / "de", tmp_path / "fr", "--out", out, *bundle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["de", "fr", "pairs.tsv"]


def test_a_side_to_mine_that_is_not_there_is_told_before_the_other_is_read(tmp_path, run):
    (tmp_path / "a").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"there is no file .*b; check the path"):
        run("mine", tmp_path / "a", tmp_path / "b")


def test_tabs_inside_mined_sentences_are_no_columns(tmp_path, run):
    (tmp_path / "a").write_text("one\ttwo\n")
    table = run("mine", tmp_path / "a", tmp_path / "a", "--min-score", "0", "--bundle", str(BUNDLES / "static"))
    assert [line.split("\t")[:2] for line in table.splitlines()] == [["one two", "one two"]]


def test_adding_the_same_counted_file_again_is_refused(tmp_path, run):
    (tmp_path / "texts.txt").write_text("eins\nzwei\n")
    run("index", "build", tmp_path / "texts.txt", "--out", tmp_path / "index")
    with pytest.raises(DataError, match=r"in .*index already and would be there twice"):
        run("index", "add", tmp_path / "index", tmp_path / "texts.txt")
    run("index", "add", tmp_path / "index", tmp_path / "texts.txt", "--allow-repeats")
    (tmp_path / "texts.txt").write_text("eins\ndrei\n")
    run("index", "add", tmp_path / "index", tmp_path / "texts.txt")
    assert json.loads(run("index", "info", tmp_path / "index", "--json"))["documents"] == 6


def test_an_index_follows_a_folder(tmp_path, run):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Bread\n\nStill warm.")
    run("index", "build", tmp_path / "notes", "--out", tmp_path / "index")
    (tmp_path / "notes" / "b.txt").write_text("a night train")
    (tmp_path / "notes" / "a.md").unlink()  # as build has read it: no document that came another way
    run("index", "sync", tmp_path / "index", tmp_path / "notes")
    answer = json.loads(run("search", tmp_path / "index", "train", "--json"))
    assert [hit["id"] for hit in answer["hits"]] == ["b.txt"]


@pytest.mark.usefixtures("run")
def test_commands_are_there_once_however_often_they_are_registered():
    names = [command.name for command in cli.index.registered_commands]
    assert len(names) == len(set(names))
