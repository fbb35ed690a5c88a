"""A search as lines for a terminal: what it would do, and what it found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from synboot.experiment.arm_settings import REFERENCE
from synboot.experiment.search.settings import TUNE, field_of


def search_table(found: Mapping[str, Any]) -> str:
    """Every trial of arms and of tune, a line each, winners marked; then what to be wary of."""
    tune = {TUNE: found[TUNE]} if TUNE in found else {}
    lines = [_head(found), _header(found["space"], "loss")]
    lines += _trials(found["arms"], found["space"])
    if tune:
        lines += [_head_of_tune(found[TUNE]), _header(found[TUNE]["space"], "loss")]
        lines += _trials(tune, found[TUNE]["space"])
    lines.append("* lowest validation loss of its arm; trial 0 has the recipe's own settings")
    lines += [
        f"{arm}: {field_of(name)} {one['settings'][name]:g} is the {edge} tried; "
        "better values may lie beyond"
        for arm, one in {**tune, **found["arms"]}.items()
        for name, edge in one["at_the_edge"].items()
    ]
    lines += [f"{arm} has the winner of {of}" for arm, of in found["has_the_winner_of"].items()]
    return "\n".join(lines)


def _trials(found: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    lines = []
    for arm, one in found.items():
        for trial in one["trials"]:
            mark = "*" if trial["trial"] == one["winner"] else ""
            note = "diverged"
            if "diverged" not in trial:
                step = f"step {trial['step']:,} of {trial['steps']:,}"
                note = f"{trial['validation_loss']:9.4f}  {step}"
            if "initial_validation_loss" in trial:
                note += f", before it {trial['initial_validation_loss']:.4f}"
            lines.append(_line(arm, mark, trial, names, note))
    return lines


def planned_table(described: Mapping[str, Any]) -> str:
    """What a search would do, a line for each trial."""
    tune = described.get(TUNE)
    lines = [_head(described), _header(described["space"], "")]
    before = TUNE if tune else REFERENCE
    for arm, trials in described["arms"].items():
        lines += [_planned(arm, trial, described["space"], before) for trial in trials]
    num_trials, flops = sum(map(len, described["arms"].values())), described["known_flops_to_do"]
    if tune:
        lines += [_head_of_tune(tune), _header(tune["space"], "")]
        lines += [_planned(TUNE, trial, tune["space"], REFERENCE) for trial in tune["trials"]]
        num_trials, flops = num_trials + len(tune["trials"]), flops + tune["estimated_flops_to_do"]
    lines.append(f"{described['missing']} of {num_trials} trials are missing")
    if flops:
        about = "about " if tune and tune["estimated_flops_to_do"] else ""
        lines.append(
            f"training them takes {about}{flops:.2e} FLOPs; the synthetic text comes on top"
        )
    return "\n".join(lines)


def _planned(arm: str, trial: Mapping[str, Any], names: Iterable[str], before: str) -> str:
    stage = (trial["stage"] or f"after {before}'s winner")[:25]
    return _line(arm, "", trial, names, f"{trial['status']:8} {stage}")


def _head(found: Mapping[str, Any]) -> str:
    return (
        f"{found['trials_per_arm']} trials an arm, seed {found['seed']}, "
        f"{found['training_tokens']:,} training tokens a trial; nats per token of validation text"
    )


def _head_of_tune(tune: Mapping[str, Any]) -> str:
    return (
        f"{len(tune['trials'])} trials of tune, seed {tune['seed']}, on the pairs of "
        f"{tune['on_the_pairs_of']}; nats per token of d2 of validation pairs"
    )


def _header(names: Iterable[str], last: str) -> str:
    return f"{'arm':20} trial  {'  '.join(map(field_of, names))}  {last:>9}".rstrip()


def _line(arm: str, mark: str, trial: Mapping[str, Any], names: Iterable[str], note: str) -> str:
    values = "  ".join(f"{trial['settings'][name]:>{len(field_of(name))}g}" for name in names)
    return f"{arm:20} {trial['trial']:4}{mark:1}  {values}  {note}".rstrip()
