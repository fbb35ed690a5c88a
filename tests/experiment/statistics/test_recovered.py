"""The recovered share, against closed forms: exact shares, Fieller's interval, refusals."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

sys.path.append(str(Path(__file__).parent))

from tables import scores

from synboot.core.rng import rng
from synboot.experiment.statistics.losses import OVER, Interval, Losses, Refused
from synboot.experiment.statistics.recovered import recovered
from synboot.experiment.statistics.scores import Metric, Scores

METRICS: list[Metric] = ["bits_per_byte", "nats_per_token"]
Arms = list[list[Scores]]


def losses(arms: Arms, metric: Metric = "bits_per_byte", seed: int = 0) -> Losses:
    """Of repetition, sbp and oracle, several seeds each."""
    return Losses(dict(zip(("repetition", "sbp", "oracle"), arms, strict=True)), metric, seed=seed)


@pytest.mark.parametrize("share", [0.5, 1.2, -0.3, 0.0])
@pytest.mark.parametrize("metric", METRICS)
def test_a_share_that_is_the_same_everywhere_is_found_exactly(share: float, metric: Metric) -> None:
    draw = rng(0, "share")
    arms: Arms = [[], [], []]
    sizes = draw.integers(10, 400, 30)
    for _ in range(3):
        gain, base = draw.gamma(4, 1, 30), draw.gamma(50, 2, 30)
        for arm, part in zip(arms, (0 * gain, share * gain, gain), strict=True):
            arm.append(scores(base - part, num_bytes=sizes))
    found = recovered(losses(arms, metric), "sbp")
    assert found.refused is None
    assert found.value == pytest.approx(share, abs=1e-9)
    for over in OVER:
        bounds = getattr(found, over)
        assert isinstance(bounds, Interval)
        assert [bounds.low, bounds.high] == pytest.approx([share, share], abs=1e-7)


def test_the_share_is_the_same_in_both_metrics_and_inside_its_interval() -> None:
    draw = rng(1, "both metrics")
    sizes = draw.integers(20, 500, 120)
    arms = [
        [scores(sizes * (3 - gain) + draw.normal(0, 8, 120), num_tokens=sizes, num_bytes=4 * sizes)]
        for gain in (0.0, 0.05, 0.2)
    ]
    bits, nats = (recovered(losses(arms, metric, seed=2), "sbp") for metric in METRICS)
    assert bits.value is not None
    assert isinstance(bits.documents, Interval)
    assert isinstance(nats.documents, Interval)
    assert bits.documents.low < bits.value < bits.documents.high
    assert nats.value == pytest.approx(bits.value)
    assert nats.documents.low == pytest.approx(bits.documents.low)
    assert nats.documents.high == pytest.approx(bits.documents.high)
    assert isinstance(bits.seeds, Refused)


def test_over_documents_it_is_fiellers_interval_of_the_resamples() -> None:
    """The roots of (a - r b)^2 = t^2 var(a - r b), with the covariance of the resamples."""
    draw = rng(4, "ratio")
    arms = [[scores(100 + draw.normal(-gain, 3, 150))] for gain in (0.0, 1.0, 4.0)]
    table = losses(arms)
    found = recovered(table, "sbp")
    assert table._resampled is not None
    repetition, sbp, oracle = (table._resampled[arm] for arm in ("repetition", "sbp", "oracle"))
    covariance = np.cov(repetition - sbp, repetition - oracle, ddof=0) * 150 / 149
    a, b = (table.value({"repetition": 1.0, arm: -1.0}) for arm in ("sbp", "oracle"))
    assert isinstance(found.documents, Interval)
    assert [found.documents.low, found.documents.high] == pytest.approx(
        fieller(a, b, covariance * stats.t.ppf(0.975, 149) ** 2)
    )
    # Which is close to that of the resampled ratio.
    ratio = np.quantile((a + repetition - sbp) / (b + repetition - oracle), [0.025, 0.975])
    assert [found.documents.low, found.documents.high] == pytest.approx(list(ratio), abs=0.02)


def fieller(a: float, b: float, covariance: Any) -> list[float]:
    """The ends of the ratio a / b, for a covariance times the squared quantile."""
    (aa, ab), (_, bb) = covariance
    return sorted(np.roots([b**2 - bb, -2 * (a * b - ab), a**2 - aa]).tolist())


def test_over_seeds_it_is_fiellers_interval() -> None:
    """The roots of (a - r b)^2 = t^2 var(a - r b) / n, a quadratic in r."""
    draw = rng(2, "fieller")
    part, whole = draw.normal(2, 0.3, 4), draw.normal(8, 0.5, 4)
    arms: Arms = [[], [], []]
    for a, b in zip(part, whole, strict=True):
        base = 100 + draw.normal(0, 5)
        for arm, gain in zip(arms, (0.0, a, b), strict=True):
            arm.append(scores(np.full(20, base - gain)))
    found = recovered(losses(arms, "nats_per_token"), "sbp")
    covariance = np.cov(part, whole) / 4 * stats.t.ppf(0.975, 3) ** 2
    assert isinstance(found.seeds, Interval)
    assert [found.seeds.low, found.seeds.high] == pytest.approx(
        fieller(part.mean(), whole.mean(), covariance)
    )
    assert found.value == pytest.approx(part.mean() / whole.mean())


@pytest.mark.parametrize("oracle_gain", [0.0, -1.0])
def test_a_gain_of_the_oracle_that_is_not_clear_of_zero_is_refused(oracle_gain: float) -> None:
    draw = rng(3, "refused")
    oracle = scores(100.0 - oracle_gain - draw.normal(0, 2, 60))
    table = losses([[scores(np.full(60, 100.0))], [scores(np.full(60, 99.0))], [oracle]])
    found = recovered(table, "sbp")
    assert found.value is None
    assert found.refused is not None
    assert "\n" not in found.refused
    gain = table.figure({"repetition": 1.0, "oracle": -1.0})
    assert isinstance(gain.documents, Interval)
    shown = f"{gain.value:.4f} bits per byte [{gain.documents.low:.4f}, {gain.documents.high:.4f}]"
    assert shown in found.refused
    for over in OVER:
        assert isinstance(getattr(found, over), Refused)


def test_an_oracle_clear_over_documents_but_not_over_seeds_is_refused() -> None:
    """Its set over seeds would have no end (Fieller), and one over both is not clear either."""
    draw = rng(6, "seeds")
    gains = [9.0, 1.0, 0.2]
    arms = [
        [scores(100 - part * gain + draw.normal(0, 0.1, 40)) for gain in gains]
        for part in (0.0, 0.5, 1.0)
    ]
    found = recovered(losses(arms), "sbp")
    assert found.value is None
    assert found.refused is not None
    assert "over both, is not clear of zero" in found.refused


def test_too_few_documents_are_refused_however_clear_they_look() -> None:
    for count, stated in ((5, False), (6, True)):
        arms = [[scores(np.arange(count) + start)] for start in (100.0, 95.0, 90.0)]
        assert (recovered(losses(arms), "sbp").refused is None) is stated


def test_a_barely_clear_oracle_gives_a_finite_interval() -> None:
    """Some resamples then have no gain to share; they widen the interval and cannot break it."""
    difference = rng(8, "barely").normal(0, 1, 200)
    spread = difference.std() / math.sqrt(200)
    oracle = scores(100.0 - (difference - difference.mean() + 2.15 * spread))
    sbp = scores(100.0 - rng(9, "barely").normal(0.1, 1, 200))
    found = recovered(losses([[scores(np.full(200, 100.0))], [sbp], [oracle]]), "sbp")
    assert isinstance(found.documents, Interval)
    assert math.isfinite(found.documents.low)
    assert math.isfinite(found.documents.high)
    assert found.documents.low < 0 < found.documents.high


@pytest.mark.parametrize("counts", [(3, 2, 3), (2, 1, 2), (2, 2, 1)])
def test_arms_with_other_numbers_of_seeds_have_the_interval_over_documents_alone(
    counts: tuple[int, int, int],
) -> None:
    draw = rng(10, "unequal")
    arms = [
        [scores(level + draw.normal(0, 0.1, 40)) for _ in range(count)]
        for level, count in zip((100.0, 98.0, 95.0), counts, strict=True)
    ]
    found = recovered(losses(arms), "sbp")
    assert found.value == pytest.approx(0.4, abs=0.05)
    assert isinstance(found.documents, Interval)
    for bounds in (found.seeds, found.both):
        assert isinstance(bounds, Refused)
        assert "differ in their number" in bounds.reason
