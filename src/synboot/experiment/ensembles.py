"""The mean probability of an arm's seeds, as a reference beside the arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synboot.experiment.findings import metrics
from synboot.experiment.statistics.scores import Scores


def ensemble_facts(ensembles: Mapping[str, Scores], seeds: int) -> dict[str, Any]:
    """`ensembles` of a result, what each arm's ensemble of `seeds` models scores; nothing where
    there are none."""
    if not ensembles:
        return {}
    arms = {arm: {"test": metrics(scores)} for arm, scores in ensembles.items()}
    return {"ensembles": {"models": seeds, "arms": arms}}


def ensemble_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bits per byte of each arm: `one`, the mean of its models, `ensemble`, and what it `saves`."""
    rows = []
    for arm, facts in (_found(result).get("arms") or {}).items():
        one = result["arms"][arm]["test"]["bits_per_byte"]
        ensemble = facts["test"]["bits_per_byte"]
        rows.append({"arm": arm, "one": one, "ensemble": ensemble, "saves": one - ensemble})
    return rows


def ensemble_note(result: Mapping[str, Any]) -> str:
    """What the rows are."""
    models = _found(result).get("models")
    return (
        f"The mean probability of each arm's {models} seeds beside one of them on average: a "
        f"reference, for {models} times the training and the use, not an arm of equal cost."
    )


def ensemble_lines(result: Mapping[str, Any]) -> list[str]:
    """The same for a terminal; nothing where there are none."""
    rows = ensemble_rows(result)
    if not rows:
        return []
    width = max(20, *(len(row["arm"]) for row in rows))
    return [
        ensemble_note(result),
        f"{'ensemble':{width}} bits/byte, one of it, gain",
        *(
            f"{row['arm']:{width}} {row['ensemble']:9.4f} {row['one']:7.4f} {row['saves']:+.4f}"
            for row in rows
        ),
    ]


def _found(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return result.get("ensembles") or {}
