"""Whatever computes the candidates, what is found is the reference's, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synboot.core.errors import BadInput, SynbootError
from synboot.core.native import no_native
from synboot.pairs.neighbours import pool
from synboot.pairs.neighbours.device import DeviceIndex
from synboot.pairs.neighbours.exact import ExactIndex
from synboot.pairs.neighbours.index import Index, Neighbours, ReferenceIndex, sum_by_halves
from synboot.pairs.neighbours.lists import ListIndex, build_lists
from synboot.pairs.neighbours.pool import first_of_equals, similarities


def every_list(vectors: np.ndarray, k: int) -> Index:
    lists = build_lists(vectors, k, seed=0)
    return ListIndex(lists, vectors[lists.order], len(lists.centroids))


MAKERS: dict[str, Callable[[np.ndarray, int], Index]] = {
    "exact": lambda v, k: ExactIndex(v, query_block=5, document_block=7),
    "device": lambda v, k: DeviceIndex(v, "cpu", query_block=5, document_block=7),
    "device, one block": lambda v, k: DeviceIndex(v, "cpu"),
    "every list": every_list,
}
maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def assert_same(found: Neighbours, expected: Neighbours) -> None:
    np.testing.assert_array_equal(found.documents, expected.documents)
    assert found.similarities.tobytes() == expected.similarities.tobytes()


@st.composite
def vector_sets(draw: st.DrawFn) -> np.ndarray:
    """Distinct, equal, nearly equal, zero and tiny vectors."""
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 9)))
    vectors = np.random.default_rng(draw(st.integers(0, 99))).normal(size=shape)
    vectors = vectors.astype(np.float32)
    kinds = draw(arrays(np.int64, shape[0], elements=st.integers(0, 4)))
    for i, kind in enumerate(kinds.tolist()):
        if kind == 1:
            vectors[i] = vectors[0]
        elif kind == 2:
            vectors[i] = np.nextafter(vectors[0], np.float32(9))
        elif kind == 3:
            vectors[i] = -0.0 if i % 2 else 0
        elif kind == 4:
            vectors[i] *= np.float32(1e-22)
    return vectors


@maker
@settings(max_examples=60, deadline=None)
@given(vectors=vector_sets(), k=st.integers(1, 12), data=st.data())
def test_equals_the_reference(
    make: Callable[[np.ndarray, int], Index], vectors: np.ndarray, k: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(vectors)))
    stop = data.draw(st.integers(first, len(vectors)))
    found = make(vectors, k).search(first, stop, k)
    assert_same(found, ReferenceIndex(vectors).search(first, stop, k))


@maker
def test_equals_the_reference_on_many_unit_vectors(
    make: Callable[[np.ndarray, int], Index],
) -> None:
    """The k-th neighbours of random vectors are closer to the next than bfloat16 can tell."""
    vectors = np.random.default_rng(1).normal(size=(1500, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = make(vectors, 20).search(100, 300, 20)
    assert_same(found, ReferenceIndex(vectors).search(100, 300, 20))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_what_brute_force_finds() -> None:
    """In several blocks, with equal, nearly equal and zero vectors, and with a crowd of copies."""
    vectors = np.random.default_rng(3).normal(size=(3000, 96)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[1000:1100] = vectors[0]
    vectors[1100:1200] = np.nextafter(vectors[1], np.float32(9))
    vectors[1200:1203] = 0
    index = DeviceIndex(vectors, "cuda", query_block=256, document_block=1024)
    for first, stop in ((0, 300), (1000, 1300)):
        expected = ReferenceIndex(vectors).search(first, stop, 20)
        assert_same(index.search(first, stop, 20), expected)


@pytest.mark.parametrize(
    "make", [ExactIndex, lambda v: DeviceIndex(v, "cpu")], ids=["exact", "device"]
)
def test_what_can_be_found_is_looked_up_once(
    make: Callable[[np.ndarray], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(vectors: np.ndarray, k: int) -> np.ndarray | None:
        asked.append(k)
        return first_of_equals(vectors, k)

    for room in ("exact", "device"):
        monkeypatch.setattr(f"synboot.pairs.neighbours.{room}.first_of_equals", counted)
    vectors = np.random.default_rng(4).normal(size=(60, 4)).astype(np.float32)
    vectors[20:50] = vectors[0]
    index = make(vectors)
    for first, k in ((0, 3), (30, 3), (0, 5), (30, 5)):
        found = index.search(first, first + 30, k)
        assert_same(found, ReferenceIndex(vectors).search(first, first + 30, k))
    assert asked == [3, 5]


@maker
def test_a_crowd_of_near_equals_is_thinned_out_without_loss(
    make: Callable[[np.ndarray, int], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 vectors that differ in last bits, nearest ones last: every one is a candidate. One
    without length, which is as near to all, keeps the first ones."""
    monkeypatch.setattr("synboot.pairs.neighbours.pool._CROWD", 1)
    monkeypatch.setattr("synboot.pairs.neighbours.pool._SMALL_CROWD", 1)
    vectors = np.ones((400, 6), dtype=np.float32) / 3
    vectors[:, 0] += np.arange(400, dtype=np.float32) * np.float32(2.0**-25)
    vectors[201] = 0
    found = make(vectors, 3).search(0, 400, 3)
    assert_same(found, ReferenceIndex(vectors).search(0, 400, 3))


def test_vectors_that_are_no_numbers_are_refused() -> None:
    for wrong in (np.nan, np.inf, 3e38):
        vectors = np.ones((5, 3), dtype=np.float32)
        vectors[3, 1] = wrong
        with pytest.raises(BadInput, match="vector 3: expected finite numbers"):
            ExactIndex(vectors)


def test_the_order_of_summation_is_written_down() -> None:
    numbers = np.random.default_rng(0).normal(size=(4, 7))
    by_hand = [((r[0] + r[4]) + (r[2] + r[6])) + ((r[1] + r[5]) + r[3]) for r in numbers.tolist()]
    assert sum_by_halves(numbers.copy()).tolist() == by_hand


@pytest.mark.skipif(no_native() is not None, reason="no C compiler")
@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 100, 257])
def test_similarities_in_c_are_those_of_torch_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Of ordinary, huge, denormal, equal and opposite vectors, and of zero with either sign."""
    random = np.random.default_rng(width)
    vectors = random.normal(size=(60, width)).astype(np.float32)
    vectors[10:20] *= np.float32(1e18)
    vectors[20:30] *= np.float32(1e-40)
    vectors[30:40] = -vectors[:10]
    vectors[40], vectors[41] = 0, -0.0
    queries, documents = torch.from_numpy(random.integers(60, size=(2, 3000)))
    given = torch.from_numpy(vectors), queries, documents
    with monkeypatch.context() as without_torch:
        without_torch.setattr(pool, "sum_by_halves", None)
        in_c = similarities(*given)
    monkeypatch.setattr(pool, "_library", lambda: None)
    in_torch = similarities(*given)
    assert in_c.numpy().tobytes() == in_torch.numpy().tobytes()
    assert len(np.unique(in_c.numpy())) > 1000


def test_without_a_compiler_neighbours_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 24)).astype(np.float32)

    def fail(source: Path) -> None:
        raise SynbootError(f"cc failed on {source.name}")

    monkeypatch.setattr(pool, "load", fail)
    monkeypatch.setattr(pool, "_library", pool._library.__wrapped__)  # which remembers nothing
    for make in MAKERS.values():
        found = make(vectors, 5).search(0, 200, 5)
        assert_same(found, ReferenceIndex(vectors).search(0, 200, 5))


def test_only_what_c_understands_goes_there() -> None:
    """Numbers of another type, and vectors that do not lie row by row."""
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 6))).float()
    queries, documents = torch.arange(9), torch.arange(9).flip(0)
    expected = similarities(vectors, queries, documents)
    for other in (vectors.double(), vectors.T.contiguous().T):
        assert torch.equal(similarities(other, queries, documents), expected)
    assert torch.equal(similarities(vectors, queries.int(), documents.int()), expected)
    assert len(similarities(vectors, queries[:0], documents[:0])) == 0


def test_of_equal_vectors_the_first_can_be_found() -> None:
    vectors = np.zeros((30, 10), dtype=np.float32)
    vectors[:, 9] = np.arange(30) % 3  # equal in the first eight numbers
    vectors[2] = -vectors[2]
    assert first_of_equals(vectors, 20) is None
    kept = first_of_equals(vectors, 4)
    assert kept is not None
    # Five of each; 2 has no equal.
    assert kept.tolist() == [*range(15), 17]
