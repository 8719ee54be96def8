"""Both exact searchers against the plainest possible search, on data full of ties."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdserve.search.backends.exact import ExactSearcher
from kdserve.search.backends.faiss import FlatSearcher
from kdserve.search.backends.topk import SearchedSegment, nearest
from kdserve.search.backends.vectors import VectorFile, encode_rows, row_dtype, write_sums


def vector_file(folder, vectors, precision="float32"):
    (folder / "vectors").write_bytes(encode_rows(vectors, precision).tobytes())
    write_sums(folder / "vectors", folder / "sums", row_dtype(precision, vectors.shape[1]).itemsize)
    return VectorFile(
        folder / "vectors", folder / "sums", precision=precision, dim=vectors.shape[1], num_rows=len(vectors)
    )


def plain(queries, vectors, k, allowed, owners):
    """Score everything in float64, sort by score and row, keep the first row of each owner."""
    scores = np.einsum("nd,bd->bn", vectors, queries, dtype=np.float64).astype(np.float32)
    answers = []
    for row_scores in scores:
        best, seen = [], set()
        for row in sorted(range(len(vectors)), key=lambda row: (-row_scores[row], row)):
            if allowed[row] and owners[row] not in seen and len(best) < k:
                seen.add(owners[row])
                best.append((row, float(row_scores[row])))
        answers.append(best)
    return answers


def as_pairs(neighbours):
    return [
        [(row, score) for row, score in zip(rows, scores, strict=True) if row >= 0]
        for rows, scores in zip(neighbours.rows.tolist(), neighbours.scores.tolist(), strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_rows=st.integers(1, 400),
    num_different=st.integers(1, 40),
    k=st.integers(1, 30),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    split=st.booleans(),
    precision=st.sampled_from(["float32", "int8"]),
)
def test_searchers_agree_with_brute_force(tmp_path_factory, seed, num_rows, num_different, k, share, split, precision):
    random = np.random.default_rng(seed)
    different = random.standard_normal((num_different, 16)).astype(np.float32)
    different /= np.linalg.norm(different, axis=1, keepdims=True)
    vectors = different[random.integers(0, num_different, num_rows)]
    queries = np.concatenate([different[:2], random.standard_normal((3, 16)).astype(np.float32)])
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    allowed = random.random(num_rows) < share
    owners = np.sort(random.integers(0, num_rows, num_rows)).astype(np.int32) if split else np.arange(num_rows)
    file = vector_file(tmp_path_factory.mktemp("vectors"), vectors, precision)
    stored = file.slice(0, num_rows)
    for searcher in (ExactSearcher(file), FlatSearcher(file)):
        source = SearchedSegment(
            searcher=searcher,
            vectors=file,
            first_row=0,
            num_rows=num_rows,
            allowed=None if share == 1 else allowed,
            owners=owners if split else None,
        )
        mask = np.ones(num_rows, bool) if share == 1 else allowed
        assert as_pairs(nearest(queries, [source], k)) == plain(queries, stored, k, mask, owners)


def test_several_sources_answer_as_one(tmp_path):
    random = np.random.default_rng(3)
    vectors = random.standard_normal((90, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[50:60] = vectors[5]
    sources = []
    for start, stop in ((0, 20), (20, 55), (55, 90)):
        folder = tmp_path / str(start)
        folder.mkdir()
        file = vector_file(folder, vectors[start:stop])
        searcher = ExactSearcher(file) if start else FlatSearcher(file)
        sources.append(
            SearchedSegment(
                searcher=searcher, vectors=file, first_row=start, num_rows=stop - start, allowed=None, owners=None
            )
        )
    answer = as_pairs(nearest(vectors[:8], sources, 15))
    assert answer == plain(vectors[:8], vectors, 15, np.ones(90, bool), np.arange(90))


def test_int8_rows_come_back_within_half_a_step():
    vectors = np.random.default_rng(0).standard_normal((50, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    from kdserve.search.backends.vectors import decode_rows

    error = np.abs(decode_rows(encode_rows(vectors, "int8")) - vectors)
    assert (error <= np.abs(vectors).max(axis=1, keepdims=True) / 127 * 0.5001).all()
