"""An opened translator: what comes in and out, what is refused, and that damage is noticed."""

from __future__ import annotations

import json
import pickle
import shutil
from itertools import pairwise
from pathlib import Path

import onnx
import pytest

from kdserve.errors import EncodeError, FolderError
from kdserve.manifest import read_manifest, write_manifest
from kdserve.runtime import Translator
from kdserve.samples import parallel


def test_text_comes_back_in_its_own_form(bundle: Path) -> None:
    translator = Translator.load(bundle, num_threads=2)
    first, second = parallel()["de"][:2]
    one, two = translator.translate([first, second])
    assert translator.translate([f"  {first}\n\n{second}\n", "", " \n"]) == [f"  {one}\n\n{two}\n", "", "\n"]
    assert translator.translate([f"{first}\r\n\r\n{second}\r{first}"]) == [f"{one}\r\n\r\n{two}\r{one}"]
    assert translator.translate([f"{first} {second}"]) == [f"{one} {two}"]
    assert translator.translate([]) == []


def test_what_has_no_words_stays_as_it_is(bundle: Path) -> None:
    translator = Translator.load(bundle, num_threads=1)
    signs = ["🎉🎉 :-)", "---", "| 1.234,56 € | 24.12. |", "https://a.example/b?c=d", "- max@example.com", "```", "?"]
    assert translator.translate(signs) == signs
    assert translator.translate(["٢٤"]) != ["٢٤"]
    assert translator.translate(["请看https://a.example"]) != ["请看https://a.example"]
    first = parallel()["de"][0]
    (one,) = translator.translate([first])
    assert translator.translate([f"***\n{first} ?!"]) == [f"***\n{one} ?!"]


def test_long_sentence_is_read_in_parts_and_none_is_lost(bundle: Path) -> None:
    translator = Translator.load(bundle, num_threads=1)
    long = " ".join(parallel()["de"][:8]).replace(".", ",").replace("?", ",")
    assert len(translator.tokenize([long])[0]) == translator.settings.max_tokens
    alone = translator.num_cut
    assert translator.translate([long])[0]
    assert translator.num_cut >= alone


def test_candidates_of_a_blank_text_are_none_and_a_cut_text_is_counted(bundle: Path) -> None:
    translator = Translator.load(bundle, num_threads=1)
    first, second = parallel()["de"][:2]
    alone = translator.candidates([first, second], num_beams=3)
    assert alone[0]
    assert translator.candidates(["", first, " \n", second], num_beams=3) == [[], alone[0], [], alone[1]]
    assert translator.num_cut == 0
    translator.candidates([first, " ".join(parallel()["de"][:8])])
    assert translator.num_cut == 1


def test_options_are_bounded_and_languages_known(bundle: Path) -> None:
    translator = Translator.load(bundle, num_threads=1)
    with pytest.raises(EncodeError, match="num_beams is 65"):
        translator.translate(["Ja."], num_beams=65)
    with pytest.raises(EncodeError, match="this bundle writes 1 to 20"):
        translator.translate(["Ja."], max_output_tokens=21)
    with pytest.raises(EncodeError, match="this bundle reads de, not 'fr'"):
        translator.translate(["Oui."], source="fr")
    with pytest.raises(EncodeError, match="this bundle writes en, not 'fr'"):
        translator.translate(["Ja."], target="fr")
    with pytest.raises(TypeError, match="got one str"):
        translator.translate("Ja.")


def test_pickled_translator_is_opened_again(bundle: Path) -> None:
    translator = Translator.load(bundle, num_threads=1)
    again = pickle.loads(pickle.dumps(translator))
    assert again.fingerprint == translator.fingerprint
    assert again.translate(["Das Brot ist warm."]) == translator.translate(["Das Brot ist warm."])


def test_repeats_are_forbidden_where_asked(bundle: Path) -> None:
    translator = Translator.load(bundle, num_threads=1)
    for ids in translator.generate(
        translator.tokenize(parallel()["de"][:20]),
        translator._rules("", 1, None, 2),
        max_output_tokens=20,
    ):
        pairs = list(pairwise(ids))
        assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize("name", ["weights.bin", "decoder.onnx", "target_tokenizer.json"])
def test_damage_is_noticed(bundle: Path, name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(FolderError, match="does not match its SHA-256"):
        Translator.load(folder)
    (folder / name).unlink()
    with pytest.raises(FolderError, match=f"{name} is missing"):
        Translator.load(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("location", "/etc/passwd"), ("location", "../x"), ("offset", "99999999999"), ("length", "-1")]
)
def test_graph_draws_weights_from_its_own_file_alone(bundle: Path, key: str, value: str, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    model = onnx.load(folder / "decoder.onnx", load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    next(entry for entry in tensor.external_data if entry.key == key).value = value
    (folder / "decoder.onnx").write_bytes(model.SerializeToString())
    _list_again(folder)
    with pytest.raises(FolderError, match="draws weights from another file, which is refused"):
        Translator.load(folder)


def test_graphs_that_do_not_fit_together_are_refused(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    shutil.copy(folder / "encoder.onnx", folder / "decoder.onnx")
    _list_again(folder)
    with pytest.raises(FolderError, match="graphs that do not fit together"):
        Translator.load(folder)


def test_step_that_gives_both_pairs_of_outputs_writes_the_same(bundle: Path, tmp_path: Path) -> None:
    """Bundles of kdserve 0.2.0 have no `likely` and compute either way of choosing in every step."""
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    model = onnx.load(folder / "decoder.onnx", load_external_data=False)
    graph = model.graph
    graph.input.remove(next(value for value in graph.input if value.name == "likely"))
    choice = next(node for node in graph.node if node.op_type == "If")
    graph.node.remove(choice)
    likely, best = (onnx.helper.get_node_attr_value(choice, name) for name in ("then_branch", "else_branch"))
    for branch, names in ((likely, ("likely_log_probs", "likely_ids")), (best, ("best_scores", "best_ids"))):
        named = dict(zip((value.name for value in branch.output), names, strict=True))
        for node in branch.node:
            node.input[:] = [named.get(name, name) for name in node.input]
            node.output[:] = [named.get(name, name) for name in node.output]
        graph.node.extend(branch.node)
    for name, like in (("likely_log_probs", "best_scores"), ("likely_ids", "best_ids")):
        value = graph.output.add()
        value.CopyFrom(next(own for own in graph.output if own.name == like))
        value.name = name
    (folder / "decoder.onnx").write_bytes(model.SerializeToString())
    _list_again(folder)
    old, new, texts = Translator.load(folder), Translator.load(bundle), parallel()["de"][:12]
    assert old.translate(texts) == new.translate(texts)
    assert old.translate(texts, num_beams=3) == new.translate(texts, num_beams=3)


def test_settings_out_of_range_are_refused(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    path = folder / "kdserve.json"
    record = json.loads(path.read_text())
    record["settings"]["generation"]["end_ids"] = []
    path.write_text(json.dumps(record))
    with pytest.raises(FolderError, match="end_ids is empty"):
        Translator.load(folder)


def test_a_bundle_of_vectors_is_no_translator() -> None:
    with pytest.raises(FolderError, match="is a bundle, not a translator"):
        Translator.load(Path(__file__).parents[2] / "runtime" / "bundles" / "static")


def _list_again(folder: Path) -> None:
    manifest = read_manifest(folder, kind="translator")
    (folder / "kdserve.json").unlink()
    write_manifest(folder, kind="translator", parents=manifest.parents, settings=manifest.settings)
