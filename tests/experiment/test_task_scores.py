from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.intervals import proportion_interval
from synboot.core.rng import rng
from synboot.experiment.task_scores import (
    NORMALISATIONS,
    TaskScores,
    bootstrap_mean,
    compare_arms,
    summary,
)


def scores(correct: np.ndarray, *, choices: int = 4, category: int | None = None) -> TaskScores:
    count = len(correct)
    return TaskScores(
        [f"i{n}" for n in range(count)],
        [None if category is None else f"c{n % category}" for n in range(count)],
        np.full(count, choices),
        np.linspace(1.0, 3.0, count),
        np.full(count, 4),
        {name: correct.astype(bool) for name in NORMALISATIONS[: 1 if choices == 1 else None]},
    )


def row(nats: list[float], gold: int, **more: Any) -> dict[str, Any]:
    own = {"id": "x", "category": None, "gold": gold, "nats": nats, "greedy": False}
    own |= {"num_bytes": [2] * len(nats)}
    own |= {f"prediction_{name}": int(np.argmin(nats)) for name in NORMALISATIONS}
    return own | more


def test_rows_become_scores() -> None:
    rows = [
        row([3.0, 1.0], 1, id="a"),
        row([3.0, 1.0], 0, id="b", prediction_per_byte=0),
        row([2.0, 2.0, 5.0], 0, id="c"),
    ]
    own = TaskScores.of_rows(rows)
    assert own.ids == ["a", "b", "c"]
    assert own.correct["raw"].tolist() == [True, False, True]
    assert own.correct["per_byte"].tolist() == [True, True, True]
    assert own.gold_nats.tolist() == [1.0, 3.0, 2.0]
    assert own.chance == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)


def test_last_words_are_right_if_greedy() -> None:
    own = TaskScores.of_rows([row([2.0], 0, id="a", greedy=True), row([4.0], 0, id="b")])
    assert list(own.correct) == ["raw"]
    assert own.correct["raw"].tolist() == [True, False]
    assert own.chance is None
    facts = summary(own)
    assert facts["perplexity"] == pytest.approx(math.exp(3.0))
    assert facts["gold_bits_per_byte"] == pytest.approx(6 / math.log(2) / 4)


def test_a_summary_by_hand() -> None:
    correct = np.array([1, 0, 1, 1, 0, 1, 1, 1])
    facts = summary(scores(correct, category=2))
    low, high = proportion_interval(6, 8)
    assert facts["accuracy"]["raw"] == {"items": 8, "value": 0.75, "low": low, "high": high}
    assert {name: own["value"] for name, own in facts["categories"].items()} == {
        "c0": 0.75,
        "c1": 0.75,
    }
    assert facts["chance"] == 0.25
    assert "perplexity" not in facts
    json.dumps(facts, allow_nan=False)


def test_the_bootstrap_is_that_of_resampled_items() -> None:
    """Ends of the multinomial draws against those of items drawn with replacement."""
    values = rng(3, "values").choice([-1.0, 0.0, 0.5, 1.0], size=200, p=[0.2, 0.5, 0.1, 0.2])
    low, high = bootstrap_mean(values, seed=0, num_resamples=20_000)
    chosen = rng(4, "resamples").integers(200, size=(20_000, 200))
    means = values[chosen].mean(axis=1)
    # Standard deviation of a 2.5% quantile of 20,000 draws: about 0.018 of the mean's own, which is
    # 0.046. Five of both together are 0.006: fails by chance once in millions.
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975]), atol=0.006)
    assert bootstrap_mean(values, seed=0, num_resamples=500) == bootstrap_mean(
        values[::-1], seed=0, num_resamples=500
    )


def test_the_interval_of_a_gain_covers_it() -> None:
    """200 pairs of arms with a true gain of 0.1 on 300 items."""
    covered = 0
    for trial in range(200):
        uniform = rng(trial, "uniform").random(300)
        # Items are shared: the second arm is right where the first is, and on a tenth more.
        first, second = uniform < 0.4, uniform < 0.5
        found = compare_arms(
            {"repetition": {0: scores(first)}, "sbp": {0: scores(second)}},
            seed=trial,
            num_resamples=400,
        )["arms"]["sbp"]["gain"]["raw"]
        assert found["gain"] == pytest.approx(second.mean() - first.mean())
        covered += found["low"] <= 0.1 <= found["high"]
    # Binomial(200, 0.93) is below 170 with odds of 1e-4 (0.93: what percentile intervals reach).
    assert covered >= 170


@settings(deadline=None, max_examples=30)
@given(
    answers=st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=30),
    seed=st.integers(0, 9),
)
def test_arms_over_seeds(answers: list[tuple[bool, ...]], seed: int) -> None:
    columns = np.array(answers).T
    of_arms = {
        "repetition": {0: scores(columns[0]), 1: scores(columns[1])},
        "sbp": {0: scores(columns[2]), 1: scores(columns[3])},
    }
    found = compare_arms(of_arms, seed=seed, num_resamples=200)
    means = [columns[:2].mean(), columns[2:].mean()]
    arms = found["arms"]
    assert arms["repetition"]["accuracy"]["raw"]["value"] == pytest.approx(means[0])
    gain = arms["sbp"]["gain"]["per_byte"]
    assert gain["gain"] == pytest.approx(means[1] - means[0])
    assert "gain" not in arms["repetition"]
    if len(answers) < 6:
        assert gain["low"] is gain["high"] is None
    else:
        assert -1 <= gain["low"] <= gain["gain"] + 1e-12
        assert gain["gain"] - 1e-12 <= gain["high"] <= 1
    assert [own["accuracy"]["raw"]["value"] for own in arms["sbp"]["seeds"].values()] == [
        pytest.approx(columns[2].mean()),
        pytest.approx(columns[3].mean()),
    ]
    assert "seeds" in gain
    assert "seeds" in arms["sbp"]["accuracy"]["raw"]
    json.dumps(found, allow_nan=False)


def test_what_right_answers_cost_by_hand() -> None:
    """Two seeds whose gains in bits per byte are 0.25 and 0.5: Student's t with one degree."""

    def costing(nats: float) -> TaskScores:
        own = scores(np.ones(8), choices=1)
        return replace(own, gold_nats=np.full(8, nats * math.log(2)))

    arms = {"repetition": (4.0, 6.0), "sbp": (3.0, 4.0)}
    of_arms = {arm: dict(enumerate(map(costing, nats))) for arm, nats in arms.items()}
    found = compare_arms(of_arms, seed=0, num_resamples=200)["arms"]
    bits = found["sbp"]["gold_bits_per_byte"]
    assert bits["value"] == pytest.approx(3.5 / 4)
    gain = bits["gain"]
    assert gain["gain"] == pytest.approx(0.375)
    assert (gain["low"], gain["high"]) == (pytest.approx(0.375), pytest.approx(0.375))
    margin = 12.7062 * 0.125
    assert gain["seeds"]["low"] == pytest.approx(0.375 - margin, rel=1e-4)
    assert gain["seeds"]["high"] == pytest.approx(0.375 + margin, rel=1e-4)
    times = found["sbp"]["perplexity"]["of_repetition"]
    assert times["ratio"] == pytest.approx(2**-1.5)
    assert times["seeds"]["low"] < times["low"] == pytest.approx(2**-1.5)
    assert "gain" not in found["repetition"]["gold_bits_per_byte"]
    accuracy = found["sbp"]["accuracy"]["raw"]
    assert accuracy["seeds"] == {"low": 1.0, "high": 1.0}


def test_items_must_be_the_same() -> None:
    one, other = scores(np.ones(7)), scores(np.ones(8))
    with pytest.raises(ValueError, match="same items"):
        compare_arms({"repetition": {0: one}, "sbp": {0: other}}, seed=0, num_resamples=100)


def test_a_part_of_the_items() -> None:
    own = scores(np.array([1, 0, 1, 0]), category=4)
    part = own.chosen(np.array([True, False, False, True]))
    assert part.ids == ["i0", "i3"]
    assert part.categories == ["c0", "c3"]
    assert part.correct["raw"].tolist() == [True, False]
    assert part.gold_nats.tolist() == [own.gold_nats[0], own.gold_nats[3]]
