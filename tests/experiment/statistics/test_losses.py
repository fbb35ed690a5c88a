"""Intervals over documents, seeds and both, against closed forms and simulation."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

sys.path.append(str(Path(__file__).parent))

from tables import scores

from synboot.core.rng import rng
from synboot.experiment.statistics import losses as module
from synboot.experiment.statistics.losses import OVER, Bounds, Interval, Losses, Refused
from synboot.experiment.statistics.scores import Metric, Scores

METRICS: list[Metric] = ["bits_per_byte", "nats_per_token"]
GAIN = {"a": 1.0, "b": -1.0}


def losses(a: Any, b: Any, metric: Metric = "nats_per_token", **options: Any) -> Losses:
    """Of arms a and b, each one `Scores` or one for each seed."""
    arms = {name: [arm] if isinstance(arm, Scores) else arm for name, arm in (("a", a), ("b", b))}
    return Losses(arms, metric, **({"seed": 0} | options))


def ends(bounds: Bounds) -> list[float]:
    assert isinstance(bounds, Interval), bounds
    return [bounds.low, bounds.high]


@pytest.mark.parametrize("metric", METRICS)
def test_identical_arms_differ_by_exactly_nothing(metric: Metric) -> None:
    arm = scores(rng(0, "identical").gamma(5, 10, 50))
    assert ends(losses(arm, arm, metric).interval(GAIN, "documents")) == [0.0, 0.0]
    seeds = [arm, scores(arm.nats + 1), scores(arm.nats - 2)]
    figure = losses(seeds, seeds, metric).figure(GAIN)
    assert figure.value == 0
    assert [ends(figure.over(over)) for over in OVER] == [[0.0, 0.0]] * 3


def test_a_constant_difference_has_intervals_of_no_width() -> None:
    num_bytes = rng(0, "constant").integers(10, 900, 40)
    b = scores(rng(1, "constant").gamma(5, 10, 40), num_bytes=num_bytes)
    a = scores(b.nats + 0.25 * math.log(2) * num_bytes, num_bytes=num_bytes)
    figure = losses([a, a], [b, b], "bits_per_byte").figure(GAIN)
    for over in OVER:
        assert ends(figure.over(over)) == pytest.approx([0.25, 0.25], abs=1e-7)


def test_equal_documents_have_the_interval_of_students_t() -> None:
    """With equal lengths the statistic is a mean: its interval is mean +- t sd / sqrt(n).

    The standard error of 10,000 resamples is off by 0.7% (1 / sqrt(2 R)); 3.5% are allowed.
    """
    for count in (10, 30, 400):
        difference = rng(count, "normal").normal(2, 5, count)
        figure = losses(scores(100 + difference), scores(np.full(count, 100.0))).figure(GAIN)
        error = difference.std(ddof=1) / math.sqrt(count) / 10
        assert figure.value == pytest.approx(difference.mean() / 10)
        low, high = ends(figure.documents)
        assert (low + high) / 2 == pytest.approx(figure.value)
        assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, count - 1) * error, rel=0.035)


def test_few_long_documents_weigh_as_few() -> None:
    sizes = np.full(100, 10)
    sizes[:3] = 10_000
    arm = scores(np.full(100, 30.0), num_tokens=sizes)
    assert losses(arm, arm).effective_documents == pytest.approx(30_970**2 / 300_009_700)
    assert losses(scores([1.0] * 9), scores([1.0] * 9)).effective_documents == pytest.approx(9)


def test_whole_groups_have_the_interval_of_their_sums() -> None:
    """Of documents that are alike within groups, a copy says nothing new: as one of it all."""
    draw = rng(0, "groups")
    own, base = draw.normal(2, 5, 30), draw.normal(100, 20, 30)
    shifts = (0.0, 0.4, -0.3)
    single = losses([scores(base + own + s) for s in shifts], [scores(base)] * 3)
    names = [f"site {i}" for i in range(30) for _ in range(4)]
    a = [scores(np.repeat(base + own + s, 4), groups=names) for s in shifts]
    b = [scores(np.repeat(base, 4), groups=names)] * 3
    grouped, alone = (
        losses(a, b),
        losses([replace(one, groups=None) for one in a], [replace(one, groups=None) for one in b]),
    )
    assert (single.num_groups, grouped.num_groups, alone.num_groups) == (None, 30, None)
    assert grouped.effective_groups == pytest.approx(30)
    assert grouped.effective_documents == pytest.approx(120)
    for over in OVER:
        expected = ends(single.interval(GAIN, over))
        assert ends(grouped.interval(GAIN, over)) == pytest.approx(expected)
    low, high = ends(grouped.interval(GAIN, "documents"))
    wrong = ends(alone.interval(GAIN, "documents"))
    assert high - low > 1.9 * (wrong[1] - wrong[0])  # sqrt(4), and Student's t


def test_groups_of_one_document_and_none_are_documents() -> None:
    draw = rng(0, "singles")
    nats, sizes = draw.gamma(5, 10, (2, 40)), draw.integers(10, 900, 40)
    plain = losses(*(scores(own, sizes) for own in nats)).interval(GAIN, "documents")
    for groups in ([f"g{i}" for i in range(40)], ["only", *[None] * 39]):
        found = losses(*(scores(own, sizes, groups=groups) for own in nats))
        assert found.num_groups == 40
        assert found.interval(GAIN, "documents") == plain


def test_few_groups_are_few_however_many_documents() -> None:
    arm = scores(np.arange(500.0), groups=[f"g{i % 5}" for i in range(500)])
    bounds = losses(arm, arm).interval(GAIN, "documents")
    assert bounds == Refused("5 groups of test documents are too few, at least 6 needed")
    many = ["all"] * 494 + [f"g{i}" for i in range(6)]
    arm = scores(np.arange(500.0), groups=many)
    bounds = losses(arm, arm).interval(GAIN, "documents")
    assert bounds == Refused("one group of test documents holds nearly all of the text")


def test_over_seeds_is_students_t_of_paired_differences() -> None:
    """Seeds of the same number share what they have in common, however large."""
    shifts, own = [3.0, -7.0, 4.5], [0.5, 0.7, 0.3]
    b = [scores(np.full(20, 100.0 + shift)) for shift in shifts]
    a = [scores(np.full(20, 100.0 + s + o)) for s, o in zip(shifts, own, strict=True)]
    figure = losses(a, b).figure(GAIN)
    assert figure.by_seed == pytest.approx([0.05, 0.07, 0.03])
    error = np.std([0.05, 0.07, 0.03], ddof=1) / math.sqrt(3)
    t = stats.t.ppf(0.975, 2)
    assert ends(figure.seeds) == pytest.approx([0.05 - t * error, 0.05 + t * error])
    # Documents are all alike, so that nothing but seeds moves the figure.
    assert ends(figure.documents) == pytest.approx([0.05, 0.05])
    assert ends(figure.both) == pytest.approx(ends(figure.seeds))


def test_over_both_is_never_narrower_than_over_documents_and_is_that_without_seeds() -> None:
    draw = rng(0, "both")
    base, effect = draw.normal(100, 20, 60), draw.normal(2, 4, 60)
    alike = losses([scores(base + effect)] * 3, [scores(base)] * 3).figure(GAIN)
    assert ends(alike.both) == pytest.approx(ends(alike.documents))
    for spread in (0.1, 1.0, 10.0):
        a = [scores(base + effect + draw.normal(0, spread)) for _ in range(3)]
        figure = losses(a, [scores(base)] * 3).figure(GAIN)
        documents, both = ends(figure.documents), ends(figure.both)
        assert both[0] <= documents[0] <= documents[1] <= both[1]


def test_one_document_with_nearly_all_of_the_text_says_so() -> None:
    sizes = [100_000, 1, 1, 1, 1, 1, 1]
    arm = scores(range(7), num_tokens=sizes)
    bounds = losses(arm, arm).interval(GAIN, "documents")
    assert isinstance(bounds, Refused)
    assert "one test document" in bounds.reason


def test_one_seed_is_refused_and_never_an_interval_over_documents() -> None:
    arm = scores(rng(0, "one").gamma(5, 10, 50))
    figure = losses(arm, scores(arm.nats + 1)).figure(GAIN)
    for bounds in (figure.seeds, figure.both):
        assert isinstance(bounds, Refused)
        assert "one training seed" in bounds.reason
    unequal = losses([arm, arm], [arm]).figure(GAIN)
    assert isinstance(unequal.seeds, Refused)
    assert "differ in their number" in unequal.seeds.reason
    assert unequal.by_seed == []
    assert isinstance(unequal.documents, Interval)


def test_too_few_documents_have_no_interval_over_documents() -> None:
    for count, stated in ((5, False), (6, True)):
        arms = [[scores(np.arange(count) + start + s) for s in (0.0, 0.1)] for start in (9.0, 8.0)]
        figure = losses(*arms).figure(GAIN)
        assert isinstance(figure.documents, Interval) is stated
        assert isinstance(figure.both, Interval) is stated
        assert isinstance(figure.seeds, Interval)


def test_interval_over_documents_covers_the_truth_about_as_often_as_it_says() -> None:
    """300 worlds of 80 documents of unequal lengths with a true difference of 0.05 bits per byte.

    The keys are fixed, so this cannot flake. With fresh keys, a method that covers 95% leaves
    [0.9, 0.985] with odds of 0.0018 (binomial). On the same worlds, resampling the arms apart
    covers 100% and treating bytes as independent covers 3%.
    """
    covered = 0
    for world in range(300):
        draw = rng(world, "coverage")
        num_bytes = draw.integers(50, 2000, 80)
        hardness = draw.normal(1.5, 0.4, 80)
        b = scores(hardness * num_bytes, num_bytes=num_bytes)
        own = draw.normal(0.05 * math.log(2), 0.1, 80) * num_bytes
        a = scores(b.nats + own, num_bytes=num_bytes)
        table = losses(a, b, "bits_per_byte", seed=world, num_resamples=500)
        low, high = ends(table.interval(GAIN, "documents"))
        covered += low <= 0.05 <= high
    assert 0.9 <= covered / 300 <= 0.985


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4), st.integers(1, 999)), min_size=6),
    st.sampled_from(METRICS),
)
def test_the_value_is_the_difference_and_turns_with_the_arms(
    rows: list[tuple[float, float, int]], metric: Metric
) -> None:
    nats_a, nats_b, sizes = zip(*rows, strict=True)
    a, b = (scores(nats, num_tokens=sizes, num_bytes=sizes) for nats in (nats_a, nats_b))
    shifted = [scores(x.nats * 1.1, num_tokens=sizes, num_bytes=sizes) for x in (a, b)]
    table = losses([a, shifted[0]], [b, shifted[1]], metric, seed=7, num_resamples=200)
    forward, back = table.figure(GAIN), table.figure({"a": -1.0, "b": 1.0})
    assert forward.value == pytest.approx(
        1.05 * (getattr(a, metric)() - getattr(b, metric)()), abs=1e-8
    )
    assert forward.value == pytest.approx(np.mean(forward.by_seed), abs=1e-8)
    for over in OVER if table.effective_documents >= 2 else ():
        (low, high), (other_low, other_high) = ends(forward.over(over)), ends(back.over(over))
        assert (other_low, other_high) == pytest.approx((-high, -low), abs=1e-7)
        assert low <= high


def test_resampling_is_keyed_and_blind_to_its_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = rng(0, "keyed")
    a, b = scores(draw.gamma(5, 10, 37)), scores(draw.gamma(5, 10, 37))

    def interval(seed: int) -> list[float]:
        return ends(losses(a, b, seed=seed, num_resamples=1000).interval(GAIN, "documents"))

    first = interval(5)
    assert interval(5) == first
    assert interval(6) != first
    for cells in (1, 37 * 3, 1000):
        monkeypatch.setattr(module, "_CELLS_AT_ONCE", cells)
        assert interval(5) == first


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (scores([1.0] * 9), "documents differ"),
        (scores([1.0] * 10, num_bytes=[41] * 10), "bytes"),
        (scores([1.0] * 10, num_tokens=[11] * 10), "tokens"),
        (scores([1.0] * 10, groups=["a"] * 10), "groups"),
    ],
)
def test_other_documents_are_refused(other: Scores, message: str) -> None:
    arm = scores([1.0] * 10)
    for a, b in ((arm, other), ([arm, other], [arm, arm])):
        with pytest.raises(ValueError, match=message):
            losses(a, b)


def test_unusable_requests_are_refused() -> None:
    arm = scores([1.0, 2.0])
    with pytest.raises(ValueError, match="resamples"):
        losses(arm, arm, num_resamples=99)
    with pytest.raises(ValueError, match="unknown metric"):
        losses(arm, arm, "perplexity")  # type: ignore[arg-type]
    for nothing in ({}, {"a": []}):
        with pytest.raises(ValueError, match="no scores"):
            Losses(nothing, "bits_per_byte", seed=0)
