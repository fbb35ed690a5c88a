"""Random pairs: as many as asked for, distinct, keyed, uniform."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synboot.pairs.find import PairSplit, read_kept_pairs, split_pairs
from synboot.pairs.random import random_pairs, random_split, read_split, write_split


@given(st.integers(2, 30), st.data(), st.integers(0, 9))
def test_pairs_are_distinct_in_order_and_keyed(count: int, data: st.DataObject, seed: int) -> None:
    wanted = data.draw(st.integers(0, count * (count - 1) // 2))
    pairs = random_pairs(count, wanted, seed)
    assert len(set(pairs)) == len(pairs) == wanted
    assert all(0 <= a < b < count for a, b in pairs)
    assert random_pairs(count, wanted, seed) == pairs


def test_all_pairs_come_up_alike_whether_few_are_drawn_or_many() -> None:
    """Of 10 pairs, each is drawn about 2,000 (4,000) times in 10,000 draws of 2 (in 5,000 of 8).

    Chi-squared with 9 degrees of freedom is above 35 with odds of 6e-5 each; drawing without
    replacement only lowers it. The keys are fixed, so this cannot flake.
    """
    for wanted, draws in ((2, 10_000), (8, 5_000)):
        counts = Counter(pair for seed in range(draws) for pair in random_pairs(5, wanted, seed))
        expected = draws * wanted / 10
        assert len(counts) == 10
        assert sum((n - expected) ** 2 / expected for n in counts.values()) < 35


def test_more_pairs_than_there_are_is_refused() -> None:
    assert len(random_pairs(4, 6, 0)) == 6
    with pytest.raises(ValueError, match="which have 6"):
        random_pairs(4, 7, 0)


@given(st.integers(6, 40), st.integers(0, 9), st.sampled_from([0.05, 0.2, 0.5]))
def test_random_pairs_are_as_many_on_each_side_of_the_same_documents(
    count: int, seed: int, fraction: float
) -> None:
    clusters = [(a, b) for a in range(count) for b in range(a + 1, count) if a // 3 == b // 3]
    split = split_pairs(clusters, validation_fraction=fraction, seed=seed)
    drawn = random_split(count, split, seed)
    assert len(drawn.training) == len(split.training)
    assert len(drawn.validation) == len(split.validation)
    assert drawn.num_crossing == 0
    for pairs, inside in ((drawn.training, False), (drawn.validation, True)):
        assert len(set(pairs)) == len(pairs)
        assert {(b, a) for a, b in pairs} == set(pairs)
        for a, b in pairs:
            assert a != b
            assert (a in split.held_out) is (b in split.held_out) is inside
    assert random_split(count, split, seed) == drawn


def test_the_split_goes_through_the_file_and_reads_as_kept(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    split = PairSplit([(0, 1), (1, 0)], [(2, 3), (3, 2)], 0, frozenset({2, 3}))
    ids = ["a", "b", "c", "d"]
    write_split(path, split, ids)
    assert read_kept_pairs(path) == [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]
    assert read_split(path, {name: i for i, name in enumerate(ids)}) == split
    pq.write_table(pa.table({"d1": ["a"], "d2": ["b"], "verdict": ["keep"]}), path)
    assert read_split(path, {}) is None
