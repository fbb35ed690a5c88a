"""Data efficiency: interpolated between runs, never beyond them."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from tables import scores

from synboot.core.rng import rng
from synboot.experiment.statistics.efficiency import (
    Efficiency,
    Multiples,
    _falling,
    _mean,
    data_efficiency,
)
from synboot.experiment.statistics.losses import OVER, Losses, Refused

RUNS = {"repetition": 1.0, "twice": 2.0, "four": 4.0, "eight": 8.0}


def efficiency(curve: Any, arm: float, noise: float = 0.0, seeds: int = 2) -> Efficiency:
    """Of an arm beside repetition with the losses `curve` (nats per token) at 1, 2, 4, 8."""
    draw = rng(0, "efficiency")
    table = {
        name: [scores(10 * level + draw.normal(0, noise, 80)) for _ in range(seeds)]
        for name, level in zip(
            [*RUNS, "sbp"], [*(np.full(80, x) for x in (*curve, arm))], strict=True
        )
    }
    losses = Losses(table, "nats_per_token", seed=0, num_resamples=500)
    return data_efficiency(losses, "sbp", RUNS)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (5.0, 1.0),
        (4.75, math.sqrt(2)),
        (4.5, 2.0),
        (4.3, 2 * math.sqrt(2)),
        (4.1, 4.0),
        (4.05, 4 * math.sqrt(2)),
        (4.0, 8.0),
    ],
)
def test_it_lies_on_the_line_in_the_logarithm_of_the_text(loss: float, expected: float) -> None:
    found = efficiency([5.0, 4.5, 4.1, 4.0], loss)
    assert found.beyond is None
    assert found.value == pytest.approx(expected)
    if 1 < expected < 8:
        for over in OVER:
            bounds = getattr(found, over)
            assert isinstance(bounds, Multiples)
            assert [bounds.low, bounds.high] == pytest.approx([expected, expected], rel=1e-6)


def test_nothing_is_said_beyond_the_runs() -> None:
    above = efficiency([5.0, 4.5, 4.1, 4.0], 3.9)
    assert (above.value, above.beyond) == (None, "above")
    assert above.documents == Multiples(pytest.approx(8.0), None)
    below = efficiency([5.0, 4.5, 4.1, 4.0], 5.1)
    assert (below.value, below.beyond) == (None, "below")
    assert below.both == Multiples(None, pytest.approx(1.0))


def test_an_interval_that_leaves_the_runs_is_open_there() -> None:
    near_the_end = efficiency([5.0, 4.5, 4.1, 4.0], 4.001, noise=0.5)
    assert isinstance(near_the_end.documents, Multiples)
    assert near_the_end.documents.high is None
    assert near_the_end.documents.low is not None
    near_the_start = efficiency([5.0, 4.5, 4.1, 4.0], 4.999, noise=0.5)
    assert isinstance(near_the_start.documents, Multiples)
    assert near_the_start.documents.low is None
    assert near_the_start.documents.high is not None
    assert 1 < near_the_start.documents.high < 2


def test_more_text_that_did_worse_is_pooled_with_its_neighbour() -> None:
    """Losses of 4.4 and 4.6 count as 4.5 each: 4.25 lies half way from there to 4.0."""
    found = efficiency([5.0, 4.4, 4.6, 4.0], 4.25)
    assert found.value == pytest.approx(4 * math.sqrt(2))


def test_an_arm_behind_repetition_is_below_it_though_twice_the_text_did_worse() -> None:
    """On the pooled curve, 5.1 to twice the text and 4.1 at four times, 5.05 lies beyond twice."""
    behind = efficiency([5.0, 5.2, 4.1, 4.0], 5.05)
    assert (behind.value, behind.beyond) == (None, "below")
    assert isinstance(behind.both, Multiples)
    assert behind.both.low is None


def test_where_more_text_did_not_help_nothing_is_said_of_an_arm_ahead() -> None:
    """Repetition itself would be worth more than itself."""
    for loss in (5.0, 4.6, 4.1):
        ahead = efficiency([5.0, 5.2, 4.1, 4.0], loss)
        assert (ahead.value, ahead.beyond) == (None, None)
        for over in OVER:
            bounds = getattr(ahead, over)
            assert isinstance(bounds, Refused)
            assert "did no better" in bounds.reason
    between = efficiency([5.0, 5.2, 4.1, 4.0], 4.05)
    assert between.value == pytest.approx(4 * math.sqrt(2))
    above = efficiency([5.0, 5.2, 4.1, 4.0], 3.9)
    assert (above.value, above.beyond) == (None, "above")


@pytest.mark.parametrize("curve", [[5.0, 4.5, 4.0, 4.2], [5.0, 4.0, 4.2, 3.0]])
def test_an_arm_that_a_run_of_a_level_beats_is_not_beyond_the_level(curve: list[float]) -> None:
    """4.0 and, with twice the text, 4.2 count as 4.1 each."""
    for loss in (4.0, 4.05):
        behind_one = efficiency(curve, loss)
        assert (behind_one.value, behind_one.beyond) == (None, None)
        assert isinstance(behind_one.both, Refused)
        assert "no worse than the arm" in behind_one.both.reason


def test_an_arm_that_no_run_of_a_level_beats_is_beyond_it() -> None:
    above = efficiency([5.0, 4.5, 4.0, 4.2], 3.95)
    assert (above.value, above.beyond) == (None, "above")
    between = efficiency([5.0, 4.0, 4.2, 3.0], 3.55)
    assert between.value == pytest.approx(4 * math.sqrt(2))


def test_intervals_hold_the_value_and_one_seed_has_none_over_seeds() -> None:
    found = efficiency([5.0, 4.5, 4.1, 4.0], 4.3, noise=1.0, seeds=3)
    assert found.value is not None
    for over in OVER:
        bounds = getattr(found, over)
        assert isinstance(bounds, Multiples)
        assert bounds.low is not None
        assert bounds.high is not None
        assert bounds.low < found.value < bounds.high
    one = efficiency([5.0, 4.5, 4.1, 4.0], 4.3, noise=1.0, seeds=1)
    assert isinstance(one.documents, Multiples)
    assert isinstance(one.seeds, Refused)
    assert isinstance(one.both, Refused)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_pooling_never_rises_keeps_the_mean_and_what_falls_already(values: list[float]) -> None:
    pooled = [_mean(values, pool) for pool in _falling(values)]
    assert all(a >= b - 1e-9 for a, b in pairwise(pooled))
    assert sum(pooled) == pytest.approx(sum(values), abs=1e-6)
    if all(a >= b for a, b in pairwise(values)):
        assert pooled == pytest.approx(values)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(4, 5), min_size=4, max_size=4),
    st.floats(4, 5),
    st.sampled_from([0.0, 0.05, 2.0]),
)
def test_the_value_lies_in_its_intervals_on_any_curve(
    curve: list[float], arm: float, noise: float
) -> None:
    """Value and intervals are read off one curve, also where more text did worse."""
    found = efficiency(curve, arm, noise)
    for over in OVER:
        bounds = getattr(found, over)
        if isinstance(bounds, Refused):
            assert found.value is None
            assert any(a < b for a, b in pairwise(curve))
            continue
        assert isinstance(bounds, Multiples)
        if found.value is not None:
            low, high = bounds.low or 1.0, bounds.high or 8.0
            assert 1 <= low <= found.value <= high <= 8


def test_an_interval_at_a_run_has_the_runs_multiple_to_the_last_bit() -> None:
    runs = {name: 8.91 * multiple / 8 for name, multiple in RUNS.items()}
    levels = dict(zip([*RUNS, "sbp"], [5.0, 4.5, 4.1, 4.0, 3.9], strict=True))
    table = {name: [scores(np.full(80, 10 * level))] * 2 for name, level in levels.items()}
    losses = Losses(table, "nats_per_token", seed=0, num_resamples=100)
    assert data_efficiency(losses, "sbp", runs).both == Multiples(8.91, None)
    assert data_efficiency(losses, "eight", runs).value == 8.91


def test_other_numbers_of_seeds_of_any_run_are_refused_over_seeds() -> None:
    table = {name: [scores(np.arange(20) + 50.0 - i)] * 2 for i, name in enumerate(RUNS)}
    for odd in (*RUNS, "sbp"):
        uneven = {**table, "sbp": [scores(np.arange(20) + 48.5)] * 2}
        uneven[odd] = uneven[odd][:1]
        losses = Losses(uneven, "nats_per_token", seed=0, num_resamples=100)
        found = data_efficiency(losses, "sbp", RUNS)
        assert isinstance(found.documents, Multiples)
        assert isinstance(found.seeds, Refused)
        assert isinstance(found.both, Refused)


def test_fewer_than_two_amounts_are_refused() -> None:
    losses = Losses({"repetition": [scores([1.0] * 9)]}, "nats_per_token", seed=0)
    for runs in ({"repetition": 1.0}, {"repetition": 1.0, "again": 1.0}):
        with pytest.raises(ValueError, match="two or more that differ"):
            data_efficiency(losses, "repetition", runs)
