"""Random pairs: as many as asked for, distinct, keyed, uniform."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synboot.pairs.find import read_kept_pairs
from synboot.pairs.random import random_pairs, write_random_pairs


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


def test_the_file_has_every_pair_in_both_orders_and_reads_as_kept(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    write_random_pairs(path, [("a", "b"), ("b", "c")])
    assert read_kept_pairs(path) == [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]
