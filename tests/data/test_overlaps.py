"""Shared windows of many pairs agree with Python sets (law 10); collisions as in test_ngrams."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.data.ngrams import (
    Windows,
    all_windows,
    reference_windows,
    window_hashes,
    windows_of,
    with_windows,
)
from synboot.data.overlaps import overlaps, shared_counts

TEXTS = st.lists(
    st.one_of(
        st.lists(st.sampled_from(["a", "B", "b", "ß", "SS", "c_1", "-", "\n"]), max_size=40).map(
            " ".join
        ),
        st.text(max_size=60),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(1, 14))
def test_windows_of_many_are_those_of_each(texts: list[str], n: int) -> None:
    windows = windows_of(texts, n)
    assert len(windows) == len(texts)
    for i, text in enumerate(texts):
        assert windows.of(i).tolist() == window_hashes(text, n).tolist()
        assert windows.sizes[i] == len(reference_windows(text, n))


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(1, 4), st.data())
def test_overlaps_are_those_of_sets(texts: list[str], n: int, data: st.DataObject) -> None:
    numbers = st.integers(0, len(texts) - 1)
    pairs = data.draw(st.lists(st.tuples(numbers, numbers), max_size=30))
    first, second = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    sets = [reference_windows(text, n) for text in texts]
    counts = [len(sets[a] & sets[b]) for a, b in pairs]
    expected = [
        c / min(len(sets[a]), len(sets[b])) if sets[a] and sets[b] else 0.0
        for c, (a, b) in zip(counts, pairs, strict=True)
    ]
    assert overlaps(texts, first, second, n).tolist() == expected
    assert shared_counts(windows_of(texts, n), first, second).tolist() == counts


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    texts = [
        " ".join(f"w{i}" for i in random.integers(0, 30, random.integers(0, 60))) for _ in range(50)
    ]
    first, second = random.integers(0, 50, (2, 400))
    expected = overlaps(texts, first, second, 2).tolist()
    assert len(set(expected)) > 10
    monkeypatch.setattr("synboot.data.overlaps._BATCH_WINDOWS", 7)
    monkeypatch.setattr("synboot.data.overlaps._SIEVED_WINDOWS", 7)
    monkeypatch.setattr("synboot.data.ngrams._BATCH_CHARACTERS", 100)
    assert overlaps(texts, first, second, 2).tolist() == expected


@pytest.mark.parametrize("at_once", [2, 100, 500, 2000])
def test_texts_beyond_what_is_compared_at_once_change_nothing(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    texts = [" ".join(f"w{i}" for i in random.integers(0, 20, size)) for size in range(40)]
    texts[7] = texts[8] = ""
    first, second = random.integers(0, 40, (2, 300))
    expected = overlaps(texts, first, second, 2).tolist()
    assert len(set(expected)) > 10
    monkeypatch.setattr("synboot.data.overlaps._AT_ONCE", at_once)
    held: list[int] = []

    def counted(some: list[str], n: int) -> Windows:
        held.append(sum(map(len, some)))
        return windows_of(some, n)

    monkeypatch.setattr("synboot.data.overlaps.windows_of", counted)
    assert overlaps(texts, first, second, 2).tolist() == expected
    assert len(held) > 1
    assert max(held) <= at_once + 2 * max(map(len, texts))


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 5), st.integers(1, 200))
def test_windows_come_with_their_texts_and_together(
    texts: list[str], n: int, batch_characters: int
) -> None:
    expected = [window_hashes(text, n).tolist() for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synboot.data.ngrams._BATCH_CHARACTERS", batch_characters)
        patch.setattr("synboot.data.ngrams._LONG_TEXT", 50)
        patch.setattr("synboot.data.ngrams._MERGE_WINDOWS", 3)
        items = list(with_windows(enumerate(texts), lambda item: item[1], n))
        together = all_windows(iter(texts), n)
    assert [(i, text) for (i, text), _ in items] == list(enumerate(texts))
    assert [windows.tolist() for _, windows in items] == expected
    assert together.dtype == np.uint64
    assert together.tolist() == sorted({window for windows in expected for window in windows})


def test_windows_are_read_a_batch_ahead_and_no_more() -> None:
    taken: list[int] = []

    def items() -> Iterator[str]:
        for i in range(100):
            taken.append(i)
            yield "word " * 10_000

    next(with_windows(items(), str))
    assert len(taken) == 3
    assert all_windows([]).shape == (0,)
    for function in (all_windows, lambda texts, n: list(with_windows(texts, str, n))):
        with pytest.raises(ValueError, match="at least one word"):
            function(["a"], 0)


def test_words_that_push_each_other_out_and_long_ones_are_hashed_right() -> None:
    """Far more words than there are places for known ones, twice; words beyond any place."""
    many = " ".join(f"x{i}" for i in range(300_000))
    long = f"{'y' * 257} {'y' * 258} {'Y' * 257} {'z' * 5000}"
    for text in (many, many, long, long):
        assert windows_of([text], 3).hashes.tolist() == window_hashes(text, 3).tolist()


def test_no_texts_and_no_pairs() -> None:
    none = np.empty(0, dtype=np.int64)
    assert overlaps([], none, none).shape == (0,)
    assert len(windows_of([])) == 0
    assert overlaps(["", "!"], np.array([0]), np.array([1])).tolist() == [0.0]
