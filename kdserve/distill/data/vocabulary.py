"""A vocabulary made for a set of languages: Unigram (Kudo 2018) by SentencePiece, and what it covers.

Text is read as `kdserve.runtime.normalizer` says: what nobody sees is dropped, the rest NFKC-normalised and lowercased.
Punctuation and digits stand alone; each of them and each word begins with "▁".
Nothing is ever unknown: a character outside the vocabulary falls back to its UTF-8 bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.corpus import SOURCE, Corpus
from kdserve.distill.data.sampling import language_shares
from kdserve.distill.streams import Stream, random_stream
from kdserve.errors import DataError, FolderError
from kdserve.recipe import Recipe, VocabularyRecipe
from kdserve.recipe.sections import LEAST_VOCABULARY
from kdserve.runtime.library import open_normalizer, open_tokenizer
from kdserve.runtime.normalizer import NORMALIZER, with_present_normalizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PAD, UNK, CLS, SEP = range(4)
WORD_START = "▁"
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
_RARE = 3
"""Characters seen less often than this in the drawn sentences are left to byte fallback, and all beyond those that
half of the vocabulary can hold."""
_THREADS = 8  # whatever the machine: sums of another order would give other pieces
_WORD_END = "\ue000"
"""The trainer only proposes strings that are followed by different characters, but what follows a whole word is always
a space: without a second end, "▁always" would be cut to "▁alway" and "s", as nothing else begins so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How a vocabulary fits a language: tokens a word (by spaces), tokens a character, share of bytes and unknowns."""

    tokens_per_word: float
    tokens_per_character: float
    byte_share: float


def make_vocabulary(
    corpus: Corpus, recipe: Recipe, *, words: Sequence[str] = (), progress: Progress = no_progress
) -> Tokenizer:
    """Train the recipe's vocabulary on the corpus, or read the one that it names or that of the student it starts from.

    A trained one has a token for each of `words`.

    Raises:
        FolderError: the named folder has no readable tokenizer.json, or one of others.
        DataError: the corpus is too small for a vocabulary of that size.
    """
    settings = recipe.vocabulary
    if recipe.student.start:
        return read_own_vocabulary(Path(recipe.data_dir) / recipe.student.start, key="student.start")
    if settings.folder:
        return read_own_vocabulary(Path(recipe.data_dir) / settings.folder, key="vocabulary.folder")
    drawn = draw_sentences(corpus, settings, seed=recipe.seed)
    return train_unigram(drawn, settings.size, words=words, progress=progress)


def read_vocabulary(folder: Path, *, key: str) -> Tokenizer:
    """Return the tokenizer of a folder, cutting and padding nothing; `key` is the recipe's name for it.

    Raises:
        FolderError: it has no readable tokenizer.json.
    """
    path = folder / "tokenizer.json"
    try:
        spec = with_present_normalizer(json.loads(path.read_text(encoding="utf-8")))
        return open_tokenizer(json.dumps(spec))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise FolderError(f"{path} is no readable tokenizer ({error}); check {key}") from error


def read_own_vocabulary(folder: Path, *, key: str) -> Tokenizer:
    """Return the tokenizer of a folder whose special tokens are ours, as training puts them around texts by number.

    Raises:
        FolderError: as `read_vocabulary`, or it has other tokens in their places.
    """
    tokenizer = read_vocabulary(folder, key=key)
    first = [tokenizer.id_to_token(number) for number in range(len(SPECIAL_TOKENS))]
    if first != list(SPECIAL_TOKENS):
        raise FolderError(
            f"{folder} begins its vocabulary with {' '.join(map(str, first))}, not {' '.join(SPECIAL_TOKENS)}, so no "
            f"student can be trained on it ({key}); name it as teacher.model (vocabulary.of_teacher keeps its tokens)"
        )
    return tokenizer


def draw_sentences(corpus: Corpus, settings: VocabularyRecipe, *, seed: int) -> list[str]:
    """Draw training sentences, languages in proportion to (their pairs) ** temperature, sources at `source_share`."""
    rng = random_stream(Stream.VOCABULARY_SENTENCES, seed)
    pairs = corpus.training_pairs()
    languages = corpus.language_of[pairs]
    texts: list[str] = []
    for language, share in language_shares(languages, temperature=settings.temperature).items():
        members = pairs[languages == language]
        wanted = round(share * (1 - settings.source_share) * settings.sentences)
        texts += corpus.translations.select(rng.permutation(members)[:wanted])
    sources = np.flatnonzero(~corpus.held_out)
    wanted = round(settings.source_share * settings.sentences)
    texts += corpus.sources.select(rng.permutation(sources)[:wanted])
    return texts


def train_unigram(
    texts: Sequence[str],
    size: int,
    *,
    words: Sequence[str] = (),
    key: str = "vocabulary.size",
    progress: Progress = no_progress,
) -> Tokenizer:
    """Train a Unigram vocabulary of exactly `size` tokens: specials, 256 bytes and `words` among them.

    `key` is the recipe's for the size.

    Raises:
        DataError: the texts do not hold that many pieces, or the words leave no room for them.
    """
    tokenizer = _empty_tokenizer(models.Unigram())
    normalise, split = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    lines, counts = [], Counter[str]()
    for number, text in enumerate(texts):
        if number % 50_000 == 0:
            progress("splitting texts into words", number, len(texts))
        lines.append(" ".join(word.removeprefix(WORD_START) for word, _ in split(normalise(text))))
        counts.update(lines[-1])
    wanted = size - len(BYTE_TOKENS) - len(SPECIAL_TOKENS)
    threshold = min(_RARE, 1 + len(texts) // 1000)
    frequent = {character for character, count in counts.most_common(wanted // 2) if count >= threshold}
    rare = {ord(character): None for character in counts.keys() - frequent - {" "}}
    lines = [line.translate(rare) for line in lines]
    in_lines = Counter(word for line in lines for word in line.split())
    ends = [word + _WORD_END for word, count in in_lines.items() if count > threshold]
    pieces = _train_pieces([*lines, *ends], wanted, progress)
    if len(pieces) < wanted:
        most = len(pieces) + len(BYTE_TOKENS) + len(SPECIAL_TOKENS)
        raise too_few_tokens(most, size, key)
    pieces.sort(key=lambda item: (len(item[0]) > 1, -item[1]))  # single characters first: they cover the texts
    return assemble_unigram(_add_words(pieces[:wanted], words))


def too_few_tokens(most: int, size: int, key: str = "vocabulary.size") -> DataError:
    """Return the error of texts that hold `most` tokens where the recipe's `key` wants `size`."""
    advice = "give more texts" if most < LEAST_VOCABULARY else f"set {key} to {most} or less"
    return DataError(f"the texts hold only {most} tokens, not {size}; {advice}")


def _add_words(pieces: list[tuple[str, float]], words: Sequence[str]) -> list[tuple[str, float]]:
    """Put words in the place of the last pieces; each is a little likelier than the best cut of its letters."""
    scores = dict(pieces)
    tokenizer = assemble_unigram(pieces)
    lowest = min(scores.values(), default=0.0)
    missing = [word for word in dict.fromkeys(words) if WORD_START + word not in scores]
    if len(missing) > len(pieces) // 2:
        raise DataError(f"{len(missing)} words of the teacher's leave too little room; raise vocabulary.size")
    cuts = tokenizer.encode_batch(missing, add_special_tokens=False)
    added = [
        (WORD_START + word, sum(scores.get(piece, lowest) for piece in cut.tokens) + 0.5)
        for word, cut in zip(missing, cuts, strict=True)
    ]
    return pieces[: len(pieces) - len(added)] + added


def _train_pieces(lines: Sequence[str], wanted: int, progress: Progress) -> list[tuple[str, float]]:
    """Return pieces and their log probabilities, about as many as wanted."""
    import sentencepiece

    def shown() -> Iterator[str]:
        for number, line in enumerate(lines):
            if number % 50_000 == 0:
                progress("training the vocabulary", number, len(lines))
            yield line

    written = BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=shown(),
            model_writer=written,
            model_type="unigram",
            vocab_size=wanted + 1 + wanted // 40,  # some pieces hold a word's end
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",
            split_by_unicode_script=False,
            split_by_number=False,
            max_sentencepiece_length=20,
            max_sentence_length=1_000_000,
            num_threads=_THREADS,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(f"no vocabulary could be made of the texts ({error}); give more of them") from error
    progress("training the vocabulary", len(lines), len(lines))
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    pieces = [(model.id_to_piece(number), model.get_score(number)) for number in range(1, model.get_piece_size())]
    return [(piece, score) for piece, score in pieces if _WORD_END not in piece]


def assemble_unigram(pieces: Sequence[tuple[str, float]]) -> Tokenizer:
    """Make a tokenizer of pieces with log probabilities: specials, bytes, then the pieces."""
    lowest = min((score for _, score in pieces), default=0.0) - 10.0
    vocabulary = [(token, 0.0) for token in SPECIAL_TOKENS]
    vocabulary += [(token, lowest) for token in BYTE_TOKENS]
    vocabulary += [(piece, round(score, 4)) for piece, score in pieces]
    return with_specials(_empty_tokenizer(models.Unigram(vocabulary, unk_id=UNK, byte_fallback=True)))


def with_specials(tokenizer: Tokenizer) -> Tokenizer:
    """Let a tokenizer, whose first pieces they are, write [CLS] text [SEP]; return it."""
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return tokenizer


def measure_coverage(tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]]) -> dict[str, Coverage]:
    """Measure the vocabulary on texts of each language."""
    return {language: _coverage(tokenizer, sentences) for language, sentences in texts.items() if sentences}


def sentences_by_language(corpus: Corpus, *, most: int, seed: int) -> dict[str, list[str]]:
    """Draw up to `most` translations of each language, and sources under the source language's code."""
    rng = random_stream(Stream.COVERAGE_SENTENCES, seed)
    drawn = {SOURCE: corpus.sources.select(rng.permutation(len(corpus.sources))[:most])}
    for number, language in enumerate(corpus.languages):
        if language:
            members = np.flatnonzero(corpus.language_of == number)
            drawn[language] = corpus.translations.select(rng.permutation(members)[:most])
    return drawn


def _coverage(tokenizer: Tokenizer, texts: Sequence[str]) -> Coverage:
    encodings: list[Any] = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    tokens = sum(len(encoding.ids) for encoding in encodings)
    unread = {UNK, *(tokenizer.token_to_id(token) for token in BYTE_TOKENS)}
    in_bytes = sum(sum(i in unread for i in encoding.ids) for encoding in encodings)
    return Coverage(
        tokens_per_word=round(tokens / sum(len(text.split()) for text in texts), 3),
        tokens_per_character=round(tokens / sum(map(len, texts)), 3),
        byte_share=round(in_bytes / max(1, tokens), 5),
    )


def _empty_tokenizer(model: models.Unigram) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = open_normalizer(NORMALIZER)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer
