"""The mean probability of an arm's seeds, as a reference beside the arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synboot.experiment.findings import metrics
from synboot.experiment.phrases import arm_label
from synboot.experiment.statistics.scores import Scores


def ensemble_facts(ensembles: Mapping[str, Scores], seeds: int) -> dict[str, Any]:
    """`ensembles` of a result, what each arm's ensemble of `seeds` models scores; nothing where
    there are none."""
    if not ensembles:
        return {}
    arms = {arm: {"test": metrics(scores)} for arm, scores in ensembles.items()}
    return {"ensembles": {"models": seeds, "arms": arms}}


def ensemble_lines(result: Mapping[str, Any]) -> list[str]:
    """What ensembles gain over the mean of their own models, a line an arm."""
    found = result.get("ensembles") or {}
    lines = []
    for arm, facts in (found.get("arms") or {}).items():
        models, own = found["models"], facts["test"]["bits_per_byte"]
        gain = result["arms"][arm]["test"]["bits_per_byte"] - own
        lines.append(
            f"{arm_label(arm)}: the mean probability of its {models} seeds has {own:.4f} bits per "
            f"byte, {abs(gain):.4f} {'fewer' if gain >= 0 else 'more'} than each of them on "
            f"average, for {models} times the training and the use"
        )
    return lines
