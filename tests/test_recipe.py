from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kdserve.errors import RecipeError
from kdserve.recipe import (
    BodyRecipe,
    ClassifierRecipe,
    DataRecipe,
    Recipe,
    SequenceRecipe,
    load_recipe,
    recipe_record,
)

GOOD = 'name = "x"\nfamily = "static"\n[[data]]\npath = "sample"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_loads_with_defaults_and_overrides(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, GOOD), overrides=["train.steps=20", "teacher.model=some/model", "seed=3"])
    assert (recipe.train.steps, recipe.teacher.model, recipe.seed) == (20, "some/model", 3)
    assert recipe.data[0].path == "sample"
    assert Path(recipe.data_dir) == tmp_path
    assert recipe_record(recipe)["train"]["steps"] == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "[train]\nstep = 3\n", r"unknown key train\.step; did you mean steps\?"),
        (GOOD + '[train]\nsteps = "many"\n', r"train\.steps is 'many', which is no int"),
        (GOOD + "[train]\nsteps = true\n", r"train\.steps is True"),
        (GOOD + "[student]\ntable_bits = 5\n", r"student\.table_bits is 5; choose one of 0, 4, 8"),
        (GOOD + "[train]\nbatch_size = 1\n", r"train\.batch_size is 1; it must lie in \[2, inf\)"),
        (GOOD + "data_dir = 3", r"unknown key data\[0\]\.data_dir"),
        ('name = "x"\nfamily = "static"\n', "the key data is missing"),
        ('name = "x"\n[[data]]\npath = "sample"\n', "the key family is missing"),
        (GOOD + "[objective]\ncosine = 0\ncontrastive = 0\nmse = 1\n", "mse alone collapses"),
        (GOOD + "[layers]\nhidden = 1.0\n", r"layers\.map is missing"),
        (GOOD + "[student.body]\nlayers = 2\n", r"the key student\.body\.width is missing"),
        (GOOD + "[student.body]\nwidth = 99999\n", r"student\.body\.width is 99999; it must lie in \[1, 16384\]"),
        (GOOD + "[student.body]\nwidth = 64\nlayers = 9999\n", r"layers is 9999; it must lie in \[1, 256\]"),
        ('languages = ["de", "fr"]\nweak_languages = ["fr"]\n' + GOOD, "weak_languages has fr, and so has languages"),
        (GOOD + "[student.body]\nwidth = 10\n", r"student\.body\.heads is 4; it must divide the width 10"),
        (GOOD + "[student]\ntable_bits = 4\n[student.body]\nwidth = 20\n", r"student\.body\.width must be a multiple"),
        (GOOD + '[student]\nstart = "s"\n[student.body]\nwidth = 64\n', r"student\.start has a body already"),
        (GOOD + '[classifier]\nlabelled = "x"\n', r"the key classifier\.mode is missing"),
        (GOOD + '[classifier]\nmode = ""\nlabelled = "x"\n', r"classifier\.mode is ''; choose one of"),
        (GOOD + '[classifier]\nmode = "zero-shot"\n', r"classifier\.labelled is missing"),
        (GOOD + '[classifier]\nmode = "language"\n', r"student\.body\.width is missing"),
        (GOOD + "[targets]\nsource = 0\n", r"targets\.source must be above 0"),
        (GOOD + "[targets]\nqueries = 0.5\n", r"targets\.queries needs targets\.own"),
        (GOOD + "[align]\nfold_texts = 9\n", r"align\.fold_texts needs targets\.own"),
        (
            GOOD + '[vocabulary]\nof_teacher = true\nfolder = "v"\n',
            r"vocabulary\.of_teacher is a vocabulary already; remove folder",
        ),
        (GOOD + '[vocabulary]\nfolder = "v"\n[student]\nstart = "s"\n', r"student\.start has a vocabulary"),
        ('name = "x"\nfamily = "static"\ndata = []\n', "data must name at least one source"),
        ("name = ", "no readable TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_by_key_and_file(tmp_path: Path, text: str, message: str):
    path = write(tmp_path, text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value) or "TOML" in message


DEFAULTS = Recipe(name="x", family="static", data=(DataRecipe(path="sample"),))
SECTIONS = {
    "classifier": ClassifierRecipe,
    "student.body": BodyRecipe,
    **{entry.name: type(getattr(DEFAULTS, entry.name)) for entry in dataclasses.fields(DEFAULTS)},
}
NEEDED = ["classifier.mode=zero-shot", "classifier.labelled=x", "student.body.width=64"]
NUMBERS = [("seed", "int")] + [
    (f"{name}.{entry.name}", entry.type)
    for name, section in SECTIONS.items()
    if dataclasses.is_dataclass(section)
    for entry in dataclasses.fields(section)
    if entry.type in ("int", "float")
]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
@pytest.mark.parametrize("key", [key for key, kind in NUMBERS if kind == "float"])
def test_no_float_is_infinite_or_none(tmp_path: Path, key: str, value: str):
    with pytest.raises(RecipeError, match=rf"{key} is -?(nan|inf); it must be a finite number"):
        load_recipe(write(tmp_path, GOOD), overrides=[*NEEDED, f"{key}={value}"])


@pytest.mark.parametrize(("key", "kind"), NUMBERS)
def test_every_number_has_a_range_and_says_it(tmp_path: Path, key: str, kind: str):
    value = "-1.0" if kind == "float" else "-1"
    with pytest.raises(RecipeError, match=rf"recipe\.toml: {key} is {value}; it must lie in [\[(]"):
        load_recipe(write(tmp_path, GOOD), overrides=[*NEEDED, f"{key}={value}"])


def test_paths_in_the_home_folder_are_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, GOOD.replace("sample", "~/pairs/{language}.tsv") + '[student]\nstart = "~/before"\n')
    second = tmp_path / "second.toml"
    second.write_text(
        'base = "~/recipe.toml"\ndata_dir = "~"\nrefuse_overlap = ["~/eval/*", "a~/b"]\n', encoding="utf-8"
    )
    recipe = load_recipe(second, overrides=["teacher.model=~/teacher"])
    assert (recipe.data_dir, recipe.data[0].path) == (str(tmp_path), f"{tmp_path}/pairs/{{language}}.tsv")
    assert (recipe.student.start, recipe.teacher.model) == (f"{tmp_path}/before", f"{tmp_path}/teacher")
    assert recipe.refuse_overlap == (f"{tmp_path}/eval/*", "a~/b")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("validation.permille=5000", r"validation\.permille is 5000; it must lie in \[0, 1000\)"),
        ("train.temperature=0", r"train\.temperature is 0\.0; it must lie in \(0, 1\]"),
        ("vocabulary.temperature=0", r"vocabulary\.temperature is 0\.0; it must lie in \(0, 1\]"),
        ("student.layers=[0, -1]", r"student\.layers is -1; it must lie in \[0, inf\)"),
        ("data=[{path='sample', weights={web=-1}}]", r"data\[0\]\.weights is -1\.0; it must lie in \[0, inf\)"),
        ("data=[{path='sample', weights={web=nan}}]", r"data\[0\]\.weights\.web is nan"),
        ("train.cycles=7", r"train\.cycles is 7; it must divide steps, 1000"),
        ("name=" + "[" * 20_000, "is too long or nested too deep"),
        ("seed=" + "1" * 5_000, "seed is too long or nested too deep"),
        ("train.table_rate=1" + "0" * 400, r"train\.table_rate is too large"),
        ('name="two\\nlines"', r"name is .*; it must be one line of text"),
        ("name=' '", "name is ' '; it must be one line of text"),
        ("data_dir='~nobody-of-that-name/x'", "data_dir is .*there is no home folder of that user"),
        ("data=[{path='~nobody-of-that-name/x'}]", r"data\[0\].path is .*there is no home folder of that user"),
        ('student.start="a\\u0000b"', "it must hold no NUL"),
    ],
)
def test_a_value_out_of_range_is_refused_by_key_value_and_range(tmp_path: Path, override: str, message: str):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, GOOD), overrides=[override])


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path):
    assert load_recipe(write(tmp_path, "\ufeff" + GOOD)) == load_recipe(write(tmp_path, GOOD))


def test_a_recipe_that_cannot_be_read_is_one_line(tmp_path: Path):
    for text in (GOOD + "x = " + "[" * 20_000, GOOD + "x = " + "{a = " * 20_000):
        with pytest.raises(RecipeError, match="no readable TOML"):
            load_recipe(write(tmp_path, text))
    for path in (tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(RecipeError, match=r"cannot be read \(\w") as caught:
            load_recipe(path)
        assert "Errno" not in str(caught.value)


def test_a_recipe_says_only_what_it_changes_of_its_base(tmp_path: Path):
    write(tmp_path, GOOD + "[train]\nsteps = 10\nbatch_size = 8\n")
    second = tmp_path / "second.toml"
    second.write_text('base = "recipe.toml"\nseed = 2\n[train]\nsteps = 5\n', encoding="utf-8")
    recipe = load_recipe(second)
    assert (recipe.name, recipe.seed, recipe.train.steps, recipe.train.batch_size) == ("x", 2, 5, 8)
    write(tmp_path, 'base = "second.toml"\n')
    with pytest.raises(RecipeError, match=r"base is 'second\.toml'; name another"):
        load_recipe(second)
    (tmp_path / "recipe.toml").unlink()
    with pytest.raises(RecipeError, match="there is no recipe"):
        load_recipe(second)


def test_a_recipe_has_a_body_and_a_classifier_only_where_it_says_so(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, GOOD))
    assert (recipe.student.body, recipe.classifier) == (None, None)
    assert (recipe_record(recipe)["student"]["body"], recipe_record(recipe)["classifier"]) == (None, None)
    own = GOOD + '[student.body]\nwidth = 64\nlayers = 2\n[classifier]\nmode = "language"\n'
    recipe = load_recipe(write(tmp_path, own))
    assert recipe.student.body == BodyRecipe(width=64, layers=2)
    assert recipe.classifier == ClassifierRecipe(mode="language")
    assert recipe_record(recipe)["student"]["body"] == {"width": 64, "layers": 2, "heads": 4, "feed_forward": 1024}


def test_a_recipe_can_switch_off_the_body_of_its_base_and_the_classifier(tmp_path: Path):
    write(tmp_path, GOOD + '[student]\nmax_tokens = 32\n[student.body]\nwidth = 64\n[classifier]\nmode = "language"\n')
    second = tmp_path / "second.toml"
    second.write_text('base = "recipe.toml"\n[student.body]\nwidth = 0\n[classifier]\nmode = ""\n', encoding="utf-8")
    recipe = load_recipe(second)
    assert (recipe.student.body, recipe.student.max_tokens, recipe.classifier) == (None, 32, None)


def test_a_missing_recipe_and_a_bare_override_are_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match="there is no recipe"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="--set key=value"):
        load_recipe(write(tmp_path, GOOD), overrides=["train.steps"])
    with pytest.raises(RecipeError, match="did you mean train"):
        load_recipe(write(tmp_path, GOOD), overrides=["trian.steps=3"])


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[1].glob("examples/recipes/*.toml")), ids=lambda p: p.stem
)
def test_every_example_recipe_is_read(path: Path):
    recipe = load_recipe(path)
    assert recipe.data
    assert recipe.name


WRITER = """
name = "gist"
task = "translate"

[[data]]
path = "pairs.tsv"

[student]
encoder = "kdserve-base"
"""


def test_a_task_makes_it_the_recipe_of_a_student_that_writes(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, WRITER), overrides=["train.decoder_rate=5e-4"])
    assert isinstance(recipe, SequenceRecipe)
    assert recipe.train.decoder_rate == 5e-4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("family=static", "unknown key family"),
        ("task=sing", "task is 'sing'; choose one of translate, summarise"),
        ("student.start=before", "student.start has a body already"),
        ("student.decoder_layers=[0]", "student.decoder_layers goes with a teacher's layers"),
        ("student.encoder=", "teacher.model is missing"),
        ("teacher.candidates=5", "teacher.candidates must be num_beams at most"),
        ("objective.alpha=0.5", "objective.alpha needs a teacher"),
        ("validation.questions=eval", "validation.questions needs a student that embeds"),
        ("objective.map=[[0, 0]]", "objective.map and hidden or attention go together"),
        ("train.source_share=0.1", "unknown key train.source_share"),
        ("filter.max_ratio=0.5", "filter.max_ratio must be 0 or above 1"),
    ],
)
def test_a_recipe_of_a_student_that_writes_is_read_as_strictly(tmp_path: Path, override: str, message: str):
    path = write(tmp_path, WRITER)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path, overrides=[override])


def test_weak_languages_are_not_covered_too(tmp_path: Path):
    weak = load_recipe(write(tmp_path, GOOD), overrides=['weak_languages=["et"]'])
    assert weak.covered(["", "de", "et"]) == ("de",)
    named = load_recipe(write(tmp_path, GOOD), overrides=['languages=["fr", "de", "de"]'])
    assert named.covered(["de", "es", "fr"]) == ("de", "fr")
