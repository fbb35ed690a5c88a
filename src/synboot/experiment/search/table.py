"""A search as lines for a terminal: what it would do, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synboot.experiment.search.settings import SECTION


def search_table(found: Mapping[str, Any]) -> str:
    """Every trial of every arm, a line each, winners marked; then what to be wary of."""
    lines = [_head(found), _header(found, "loss")]
    for arm, one in found["arms"].items():
        for trial in one["trials"]:
            mark = "*" if trial["trial"] == one["winner"] else ""
            note = "diverged"
            if "diverged" not in trial:
                step = f"step {trial['step']:,} of {trial['steps']:,}"
                note = f"{trial['validation_loss']:9.4f}  {step}"
            lines.append(_line(arm, mark, trial, found, note))
    lines.append("* lowest validation loss of its arm; trial 0 has the recipe's own settings")
    lines += [
        f"{arm}: {name.removeprefix(SECTION)} {one['settings'][name]:g} is the {edge} tried; "
        "better values may lie beyond"
        for arm, one in found["arms"].items()
        for name, edge in one["at_the_edge"].items()
    ]
    lines += [f"{arm} has the winner of {of}" for arm, of in found["has_the_winner_of"].items()]
    return "\n".join(lines)


def planned_table(described: Mapping[str, Any]) -> str:
    """What a search would do, a line for each trial."""
    lines = [_head(described), _header(described, "")]
    for arm, trials in described["arms"].items():
        for trial in trials:
            stage = (trial["stage"] or "after repetition's winner")[:25]
            lines.append(_line(arm, "", trial, described, f"{trial['status']:8} {stage}"))
    total = sum(len(trials) for trials in described["arms"].values())
    lines.append(f"{described['missing']} of {total} trials are missing")
    if flops := described["known_flops_to_do"]:
        lines.append(f"training them takes {flops:.2e} FLOPs; the synthetic text comes on top")
    return "\n".join(lines)


def _head(found: Mapping[str, Any]) -> str:
    return (
        f"{found['trials_per_arm']} trials an arm, seed {found['seed']}, "
        f"{found['training_tokens']:,} training tokens a trial; nats per token of validation text"
    )


def _names(found: Mapping[str, Any]) -> Sequence[str]:
    return list(found["space"])


def _header(found: Mapping[str, Any], last: str) -> str:
    names = "  ".join(name.removeprefix(SECTION) for name in _names(found))
    return f"{'arm':20} trial  {names}  {last:>9}".rstrip()


def _line(
    arm: str, mark: str, trial: Mapping[str, Any], found: Mapping[str, Any], note: str
) -> str:
    values = "  ".join(
        f"{trial['settings'][name]:>{len(name.removeprefix(SECTION))}g}" for name in _names(found)
    )
    return f"{arm:20} {trial['trial']:4}{mark:1}  {values}  {note}".rstrip()
