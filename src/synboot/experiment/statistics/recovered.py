"""The share of the oracle's gain that an arm brings."""

from __future__ import annotations

from dataclasses import dataclass

from synboot.experiment.statistics.inversion import set_around
from synboot.experiment.statistics.losses import (
    Bounds,
    Figure,
    Interval,
    Losses,
    Over,
    Refused,
    Weights,
)


@dataclass(frozen=True)
class Recovered:
    """(repetition - arm) / (repetition - oracle) with its intervals, or one line on why no value
    is stated."""

    value: float | None
    refused: str | None
    documents: Bounds
    seeds: Bounds
    both: Bounds


def recovered(
    losses: Losses, arm: str, *, reference: str = "repetition", oracle: str = "oracle"
) -> Recovered:
    """The share, refused where the interval of the oracle's gain is not clear of zero from above:
    over documents, and where there are several seeds over both.

    Each interval has the shares r at which the interval of (reference - arm) - r (reference -
    oracle) holds zero, and is refused where the oracle's gain is not clear of zero in it: the set
    would have no end. The share is the same number in every metric that is a ratio of sums; only
    the gain in a reason has the metric's unit.
    """
    gain = losses.figure({reference: 1.0, oracle: -1.0})
    if refused := _why_unclear(losses, gain):
        nothing = Refused(refused)
        return Recovered(None, refused, nothing, nothing, nothing)
    value = losses.value({reference: 1.0, arm: -1.0}) / gain.value

    def ends(over: Over) -> Bounds:
        if refused := _why_not(losses, gain, over):
            return Refused(refused)
        # The arm itself may have another number of seeds.
        everything = losses.interval({reference: 1.0, arm: 1.0, oracle: 1.0}, over)
        if isinstance(everything, Refused):
            return everything

        def at(share: float) -> Interval:
            interval = losses.interval(_contrast(share, reference, arm, oracle), over)
            assert isinstance(interval, Interval)
            return interval

        return set_around(at, value)

    return Recovered(value, None, ends("documents"), ends("seeds"), ends("both"))


def _contrast(share: float, reference: str, arm: str, oracle: str) -> Weights:
    weights = {reference: 1 - share, oracle: share}
    return weights | {arm: weights.get(arm, 0.0) - 1}


def _why_unclear(losses: Losses, gain: Figure) -> str | None:
    """Why the oracle's gain cannot be divided by."""
    several = isinstance(gain.both, Interval)
    governing: tuple[Over, ...] = ("documents", "both") if several else ("documents",)
    return next((why for over in governing if (why := _why_not(losses, gain, over))), None)


def _why_not(losses: Losses, gain: Figure, over: Over) -> str | None:
    bounds = gain.over(over)
    if isinstance(bounds, Refused):
        return bounds.reason
    if bounds.low > 0:
        return None
    unit = losses.metric.replace("_", " ")
    kind = "" if over == "documents" else f" over {over}"
    return (
        f"the oracle's gain over repetition, {gain.value:.4f} {unit} "
        f"[{bounds.low:.4f}, {bounds.high:.4f}]{kind}, is not clear of zero"
    )
