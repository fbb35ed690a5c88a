from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synboot.pairs.neighbours.exact import ExactIndex
from synboot.pairs.neighbours.index import Neighbours, ReferenceIndex

BLOCKS = st.integers(1, 9)


@st.composite
def vector_sets(draw: st.DrawFn) -> np.ndarray:
    """Few distinct values in few dimensions: many exact ties, duplicates and zero vectors."""
    shape = (draw(st.integers(1, 24)), draw(st.integers(1, 3)))
    return draw(arrays(np.int64, shape, elements=st.integers(-2, 2))).astype(np.float32) / 2


def assert_same(found: Neighbours, expected: Neighbours) -> None:
    assert found.documents.dtype == expected.documents.dtype == np.int64
    assert found.similarities.dtype == expected.similarities.dtype == np.float32
    np.testing.assert_array_equal(found.documents, expected.documents)
    np.testing.assert_array_equal(found.similarities, expected.similarities)


def brute_force(vectors: np.ndarray, query: int, k: int) -> list[tuple[int, float]]:
    """Python's own sort over Python's own sums."""
    rows = vectors.tolist()
    products = [sum(a * b for a, b in zip(rows[query], row, strict=True)) for row in rows]
    return sorted(
        ((d, p) for d, p in enumerate(products) if d != query),
        key=lambda found: (-found[1], found[0]),
    )[:k]


@settings(max_examples=200, deadline=None)
@given(vectors=vector_sets(), k=st.integers(1, 30), query_block=BLOCKS, document_block=BLOCKS)
def test_exact_equals_reference_equals_brute_force(
    vectors: np.ndarray, k: int, query_block: int, document_block: int
) -> None:
    index = ExactIndex(vectors, query_block=query_block, document_block=document_block)
    found = index.search(0, len(vectors), k)
    assert_same(found, ReferenceIndex(vectors).search(0, len(vectors), k))
    for query in range(len(vectors)):
        expected = brute_force(vectors, query, k)
        missing = k - len(expected)
        assert found.documents[query].tolist() == [d for d, _ in expected] + [-1] * missing
        assert found.similarities[query].tolist() == [p for _, p in expected] + [-np.inf] * missing


@settings(max_examples=60, deadline=None)
@given(vectors=vector_sets(), k=st.integers(1, 6), data=st.data())
def test_a_range_equals_its_part_of_the_whole(
    vectors: np.ndarray, k: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(vectors)))
    stop = data.draw(st.integers(first, len(vectors)))
    index = ExactIndex(vectors, query_block=3, document_block=5)
    whole, part = index.search(0, len(vectors), k), index.search(first, stop, k)
    assert_same(part, Neighbours(whole.documents[first:stop], whole.similarities[first:stop]))


@pytest.mark.parametrize(
    ("query_block", "document_block"), [(512, 8192), (17, 33), (1, 7), (64, 1)]
)
def test_equal_vectors_tie_whatever_the_blocks(query_block: int, document_block: int) -> None:
    """Real-valued vectors, each twice: their products must tie to the last bit."""
    half = np.random.default_rng(0).normal(size=(90, 48)).astype(np.float32)
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    vectors = np.concatenate([half, half])
    index = ExactIndex(vectors, query_block=query_block, document_block=document_block)
    found = index.search(0, len(vectors), 8)
    assert_same(found, ReferenceIndex(vectors).search(0, len(vectors), 8))
    twins = (np.arange(180) + 90) % 180
    np.testing.assert_array_equal(found.documents[:, 0], twins)
    assert (found.documents != np.arange(180)[:, None]).all()
    # After the twin, both copies of the next document, the smaller first.
    np.testing.assert_array_equal(found.documents[:, 1] + 90, found.documents[:, 2])
    np.testing.assert_array_equal(found.similarities[:, 1], found.similarities[:, 2])


def test_never_itself_among_copies_of_itself() -> None:
    vectors = np.ones((9, 4), dtype=np.float32)
    found = ExactIndex(vectors, document_block=2).search(0, 9, 3)
    expected = [[d for d in range(9) if d != query][:3] for query in range(9)]
    assert found.documents.tolist() == expected


def test_fewer_than_k_others() -> None:
    vectors = np.eye(3, dtype=np.float32)
    found = ExactIndex(vectors).search(0, 3, 5)
    assert found.documents.tolist() == [[1, 2, -1, -1, -1], [0, 2, -1, -1, -1], [0, 1, -1, -1, -1]]
    assert found.similarities[:, :2].tolist() == [[0, 0]] * 3
    assert np.isneginf(found.similarities[:, 2:]).all()
    alone = ExactIndex(vectors[:1]).search(0, 1, 2)
    assert alone.documents.tolist() == [[-1, -1]]


def test_zero_vectors_are_related_to_nothing_and_break_nothing() -> None:
    vectors = np.array([[1, 0], [0, 0], [1, 0], [0, 0], [-1, 0]], dtype=np.float32)
    found = ExactIndex(vectors, document_block=2).search(0, 5, 4)
    assert found.documents[1].tolist() == [0, 2, 3, 4]
    assert found.similarities[1].tolist() == [0, 0, 0, 0]
    assert found.documents[0].tolist() == [2, 1, 3, 4]


def test_ties_across_the_last_place_are_settled_whatever_the_blocks() -> None:
    """Five copies of each vector, of which seven neighbours take some; blocks of 28 documents to
    all of them."""
    vectors = np.repeat(np.arange(40, dtype=np.float32)[::-1, None], 5, axis=0) / 64
    reference = ReferenceIndex(vectors).search(0, 200, 7)
    for document_block in (1000, 100, 30, 28):
        index = ExactIndex(vectors, query_block=50, document_block=document_block)
        assert_same(index.search(0, 200, 7), reference)


def test_reads_a_memory_map(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("vectors") / "vectors.npy"
    vectors = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    np.save(path, vectors)
    mapped = np.load(path, mmap_mode="r")
    found = ExactIndex(mapped, query_block=8, document_block=16).search(10, 40, 4)
    assert_same(found, ReferenceIndex(vectors).search(10, 40, 4))
