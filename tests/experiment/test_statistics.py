"""Scores, bootstrap intervals and the recovered share, against closed forms and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.rng import rng
from synboot.experiment.statistics import (
    Interval,
    Metric,
    Scores,
    mean_scores,
    paired_bootstrap,
    recovered,
)

METRICS: list[Metric] = ["bits_per_byte", "nats_per_token"]


def scores(nats: Any, num_tokens: Any = None, num_bytes: Any = None) -> Scores:
    nats = np.asarray(nats, np.float64)
    ones = np.ones(len(nats), np.int64)
    return Scores(
        [f"document-{i}" for i in range(len(nats))],
        10 * ones if num_tokens is None else np.asarray(num_tokens),
        40 * ones if num_bytes is None else np.asarray(num_bytes),
        nats,
    )


def test_metrics_are_ratios_of_sums() -> None:
    table = scores([20.0, 10.0], num_tokens=[5, 10], num_bytes=[12, 18])
    assert table.nats_per_token() == pytest.approx(2.0)
    assert table.perplexity() == pytest.approx(math.exp(2))
    assert table.bits_per_byte() == pytest.approx(30 / math.log(2) / 30)
    assert scores([1e9, 1e9]).perplexity() == math.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": []}, "no documents"),
        ({"ids": ["a", "a"]}, "twice"),
        ({"nats": np.array([1.0])}, "shape"),
        ({"nats": np.array([1.0, math.nan])}, "finite"),
        ({"num_tokens": np.array([0, 1])}, "no tokens"),
        ({"num_bytes": np.array([1, 0])}, "no bytes"),
    ],
)
def test_broken_tables_are_refused(change: dict[str, Any], message: str) -> None:
    whole = {
        "ids": ["a", "b"],
        "num_tokens": np.array([1, 2]),
        "num_bytes": np.array([3, 4]),
        "nats": np.array([1.0, 2.0]),
    }
    Scores(**whole)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        Scores(**(whole | change))


@pytest.mark.parametrize("metric", METRICS)
def test_identical_arms_differ_by_exactly_nothing(metric: Metric) -> None:
    arm = scores(rng(0, "identical").gamma(5, 10, 50))
    assert paired_bootstrap(arm, arm, metric, seed=0) == Interval(0.0, 0.0, 0.0, 0.95)


def test_constant_difference_has_an_interval_of_no_width() -> None:
    num_bytes = rng(0, "constant").integers(10, 900, 40)
    b = scores(rng(1, "constant").gamma(5, 10, 40), num_bytes=num_bytes)
    a = scores(b.nats + 0.25 * math.log(2) * num_bytes, num_bytes=num_bytes)
    interval = paired_bootstrap(a, b, "bits_per_byte", seed=3)
    assert [interval.estimate, interval.low, interval.high] == pytest.approx([0.25] * 3)


def test_two_documents_give_their_two_differences() -> None:
    """Two documents are resampled to (1,1), (1,2), (2,2) with odds 1:2:1, so 95% reaches both."""
    interval = paired_bootstrap(
        scores([30.0, 60.0]), scores([20.0, 20.0]), "nats_per_token", seed=0
    )
    assert interval.estimate == pytest.approx(2.5)
    assert [interval.low, interval.high] == pytest.approx([1.0, 4.0])


def test_many_equal_documents_approach_the_normal_interval() -> None:
    """With equal lengths the statistic is a mean: its interval is mean +- 1.96 sd / sqrt(n).

    The ends of a percentile interval from 10,000 resamples scatter by about 0.027 standard errors
    (quantile's standard error sqrt(p q / R) / density); 0.12 are allowed, 0.02 of them for skew.
    """
    difference = rng(0, "normal").normal(2, 5, 400)
    interval = paired_bootstrap(
        scores(100 + difference), scores(np.full(400, 100.0)), "nats_per_token", seed=1
    )
    error = difference.std() / math.sqrt(400) / 10
    assert interval.estimate == pytest.approx(difference.mean() / 10)
    assert interval.low == pytest.approx(interval.estimate - 1.96 * error, abs=0.12 * error)
    assert interval.high == pytest.approx(interval.estimate + 1.96 * error, abs=0.12 * error)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """300 worlds of 80 documents of unequal lengths with a true difference of 0.05 bits per byte.

    The keys are fixed, so this cannot flake. With fresh keys, a method that covers 93.5%
    (percentile intervals of 80 documents do a little worse than they say) leaves [0.89, 0.985]
    with odds of 0.0013 (binomial). On the same worlds, resampling the arms apart covers 100% and
    treating bytes as independent covers 3%.
    """
    covered = 0
    for world in range(300):
        draw = rng(world, "coverage")
        num_bytes = draw.integers(50, 2000, 80)
        hardness = draw.normal(1.5, 0.4, 80)
        b = scores(hardness * num_bytes, num_bytes=num_bytes)
        own = draw.normal(0.05 * math.log(2), 0.1, 80) * num_bytes
        a = scores(b.nats + own, num_bytes=num_bytes)
        interval = paired_bootstrap(a, b, "bits_per_byte", seed=world, num_resamples=500)
        covered += interval.low <= 0.05 <= interval.high
    assert 0.89 <= covered / 300 <= 0.985


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4), st.integers(1, 999)), min_size=1),
    st.sampled_from(METRICS),
)
def test_estimate_is_the_difference_and_turns_with_the_arms(
    rows: list[tuple[float, float, int]], metric: Metric
) -> None:
    nats_a, nats_b, sizes = zip(*rows, strict=True)
    a, b = (scores(nats, num_tokens=sizes, num_bytes=sizes) for nats in (nats_a, nats_b))
    forward = paired_bootstrap(a, b, metric, seed=7, num_resamples=200)
    back = paired_bootstrap(b, a, metric, seed=7, num_resamples=200)
    difference = getattr(a, metric)() - getattr(b, metric)()
    assert forward.estimate == pytest.approx(difference, abs=1e-9)
    assert (back.estimate, back.low, back.high) == pytest.approx(
        (-forward.estimate, -forward.high, -forward.low), abs=1e-9
    )
    assert forward.low <= forward.high


def test_resampling_is_keyed_and_blind_to_its_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = rng(0, "keyed")
    a, b = scores(draw.gamma(5, 10, 37)), scores(draw.gamma(5, 10, 37))
    first = paired_bootstrap(a, b, "bits_per_byte", seed=5, num_resamples=1000)
    assert paired_bootstrap(a, b, "bits_per_byte", seed=5, num_resamples=1000) == first
    assert paired_bootstrap(a, b, "bits_per_byte", seed=6, num_resamples=1000) != first
    for cells in (1, 37 * 3, 1000):
        monkeypatch.setattr("synboot.experiment.statistics._CELLS_AT_ONCE", cells)
        assert paired_bootstrap(a, b, "bits_per_byte", seed=5, num_resamples=1000) == first


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (scores([1.0] * 9), "documents differ"),
        (scores([1.0] * 10, num_bytes=[41] * 10), "bytes"),
        (scores([1.0] * 10, num_tokens=[11] * 10), "tokens"),
    ],
)
def test_other_documents_are_refused(other: Scores, message: str) -> None:
    arm = scores([1.0] * 10)
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(arm, other, "bits_per_byte", seed=0)
    with pytest.raises(ValueError, match=message):
        mean_scores([arm, other])
    with pytest.raises(ValueError, match=message):
        recovered(arm, other, arm, "bits_per_byte", seed=0)
    with pytest.raises(ValueError, match=message):
        recovered(arm, arm, other, "bits_per_byte", seed=0)


def test_unusable_requests_are_refused() -> None:
    arm = scores([1.0, 2.0])
    with pytest.raises(ValueError, match="resamples"):
        paired_bootstrap(arm, arm, "bits_per_byte", seed=0, num_resamples=99)
    with pytest.raises(ValueError, match="unknown metric"):
        paired_bootstrap(arm, arm, "perplexity", seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no scores"):
        mean_scores([])


def test_seeds_are_averaged_document_by_document() -> None:
    mean = mean_scores([scores([10.0, 30.0]), scores([20.0, 50.0])])
    assert mean.nats.tolist() == [15.0, 40.0]
    assert mean.nats_per_token() == pytest.approx((2.0 + 3.5) / 2)


@pytest.mark.parametrize("share", [0.5, 1.2, -0.3, 0.0])
@pytest.mark.parametrize("metric", METRICS)
def test_a_share_that_is_the_same_in_every_document_is_found_exactly(
    share: float, metric: Metric
) -> None:
    draw = rng(0, "share")
    gain = draw.gamma(4, 1, 30)
    repetition = scores(draw.gamma(50, 2, 30), num_bytes=draw.integers(10, 400, 30))
    arms = [
        Scores(repetition.ids, repetition.num_tokens, repetition.num_bytes, repetition.nats - part)
        for part in (share * gain, gain)
    ]
    found = recovered(repetition, *arms, metric, seed=0)
    assert found.refused is None
    assert found.interval is not None
    assert (found.value, found.interval.low, found.interval.high) == pytest.approx(
        (share, share, share), abs=1e-9
    )


def test_the_share_is_the_same_in_both_metrics_and_inside_its_interval() -> None:
    draw = rng(1, "both metrics")
    sizes = draw.integers(20, 500, 120)
    repetition, sbp, oracle = (
        scores(sizes * (3 - gain) + draw.normal(0, 8, 120), num_tokens=sizes, num_bytes=4 * sizes)
        for gain in (0.0, 0.05, 0.2)
    )
    bits, nats = (recovered(repetition, sbp, oracle, metric, seed=2) for metric in METRICS)
    assert bits.value is not None
    assert bits.interval is not None
    assert bits.interval.low < bits.value < bits.interval.high
    assert bits == nats
    gain = paired_bootstrap(repetition, sbp, "bits_per_byte", seed=2).estimate
    of = paired_bootstrap(repetition, oracle, "bits_per_byte", seed=2).estimate
    assert bits.value == pytest.approx(gain / of)


@pytest.mark.parametrize("oracle_gain", [0.0, -1.0])
def test_a_gain_of_the_oracle_that_is_not_clear_of_zero_is_refused(oracle_gain: float) -> None:
    draw = rng(3, "refused")
    repetition = scores(np.full(60, 100.0))
    oracle = scores(100.0 - oracle_gain - draw.normal(0, 2, 60))
    found = recovered(repetition, scores(np.full(60, 99.0)), oracle, "bits_per_byte", seed=0)
    assert found.value is None
    assert found.interval is None
    assert found.refused is not None
    gain = paired_bootstrap(repetition, oracle, "bits_per_byte", seed=0)
    assert f"{gain.estimate:.4f} bits per byte [{gain.low:.4f}, {gain.high:.4f}]" in found.refused
    assert "\n" not in found.refused


def test_too_few_documents_are_refused_however_clear_they_look() -> None:
    for count, stated in ((5, False), (6, True)):
        arms = [scores(np.arange(count) + start) for start in (100.0, 95.0, 90.0)]
        found = recovered(*arms, "bits_per_byte", seed=0)
        assert (found.refused is None) is stated


def test_a_barely_clear_oracle_gives_a_finite_interval() -> None:
    """Some resamples then have no gain to share; they widen the interval and cannot break it."""
    difference = rng(8, "barely").normal(0, 1, 200)
    spread = difference.std() / math.sqrt(200)
    repetition = scores(np.full(200, 100.0))
    oracle = scores(100.0 - (difference - difference.mean() + 2.15 * spread))
    sbp = scores(100.0 - rng(9, "barely").normal(0.1, 1, 200))
    gain = paired_bootstrap(repetition, oracle, "bits_per_byte", seed=0)
    assert 0 < gain.low < 0.2 * gain.estimate
    found = recovered(repetition, sbp, oracle, "bits_per_byte", seed=0)
    assert found.interval is not None
    assert math.isfinite(found.interval.low)
    assert math.isfinite(found.interval.high)
    assert found.interval.low < 0 < found.interval.high
