"""How often the intervals of a comparison hold their truth, in simulated experiments.

An experiment is a draw of documents and of training seeds from a world whose arms' losses are
known. Nats of arm a, seed s, document d of size u (heavy-tailed):

    u * (loss of a + hardness of d + effect of (a, d) + effect of (a, s) + effect of (a, s, d))

Effects of documents have heavy tails, share a part between arms, and are larger in short
documents, as in real runs; `Components` has the sizes. Where documents come in groups, a part of
every effect is the group's. Every interval is asked for its own truth: over documents, the losses
that these seeds' models have on all documents; over seeds, those that all seeds' models have on
these documents; over both, those of the world.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synboot.core.intervals import proportion_interval
from synboot.core.rng import rng
from synboot.experiment.statistics.efficiency import Multiples, data_efficiency
from synboot.experiment.statistics.losses import OVER, Interval, Losses, Over, Refused
from synboot.experiment.statistics.recovered import recovered
from synboot.experiment.statistics.scores import Scores

BOUNDS = (0.93, 0.97)
FEW_GROUPS = "documentation, 12 groups"
"""The world that is held to the lower bound alone: as many groups of equal size as would weigh like
a few unequal ones are taken to be fewer than they are, and intervals to be wider than need be."""
MULTIPLES = {"repetition": 1.0, "repetition_2x": 2.0, "repetition_4x": 4.0, "oracle": 8.0}
ARMS = (*MULTIPLES, "sbp")


@dataclass(frozen=True)
class Components:
    """A world: standard deviations are of bits per byte, `losses` the arms' own.

    `log_size` is the standard deviation of the logarithm of sizes; `tails` the degrees of freedom
    of document effects (Student's t); `common` the correlation of them between arms.
    """

    documents: int
    seeds: int
    losses: Mapping[str, float]
    of_document: Mapping[str, float]
    """Of an arm's difference from repetition, between documents."""
    of_seed: float
    of_both: float
    log_size: float = 0.5
    tails: float = 5.0
    common: float = 0.35
    groups: int = 0
    """Of unequal sizes (a document falls into one with odds that are gamma-distributed, shape 2);
    0 for documents that stand alone."""
    within: float = 0.0
    """Correlation of effects between the documents of a group."""


# As measured: losses, gains and document effects (heavier tails here) of one seed of cpu-small on
# sections of an encyclopaedia and of the demo; effects of seeds of three seeds of the demo, at a
# quarter of its training tokens 0.014 (sbp) and 0.024 (oracle), with documents 0.03.
_ENCYCLOPAEDIA = Components(
    documents=200,
    seeds=3,
    losses={
        "repetition": 2.457,
        "repetition_2x": 2.29,
        "repetition_4x": 2.10,
        "oracle": 1.899,
        "sbp": 2.406,
    },
    of_document={
        "repetition": 0.0,
        "repetition_2x": 0.05,
        "repetition_4x": 0.07,
        "oracle": 0.092,
        "sbp": 0.033,
    },
    of_seed=0.004,
    of_both=0.02,
    log_size=0.44,
)
_DEMO = Components(
    documents=150,
    seeds=3,
    losses={
        "repetition": 2.641,
        "repetition_2x": 2.57,
        "repetition_4x": 2.505,
        "oracle": 2.444,
        "sbp": 2.598,
    },
    of_document={
        "repetition": 0.0,
        "repetition_2x": 0.06,
        "repetition_4x": 0.09,
        "oracle": 0.125,
        "sbp": 0.047,
    },
    of_seed=0.006,
    of_both=0.03,
    log_size=0.7,
)
WORLDS = {
    "encyclopaedia": _ENCYCLOPAEDIA,
    "documentation": _DEMO,
    "documentation, seeds differ much": replace(_DEMO, of_seed=0.02),
    "documentation, lengths differ much": replace(_DEMO, log_size=1.3),
    "documentation, 60 documents": replace(_DEMO, documents=60),
    FEW_GROUPS: replace(_DEMO, documents=174, groups=12, within=0.2),
    "documentation, 40 groups": replace(_DEMO, documents=240, groups=40, within=0.2),
}


@dataclass(frozen=True)
class Experiment:
    """One draw: what the arms score, and the losses that are true for each kind of interval."""

    scores: dict[str, list[Scores]]
    true: dict[Over, dict[str, float]]


def experiment(world: Components, number: int) -> Experiment:
    """The `number`-th experiment of a world."""
    draws = rng(number, "calibration of statistics")
    documents, seeds = world.documents, world.seeds
    num_bytes = np.exp(draws.normal(7, world.log_size, documents)).astype(np.int64) + 64
    units = num_bytes * math.log(2)
    damping = (num_bytes / num_bytes.mean()) ** -0.33
    hardness = 0.3 * draws.standard_normal(documents)
    ids = [f"document {i}" for i in range(documents)]
    of_group = _groups(world, number)
    groups = None if of_group is None else [f"group {g}" for g in of_group]

    def heavy(*shape: int) -> NDArray[Any]:
        own = _heavy(draws, world.tails, (*shape, documents))
        if of_group is None:
            return own
        common = _heavy(draws, world.tails, (*shape, world.groups))[..., of_group]
        return math.sqrt(world.within) * common + math.sqrt(1 - world.within) * own

    shared = heavy()
    scores: dict[str, list[Scores]] = {}
    true: dict[Over, dict[str, float]] = {over: {} for over in OVER}
    for arm in ARMS:
        own = heavy()
        effect = world.of_document[arm] * damping * (
            math.sqrt(world.common) * shared + math.sqrt(1 - world.common) * own
        )  # fmt: skip
        of_seed = world.of_seed / math.sqrt(2) * draws.standard_normal(seeds)
        noise = world.of_both / math.sqrt(2) * damping * heavy(seeds)
        bits = world.losses[arm] + hardness + effect + of_seed[:, None] + noise
        scores[arm] = [Scores(ids, num_bytes, num_bytes, row * units, groups) for row in bits]
        hard_here = float((hardness * units).sum() / units.sum())
        effect_here = float((effect * units).sum() / units.sum())
        true["documents"][arm] = world.losses[arm] + float(of_seed.mean())
        true["seeds"][arm] = world.losses[arm] + hard_here + effect_here
        true["both"][arm] = world.losses[arm]
    return Experiment(scores, true)


def _groups(world: Components, number: int) -> NDArray[np.int64] | None:
    """The group of each document."""
    if not world.groups:
        return None
    draws = rng(number, "calibration of statistics, groups")
    return draws.choice(world.groups, world.documents, p=draws.dirichlet([2.0] * world.groups))


def _heavy(draws: np.random.Generator, tails: float, shape: tuple[int, ...]) -> NDArray[Any]:
    """Student's t, scaled to a standard deviation of 1."""
    return draws.standard_t(tails, shape) / math.sqrt(tails / (tails - 2))


def true_multiple(losses: Mapping[str, float]) -> float:
    """Where the line through repetition's losses, in the logarithm of the data, meets SBP's."""
    for (a, x), (b, y) in pairwise(MULTIPLES.items()):
        if losses[a] >= losses["sbp"] >= losses[b]:
            part = (losses[a] - losses["sbp"]) / (losses[a] - losses[b])
            return math.exp(math.log(x) + part * math.log(y / x))
    raise ValueError("no repetition is as good as SBP in this world")


def held(world: Components, number: int, num_resamples: int) -> dict[str, bool | None]:
    """Whether each interval of an experiment holds its truth; None where it was refused."""
    drawn = experiment(world, number)
    losses = Losses(drawn.scores, "bits_per_byte", seed=number, num_resamples=num_resamples)
    share = recovered(losses, "sbp")
    multiple = data_efficiency(losses, "sbp", MULTIPLES)
    found: dict[str, bool | None] = {}
    for over in OVER:
        true = drawn.true[over]
        gain, whole = (true["repetition"] - true[arm] for arm in ("sbp", "oracle"))
        bounds = losses.interval({"repetition": 1.0, "sbp": -1.0}, over)
        found[f"gain over {over}"] = _holds(bounds, gain)
        found[f"recovered over {over}"] = _holds(getattr(share, over), gain / whole)
        found[f"data efficiency over {over}"] = _holds(getattr(multiple, over), true_multiple(true))
    return found


def _holds(bounds: Interval | Multiples | Refused, truth: float) -> bool | None:
    if isinstance(bounds, Refused):
        return None
    low = -math.inf if bounds.low is None else bounds.low
    high = math.inf if bounds.high is None else bounds.high
    return low <= truth <= high


def proportions(experiments: int) -> list[bool]:
    """Whether Wilson's interval holds the truth: rates between 2% and 50%, 100 to 400 texts."""
    draws = rng(0, "calibration of proportions")
    found = []
    for _ in range(experiments):
        rate, total = draws.uniform(0.02, 0.5), int(draws.integers(100, 401))
        low, high = proportion_interval(int(draws.binomial(total, rate)), total)
        found.append(bool(low <= rate <= high))
    return found


def run(quick: bool) -> dict[str, Any]:
    """Coverage of every interval in every world."""
    experiments, num_resamples = (200, 400) if quick else (4000, 1000)
    coverage = []
    for name, world in WORLDS.items():
        count = max(200, experiments // 4) if world.groups else experiments
        outcomes = [held(world, number, num_resamples) for number in range(count)]
        for interval in outcomes[0]:
            known = [o for outcome in outcomes if (o := outcome[interval]) is not None]
            coverage.append(_coverage(name, interval, known, count))
    coverage.append(_coverage("rates", "proportion", proportions(experiments), experiments))
    margin = 3 * math.sqrt(0.95 * 0.05 / experiments) if quick else 0.0
    low, high = BOUNDS[0] - margin, min(BOUNDS[1] + margin, 1.0)
    return {
        "experiments": experiments,
        "resamples": num_resamples,
        "bounds": [low, high],
        "coverage": coverage,
        "held": all(
            low <= row["coverage"] and (row["coverage"] <= high or row["world"] == FEW_GROUPS)
            for row in coverage
        ),
    }


def _coverage(world: str, interval: str, known: list[bool], asked: int) -> dict[str, Any]:
    rate = sum(known) / len(known)
    return {
        "world": world,
        "interval": interval,
        "coverage": rate,
        "experiments": asked,
        "standard_error": math.sqrt(rate * (1 - rate) / len(known)),
        "refused": asked - len(known),
    }


def summary(outcome: Mapping[str, Any]) -> str:
    """A table of the coverage of every interval."""
    low, high = outcome["bounds"]
    rows = [
        f"| {row['world']} | {row['interval']} | {row['coverage']:.1%} "
        f"| {row['standard_error']:.1%} | {row['refused']} |"
        for row in outcome["coverage"]
    ]
    verdict = "all of them" if outcome["held"] else "NOT all of them"
    return "\n".join(
        [
            f"Coverage of 95% intervals in {outcome['experiments']:,} simulated experiments, a "
            "quarter as many of worlds with groups",
            "| world | interval | coverage | its standard error | refused |",
            "|---|---|---|---|---|",
            *rows,
            f"{verdict} between {low:.1%} and {high:.1%} (in {FEW_GROUPS}: at least {low:.1%})",
        ]
    )
