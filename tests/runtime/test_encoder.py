from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdserve.datatypes import Embedder, TokenBatch
from kdserve.errors import EncodeError, FolderError
from kdserve.runtime import Encoder
from kdserve.runtime.batches import canonical_length
from kdserve.runtime.session import Session
from kdserve.samples import parallel


def texts_of_many_lengths() -> list[str]:
    """480 texts in 12 languages, of 1 to 40 words, shuffled; one empty, one of spaces, two the same."""
    rng = random.Random(11)
    texts = ["", "   ", "same", "same"]
    for sentences in parallel().values():
        words = " ".join(sentences[:60]).split(" ")
        texts += [" ".join(rng.sample(words, min(len(words), rng.randint(1, 40)))) for _ in range(40)]
    rng.shuffle(texts)
    return texts


def test_a_text_has_one_vector_alone_in_any_batch_and_at_any_position(encoder: Encoder) -> None:
    texts = texts_of_many_lengths()
    together = encoder.encode_document(texts)
    alone = np.concatenate([encoder.encode_document([text]) for text in texts])
    backwards = encoder.encode_document(texts[::-1])[::-1]
    assert together.tobytes() == alone.tobytes() == np.ascontiguousarray(backwards).tobytes()


def test_a_static_text_has_one_vector_however_far_it_is_padded() -> None:
    bundle = Path(__file__).parent / "bundles" / "static"
    session, rng = Session(bundle / "model.onnx"), np.random.default_rng(3)
    for length in (1, 2, 7, 31, 64, 65, 130, 257):
        given = rng.integers(4, 200, (1, length))
        vectors = set()
        for width in {canonical_length(longer) for longer in range(length, 600, 3)}:
            padding = ((0, 2), (0, width - length))
            batch = TokenBatch(ids=np.pad(given, padding), mask=np.pad(np.ones_like(given), padding))
            vectors.add(session.run(batch)[0].tobytes())
        assert len(vectors) == 1


def test_a_text_has_one_vector_with_any_number_of_threads(bundle: Path) -> None:
    texts = texts_of_many_lengths() * 3
    vectors = [Encoder.load(bundle, num_threads=n).encode_document(texts).tobytes() for n in (1, 2, 5)]
    assert len(set(vectors)) == 1


def test_vectors_are_those_written_down_at_export(bundle: Path, canonical: dict) -> None:
    vectors = Encoder.load(bundle).encode_document(canonical["texts"])
    np.testing.assert_allclose(vectors, canonical["vectors"][bundle.name], atol=2e-5)


def test_vectors_are_float32_rows_of_unit_length(encoder: Encoder) -> None:
    vectors = encoder.encode_query(["a house", "ein Haus", "家"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, encoder.dim) == (3, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_an_empty_list_has_no_rows_but_the_width(encoder: Encoder) -> None:
    vectors = encoder.encode_document([])
    assert vectors.shape == (0, 64)
    assert vectors.dtype == np.float32


def test_a_bare_str_is_a_type_error(encoder: Encoder) -> None:
    with pytest.raises(TypeError, match="put it into a list"):
        encoder.encode_query("a house")


def test_a_lone_surrogate_is_refused_by_its_position(encoder: Encoder) -> None:
    with pytest.raises(EncodeError, match="text 1 is no valid Unicode"):
        encoder.encode_query(["fine", "\ud800"])


def test_cut_texts_are_counted_and_reported(encoder: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    encoder.encode_document(["short", "many words " * 100, "more words " * 100])
    assert encoder.num_cut == 2
    assert "2 of 3 texts were cut at 64 tokens" in caplog.text


def test_texts_cut_by_many_threads_are_all_counted(encoder: Encoder) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: encoder.encode_query(["short", "many words " * 100]), range(200)))
    assert encoder.num_cut == 200


def test_a_tokenized_text_has_the_vector_of_its_text_whatever_it_is_put_together_with(encoder: Encoder) -> None:
    texts = texts_of_many_lengths()
    requests = [encoder.tokenize(texts[start : start + 7], role="query") for start in range(0, len(texts), 7)]
    together = encoder.encode_tokens([ids for request in requests for ids in request.ids])
    assert together.tobytes() == encoder.encode_query(texts).tobytes()
    assert sum(sum(request.is_cut) for request in requests) > 0
    assert max(max(request.num_tokens) for request in requests) == encoder.max_tokens
    assert encoder.encode_tokens([]).shape == (0, encoder.dim)


@pytest.mark.parametrize("given", [tuple, iter, np.array, lambda texts: (text for text in texts)])
def test_anything_that_yields_texts_in_order_is_a_list_of_texts(encoder: Encoder, given: Any) -> None:
    texts = ["one", "two"]
    assert np.array_equal(encoder.encode_query(given(texts)), encoder.encode_query(texts))
    assert encoder.count_tokens(given(texts)) == encoder.count_tokens(texts)


@pytest.mark.parametrize("texts", [{"one": "two"}, {"one", "two"}, None, 3, b"one", ["one", None]])
def test_what_has_no_order_of_texts_is_a_type_error(encoder: Encoder, texts: Any) -> None:
    for entry in (encoder.encode_query, encoder.encode_document, encoder.count_tokens):
        with pytest.raises(TypeError, match=r"expected a sequence|is \w+, not str"):
            entry(texts)


def test_a_cut_text_equals_its_beginning() -> None:
    encoder = Encoder.load(Path(__file__).parent / "bundles" / "static")
    words = ["house " * n for n in (200, 300)]
    assert np.array_equal(encoder.encode_document(words[:1]), encoder.encode_document(words[1:]))


def test_progress_ends_at_the_number_of_texts(encoder: Encoder) -> None:
    calls: list[tuple[str, int, int]] = []
    encoder.encode_document(["a", "b", "c"], progress=lambda *call: calls.append(call))
    assert calls == [("embed", 3, 3)]


def test_an_encoder_is_an_embedder(encoder: Encoder) -> None:
    assert isinstance(encoder, Embedder)
    assert encoder.languages == ("en", "de", "ja", "ru")
    assert encoder.max_tokens == 64
    assert len(encoder.fingerprint) == 64


def test_cuda_that_is_not_there_is_an_error_and_no_fallback(bundle: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime offers CUDA")
    with pytest.raises(EncodeError, match="does not offer cuda"):
        Encoder.load(bundle, device="cuda")


def test_no_threads_and_more_than_can_be_are_refused(bundle: Path) -> None:
    for num_threads, mend in ((0, "give 1 or more"), (1025, "give 1024 or fewer")):
        with pytest.raises(EncodeError, match=f"num_threads is {num_threads}; {mend}"):
            Encoder.load(bundle, num_threads=num_threads)


def test_an_unknown_name_says_which_students_are_published() -> None:
    with pytest.raises(FolderError, match="nor a published student"):
        Encoder.load("no-such-student")


def test_a_graph_that_fails_is_an_error_of_ours(bundle: Path) -> None:
    session = Session(bundle / "model.onnx")
    beyond = TokenBatch(ids=np.full((1, 4), 10**6), mask=np.ones((1, 4), dtype=np.int64))
    with pytest.raises(EncodeError, match=r"the graph failed on a batch of shape \(1, 4\)"):
        session.run(beyond)
