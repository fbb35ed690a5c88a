"""What the scores of the arms come to, as the plain values of `result.json`.

Intervals are `{"low", "high"}`, or `{"refused": reason}`. `low` and `high` beside a figure itself
are the ends of its interval over documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from synboot.experiment.arm_settings import REFERENCE, SAME_COST, is_multiple
from synboot.experiment.phrases import verdict_of
from synboot.experiment.statistics.efficiency import Multiples, data_efficiency
from synboot.experiment.statistics.losses import LEVEL, Bounds, Losses, Refused
from synboot.experiment.statistics.recovered import recovered
from synboot.experiment.statistics.scores import Metric, Scores

ARM_SCORES = Mapping[str, Sequence[Scores]]
"""Scores of each arm, one for each training seed, in the order of seeds."""

METRICS: tuple[Metric, ...] = ("bits_per_byte", "nats_per_token")
_FEW_DOCUMENTS = 30
_ORACLE = "oracle"
_METHOD = "sbp"
_COVERS = {
    "documents": "other documents like those scored; the trained models are what they are",
    "seeds": "other training seeds (initial weights, order of data); the documents scored and the "
    "synthetic text are what they are",
    "both": "other documents and other training seeds; the synthetic text is what it is",
}
_COVERS_TEXT = {
    "seeds": "other seeds of base model, tuning, synthetic text and training; the pairs and the "
    "documents scored are what they are",
    "both": "other documents, and other seeds of base model, tuning, synthetic text and training; "
    "the pairs are what they are",
}


def metrics(scores: Scores) -> dict[str, float]:
    """What an arm scores, in every unit."""
    return {
        "nats_per_token": scores.nats_per_token(),
        "perplexity": scores.perplexity(),
        "bits_per_byte": scores.bits_per_byte(),
    }


def findings(
    scores: ARM_SCORES,
    *,
    seed: int,
    num_resamples: int,
    multiples: Mapping[str, float] | None = None,
    text_per_seed: bool = False,
    rivals_of: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """`comparisons`, `recovered`, `statistics`, `data_efficiency`.

    `multiples`: the arms that are repetition of more and more unique text, and how many times the
    unique budget it is; `text_per_seed`: synthetic text is written anew for every seed;
    `rivals_of`: the arms that a variant of SBP is compared with beside repetition and SBP. Raises
    ValueError as `Losses` does.
    """
    of_metric = {
        metric: Losses(scores, metric, seed=seed, num_resamples=num_resamples) for metric in METRICS
    }
    losses, multiples = of_metric["bits_per_byte"], multiples or {}
    real = {REFERENCE, _ORACLE, *multiples}
    measured = [arm for arm in losses.arms if arm not in real and not is_multiple(arm)]
    share = {REFERENCE, _METHOD, _ORACLE} <= set(losses.arms)
    rivals = [arm for arm in measured if arm != _METHOD and _METHOD in losses.arms]
    return {
        "comparisons": _gains(of_metric, REFERENCE),
        "recovered": {m: share_values(of_metric[m], _METHOD) for m in METRICS} if share else None,
        "statistics": {
            "level": LEVEL,
            "documents": losses.num_documents,
            "effective_documents": losses.effective_documents,
            "groups": losses.num_groups,
            "effective_groups": losses.effective_groups,
            "seeds": losses.num_seeds(),
            "resamples": num_resamples,
            "covers": _covers(text_per_seed, in_groups=losses.num_groups is not None),
            "recovered": {arm: share_values(losses, arm) for arm in measured}
            if {REFERENCE, _ORACLE} <= set(losses.arms)
            else {},
            "sbp_over": {
                arm: {metric: gain(of_metric[metric], arm, _METHOD) for metric in METRICS}
                for arm in rivals
            },
            "variants_over": {
                variant: {
                    arm: {metric: gain(of_metric[metric], arm, variant) for metric in METRICS}
                    for arm in arms
                }
                for variant, arms in (rivals_of or {}).items()
            },
        },
        "data_efficiency": _efficiency(losses, measured, multiples),
    }


def doubts(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the findings must know before believing an interval."""
    statistics, lines = found["statistics"], []
    if groups := statistics["groups"]:
        if (effective := statistics["effective_groups"]) < _FEW_DOCUMENTS:
            lines.append(
                f"The {statistics['documents']} scored documents come from {groups} groups, which "
                f"weigh as {effective:.0f} equally large ones: intervals over documents hang on "
                "these few groups and may be too narrow."
            )
    elif (effective := statistics["effective_documents"]) < _FEW_DOCUMENTS:
        lines.append(
            f"The {statistics['documents']} scored documents weigh as {effective:.0f} equally long "
            "ones: a few hold most of the text, intervals over documents hang on these and may be "
            "too narrow."
        )
    if (statistics["seeds"] or 0) > 1:
        lines.append(f"Intervals over seeds cover {statistics['covers']['seeds']}.")
    runs = (found["data_efficiency"] or {}).get("runs") or []
    losses = [run[found["data_efficiency"]["metric"]] for run in runs]
    if any(before < after for before, after in pairwise(losses)):
        lines.append(
            "Repetition did worse with more text somewhere between its runs; for data efficiency "
            "such runs count as one level (their mean), and where that does not tell nothing is "
            "stated."
        )
    return lines


def _covers(text_per_seed: bool, *, in_groups: bool) -> dict[str, str]:
    """What each interval is over, in words."""
    covers = _COVERS | (_COVERS_TEXT if text_per_seed else {})
    if not in_groups:
        return covers
    what = "other groups of documents"
    return {over: words.replace("other documents", what) for over, words in covers.items()}


def _gains(of_metric: Mapping[Metric, Losses], reference: str) -> dict[str, Any]:
    arms = of_metric["bits_per_byte"].arms
    if reference not in arms:
        return {}
    return {
        arm: {metric: gain(losses, reference, arm) for metric, losses in of_metric.items()}
        for arm in arms
        if arm != reference
    }


def gain(losses: Losses, reference: str, arm: str) -> dict[str, Any]:
    """What `arm` gains over `reference`: how many bits or nats less it needs."""
    figure = losses.figure({reference: 1.0, arm: -1.0})
    values = {
        "gain": figure.value,
        **_ends(figure.documents),
        "by_seed": figure.by_seed,
        "seeds": _bounds(figure.seeds),
        "both": _bounds(figure.both),
    }
    return values | {"verdict": verdict_of(values)}


def share_values(losses: Losses, arm: str) -> dict[str, Any]:
    """The arm's share of the oracle's gain."""
    found = recovered(losses, arm, reference=REFERENCE, oracle=_ORACLE)
    return {
        "value": found.value,
        **_ends(found.documents),
        "refused": found.refused,
        "seeds": _bounds(found.seeds),
        "both": _bounds(found.both),
    }


def _efficiency(
    losses: Losses, measured: Sequence[str], multiples: Mapping[str, float]
) -> dict[str, Any] | None:
    """How many times the unique data repetition would need, for each arm that is not more data;
    None without two amounts to interpolate between."""
    runs: dict[str, float] = {}
    for arm, multiple in multiples.items():  # the first of arms that are the same run
        if arm in losses.arms and multiple not in runs.values():
            runs[arm] = multiple
    if REFERENCE not in runs or len(runs) < 2:
        return None
    found = {arm: data_efficiency(losses, arm, runs) for arm in measured if arm != SAME_COST}
    return {
        "metric": losses.metric,
        "runs": [
            {"arm": arm, "multiple": multiple, losses.metric: losses.loss(arm)}
            for arm, multiple in sorted(runs.items(), key=lambda run: run[1])
        ],
        "arms": {
            arm: {
                "value": one.value,
                "beyond": one.beyond,
                "documents": _bounds(one.documents),
                "seeds": _bounds(one.seeds),
                "both": _bounds(one.both),
            }
            for arm, one in found.items()
        },
    }


def _bounds(bounds: Bounds | Multiples) -> dict[str, Any]:
    if isinstance(bounds, Refused):
        return {"refused": bounds.reason}
    return {"low": bounds.low, "high": bounds.high}


def _ends(bounds: Bounds) -> dict[str, float | None]:
    """Of an interval over documents."""
    if isinstance(bounds, Refused):
        return {"low": None, "high": None}
    return {"low": bounds.low, "high": bounds.high}
