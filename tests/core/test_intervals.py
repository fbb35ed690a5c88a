"""The Wilson interval against its definition, and how often it holds the truth."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from synboot.core.intervals import proportion_interval


@given(st.integers(1, 10_000), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_ends_are_where_the_score_test_turns(total: int, data: st.DataObject, level: float) -> None:
    successes = data.draw(st.integers(0, total))
    low, high = proportion_interval(successes, total, level)
    rate, z = successes / total, norm.ppf((1 + level) / 2)
    assert 0 <= low <= rate <= high <= 1
    for end in (low, high):
        distance = z * math.sqrt(end * (1 - end) / total)
        assert math.isclose(abs(rate - end), distance, rel_tol=1e-6, abs_tol=1e-9)


@pytest.mark.parametrize(("total", "true"), [(400, 0.15), (400, 0.25), (1000, 0.15), (1000, 0.02)])
def test_it_holds_the_truth_as_often_as_it_says(total: int, true: float) -> None:
    held = sum(
        binom.pmf(successes, total, true)
        for successes in range(total + 1)
        if proportion_interval(successes, total)[0]
        <= true
        <= proportion_interval(successes, total)[1]
    )
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize("case", [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_raise(case: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="trials"):
        proportion_interval(*case)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_impossible_levels_raise(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        proportion_interval(1, 2, level)
