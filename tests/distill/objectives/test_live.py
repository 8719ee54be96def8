from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from kdserve.distill import distill, prepare
from kdserve.distill.data.vocabulary import train_unigram
from kdserve.distill.objectives.live import LiveTeacher, state_loss
from kdserve.distill.start.fold import keep_folded
from kdserve.distill.start.ingredients import gather
from kdserve.distill.start.student import start_live, start_student
from kdserve.distill.students.adopt import adopt_vocabulary, adopted_table
from kdserve.distill.students.growth import grow
from kdserve.distill.teachers.embedder import Teacher, load_teacher
from kdserve.errors import DataError, RecipeError
from kdserve.recipe import Recipe
from kdserve.samples import parallel

WIDTH, LAYERS, SIZE = 32, 3, 700
LIVE = [
    "student.layers=[0, 2]",
    "vocabulary.folder=''",
    "vocabulary.of_teacher=true",
    "vocabulary.size=400",
    "targets={source=0, own=0.5, partner=0.5, queries=0.4}",
    "layers.map=[[0, 1], [1, 2]]",
    "layers.states=1.0",
    "objective.contrastive=0",
    "objective.translation=0.1",
    "train.table_rate=0",
]


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small multilingual teacher with XLM-R's special tokens, prompts, and random weights."""
    folder = tmp_path_factory.mktemp("teachers") / "multilingual"
    corpus = parallel()
    spec = json.loads(train_unigram([*corpus["en"], *corpus["de"], *corpus["ja"]], SIZE).to_str())
    pieces = [(piece, score) for piece, score in spec["model"]["vocab"][260:]]
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    tokenizer = Tokenizer(models.Unigram([*special, *pieces], unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.add_special_tokens([token for token, _ in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=len(special) + len(pieces),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=48,
        initializer_range=0.1,
        pad_token_id=1,
    )
    body, model = folder.with_name("body"), BertModel(config, add_pooling_layer=False)
    with torch.no_grad():  # texts differ by their words, not by their lengths
        model.embeddings.word_embeddings.weight *= 10
    model.save_pretrained(body)
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=48, **names).save_pretrained(body)
    modules = [Transformer(str(body), max_seq_length=48), Pooling(WIDTH, "mean"), Normalize()]
    prompts = {"query": "ask: ", "document": "told: "}
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save_pretrained(
        str(folder), create_model_card=False
    )
    return folder


@pytest.fixture
def live_recipe(tiny_recipe, teacher_folder: Path):
    def make(*overrides: str, steps: int = 4) -> Recipe:
        return tiny_recipe("transformer", steps=steps, overrides=[f"teacher.model={teacher_folder}", *LIVE, *overrides])

    return make


def test_text_whose_pieces_stay_is_cut_as_the_teacher_cuts_it_and_has_its_rows(teacher_folder: Path):
    teacher = Teacher(teacher_folder, device="cpu", batch_size=8)
    texts = [*parallel()["de"], *parallel()["ja"]]
    adopted = adopt_vocabulary(teacher.body_tokenizer, texts, 330)
    assert adopted.get_vocab_size() == 330
    assert [adopted.id_to_token(number) for number in range(4)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    scores = dict(json.loads(teacher.body_tokenizer.to_str())["model"]["vocab"])
    for piece, score in json.loads(adopted.to_str())["model"]["vocab"][4:]:
        assert np.float32(score) == np.float32(scores[piece])
        assert len(str(score)) <= 12  # the digits of single precision alone
    table, known = adopted_table(adopted, teacher), adopted.get_vocab()
    rows = teacher.body.get_input_embeddings().weight.detach()
    kept = 0
    for text in texts:
        theirs = teacher.body_tokenizer.encode(text)
        if set(theirs.tokens[1:-1]) <= set(known):
            ours = adopted.encode(text)
            assert ours.tokens[1:-1] == theirs.tokens[1:-1]
            torch.testing.assert_close(table[ours.ids], rows[theirs.ids])
            kept += 1
    assert kept > 50


def test_what_nobody_sees_is_dropped_before_the_teachers_own_rules(teacher_folder: Path):
    texts = [*parallel()["en"], *parallel()["de"]]
    teacher = Teacher(teacher_folder, device="cpu", batch_size=8)
    adopted = adopt_vocabulary(teacher.body_tokenizer, texts, 200)
    for text in texts[::40]:
        middle = len(text) // 2
        for invisible in ("\u200e", "\u00ad", "\ufeff", "\u2060"):
            marked = text[:middle] + invisible + text[middle:]
            assert adopted.encode(marked).ids == adopted.encode(text).ids, repr(marked)
        assert adopted.encode(text.replace(" ", "\u200b")).ids == adopted.encode(text).ids


def test_more_tokens_than_the_texts_hold_are_refused(teacher_folder: Path):
    tokenizer = Teacher(teacher_folder, device="cpu", batch_size=8).body_tokenizer
    with pytest.raises(DataError, match=r"set vocabulary\.size to"):
        adopt_vocabulary(tokenizer, ["Ja."], 300)
    with pytest.raises(RecipeError, match="WordPiece"):
        adopt_vocabulary(Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")), ["Ja."], 300)


def test_the_live_teacher_gives_the_teachers_own_vectors_under_its_prompts(tmp_path: Path, live_recipe):
    recipe = live_recipe("vocabulary.size=405", "student.max_tokens=48")
    made = gather(recipe, tmp_path)
    live = start_live(recipe, made.tokenizer, teacher=made.teacher)
    assert isinstance(live, LiveTeacher)
    numbers = np.arange(len(made.corpus.source_of) + len(made.corpus.sources))
    texts = [*made.corpus.translations.select(range(240)), *made.corpus.sources.select(range(len(numbers) - 240))]
    whole = [
        number
        for number, text in enumerate(texts)
        if set(made.teacher.body_tokenizer.encode(text).tokens[1:-1]) <= set(made.tokenizer.get_vocab())
        and len(made.teacher.body_tokenizer.encode(text).ids) < 36
    ]
    assert len(whole) > 20
    chosen = numbers[whole]
    for queries, embed in ((True, made.teacher.encode_query), (False, made.teacher.encode_document)):
        ids, mask = made.data.tokens.padded(chosen, wrap=True, queries_B=np.full(len(chosen), queries))
        ours = live.teach(ids, mask).vectors_BD.numpy()
        np.testing.assert_allclose(ours, embed([texts[number] for number in whole]), atol=1e-5)


def test_a_target_is_the_mean_of_a_texts_own_vector_and_its_partners(tmp_path: Path, live_recipe):
    recipe = live_recipe("targets.own=3", "targets.partner=1")
    made = gather(recipe, tmp_path)
    live = start_live(recipe, made.tokenizer, teacher=made.teacher)
    taught = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = torch.tensor([[3.0, 1.0], [1.0, 3.0]]) / 10**0.5
    torch.testing.assert_close(live.targets(taught, torch.tensor([1, 0])), expected)


def test_centring_takes_off_what_tells_the_languages_apart(tmp_path: Path, live_recipe):
    recipe = live_recipe("targets.centred=true", "targets.own=1", "targets.partner=0", "objective.translation=0")
    run = prepare(recipe, tmp_path)
    corpus, tokens, live = run.data.corpus, run.data.tokens, run.task.live
    apart = {}
    for centred in (False, True):
        means = []
        for number, _ in enumerate(corpus.languages):
            texts = np.flatnonzero(corpus.language_of == number)
            ids, mask = tokens.padded(texts, wrap=True, queries_B=np.zeros(len(texts), dtype=bool))
            places = torch.tensor([[number, 0]] * len(texts)) if centred else None
            means.append(live.targets(live.teach(ids, mask).vectors_BD, None, places).mean(dim=0))
        apart[centred] = (means[0] - means[1]).norm().item()
    assert apart[True] < 0.3 * apart[False], apart
    again = prepare(recipe, tmp_path).task.live
    torch.testing.assert_close(again.centres_LRD, live.centres_LRD)  # as they were measured, from the work folder


def test_states_of_padding_do_not_count():
    theirs = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    ours = theirs.clone()
    ours[0, 2] += 100.0
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert state_loss(ours, theirs, mask) == 0
    mean = theirs[mask.bool()].mean(dim=0)
    assert state_loss(mean.expand(2, 3, 4), theirs, mask).item() == pytest.approx(1.0)


ALONE = ["targets.partner=0", "objective.translation=0", "objective.relational=0.1"]


@pytest.mark.parametrize(
    ("overrides", "falling"),
    [(ALONE, ["states", "cosine", "relational"]), (["layers.states=0", "train.joined=0.5"], ["translation"])],
)
def test_training_beside_the_teacher_lowers_the_losses_and_leaves_the_table(
    tmp_path: Path, live_recipe, overrides: list[str], falling: list[str]
):
    recipe = live_recipe("train.body_rate=5e-4", *overrides, steps=40)
    run = prepare(recipe, tmp_path)
    before = run.encoder.table.detach().clone()
    run.train()
    assert torch.equal(run.encoder.table, before)
    rows = [json.loads(line) for line in (tmp_path / "train" / "log.jsonl").read_text().splitlines()]
    for name in falling:
        assert rows[-1][name] < 0.9 * rows[1][name], name


def test_folded_layers_are_nearer_to_the_teachers_and_are_kept(tmp_path: Path, live_recipe):
    recipe = live_recipe("align.fold_texts=160", "layers.map=[[0, 1], [1, 2]]")
    made = gather(recipe, tmp_path)
    student = start_student(recipe, made, tmp_path)
    live = start_live(recipe, made.tokenizer, teacher=made.teacher)
    ids, mask = made.data.tokens.padded(np.arange(100, 160), wrap=True)
    before, taught = student(ids, mask), live.teach(ids, mask)
    keep_folded(recipe, made, student, live, tmp_path)
    after = student(ids, mask)
    for layer in (1, 2):
        theirs = taught.hidden_BTW[layer + 1]
        errors = [state_loss(one.hidden_BTW[layer], theirs, mask).item() for one in (before, after)]
        assert errors[1] < 0.8 * errors[0], errors
    again = start_student(recipe, made, tmp_path)
    keep_folded(recipe, made, again, live, tmp_path)
    torch.testing.assert_close(again(ids, mask).vectors_BD, after.vectors_BD)


def test_folded_layers_depend_on_what_the_recipe_says_alone(tmp_path: Path, live_recipe):
    def folded(work: str, *overrides: str) -> torch.Tensor:
        recipe = live_recipe("align.fold_texts=96", "layers.map=[[0, 1], [1, 2]]", *overrides)
        made = gather(recipe, tmp_path / work)
        student = start_student(recipe, made, tmp_path / work)
        live = start_live(recipe, made.tokenizer, teacher=made.teacher)
        keep_folded(recipe, made, student, live, tmp_path / work)
        return student.body.encoder.layer[1].output.dense.weight.detach()

    for number, override in enumerate(["student.table_bits=4", "train.batch_by=tokens", "student.dropout=0.3"]):
        folded("kept")
        assert torch.equal(folded("kept", override), folded(f"fresh-{number}", override))
    assert torch.equal(folded("kept"), folded("fresh-2"))


def test_the_student_keeps_the_prompts_and_the_vectors(tmp_path: Path, live_recipe):
    recipe = live_recipe()
    distill(recipe, tmp_path / "student", work=tmp_path / "work")
    model = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert model.prompts["query"] == "ask: "
    assert model.prompts["document"] == "told: "
    made = gather(recipe, tmp_path / "again")
    ids, _ = made.data.tokens.padded(np.array([3]), wrap=True)
    text = made.corpus.translations[3]
    assert made.tokenizer.encode("ask: " + text).ids[: ids.shape[1] - 1] == ids[0, :-1].tolist()


def test_a_student_that_goes_on_or_grows_keeps_its_prompts(tmp_path: Path, live_recipe, tiny_recipe, teacher_folder):
    first, second, grown = (tmp_path / name for name in ("first", "second", "grown"))
    distill(live_recipe(steps=2), first)
    onwards = [f"teacher.model={teacher_folder}", f"student.start={first}", "vocabulary.folder=''"]
    distill(tiny_recipe("transformer", steps=2, overrides=onwards), second)
    grow(first, grown, layers=3, width=0)
    for folder in (second, grown):
        prompts = SentenceTransformer(str(folder), device="cpu").prompts
        assert (prompts["query"], prompts["document"]) == ("ask: ", "told: ")


def test_a_student_goes_on_beside_the_teacher_whose_table_stays_its_own(tmp_path: Path, live_recipe):
    distill(live_recipe("train.table_rate=0.05", "train.body_rate=1e-3", steps=4), tmp_path / "first")
    recipe = live_recipe(f"student.start={tmp_path / 'first'}")
    run = prepare(recipe, tmp_path / "work")
    rows = run.task.live.encoder.table
    assert torch.equal(rows, adopted_table(run.tokenizer, load_teacher(recipe.teacher.model)))
    assert not torch.equal(run.encoder.table, rows)
    run.train()
    with pytest.raises(RecipeError, match="the teacher has no token"):
        adopted_table(train_unigram(parallel()["ja"], 600), load_teacher(recipe.teacher.model))


@pytest.mark.parametrize(
    ("override", "wrong"),
    [
        ("vocabulary.of_teacher=false", "targets.own needs vocabulary.of_teacher"),
        ("targets={source=1.0, own=1.0}", "targets.source must be 0"),
        ("targets={source=0}", "targets.source must be above 0"),
        ("targets={source=1}", "layers.states needs targets.own"),
        ("align.body_steps=10", "align.body_steps must be 0"),
        ("train={joined=0.5, split_tokens=0.1}", "train.joined needs train.split_tokens = 0"),
        ("train.batch_size=15", "train.batch_size must be even"),
        ("student.body.width=32", "vocabulary.of_teacher needs layers"),
    ],
)
def test_recipes_that_do_not_fit_together_are_refused(live_recipe, override: str, wrong: str):
    with pytest.raises(RecipeError, match=wrong):
        live_recipe(override)
