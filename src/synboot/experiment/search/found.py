"""What a search found, read back from search.json, and how the page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from synboot.core.config import Config, validate
from synboot.core.errors import BadInput
from synboot.core.storage import read_json
from synboot.experiment.phrases import arm_label, is_number
from synboot.experiment.search.settings import TUNE, Settings, field_of


class _Read(Config):
    model_config = ConfigDict(extra="ignore")


class _Trial(_Read):
    trial: int
    settings: Settings
    validation_loss: float | None
    diverged: str | None = None
    initial_validation_loss: float | None = None


class _Trials(_Read):
    winner: int
    settings: Settings
    validation_loss: float
    at_the_edge: dict[str, str]
    trials: list[_Trial] = Field(min_length=1)

    @model_validator(mode="after")
    def _of_one_space(self) -> Self:
        names = self.settings.keys()
        if not any(one.trial == self.winner and one.validation_loss for one in self.trials):
            raise ValueError(f"winner: expected a trial with a loss, got {self.winner}")
        if any(trial.settings.keys() != names for trial in self.trials):
            raise ValueError(f"trials: expected each to have the settings {', '.join(names)}")
        if not self.at_the_edge.keys() <= names:
            raise ValueError(f"at_the_edge: expected some of {', '.join(names)}")
        return self


class _OfTune(_Trials):
    on_the_pairs_of: str
    seed: int


class _Found(_Read):
    schema_: Literal[1] = Field(alias="schema")
    recipe: str
    seed: int
    training_tokens: int
    trials_per_arm: int
    has_the_winner_of: dict[str, str]
    tune: _OfTune | None = None
    arms: dict[str, _Trials] = Field(min_length=1)

    @model_validator(mode="after")
    def _of_one_space(self) -> Self:
        if len({tuple(sorted(one.settings)) for one in self.arms.values()}) > 1:
            raise ValueError("arms: expected the same settings for all")
        return self


def read_search(path: Path) -> dict[str, Any]:
    """The value of a search.json. Raises BadInput, with the field, for anything else."""
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected the search.json of a search: {error}") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path}: expected the search.json of a search, got {found!r:.40}")
    validate(_Found, found, str(path))
    return found


def searches_section(searches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The values of `searches.html.jinja`: of each search every trial of every arm, and of tune."""
    return [_section(found) for found in searches]


def _section(found: Mapping[str, Any]) -> dict[str, Any]:
    arms, tune = found["arms"], found.get(TUNE)
    return {
        "recipe": found["recipe"],
        "says": (
            f"{found['trials_per_arm']} trials an arm, of {found['training_tokens']:,} training "
            f"tokens and with training seed {found['seed']}: nats per token of validation text. "
            "The lowest of an arm, in bold, chose its settings."
        ),
        "trials": _table({arm_label(arm): (one, "validation_loss") for arm, one in arms.items()}),
        "tune_says": tune
        and (
            f"{len(tune['trials'])} trials of tuning the synthesizer, with seed {tune['seed']}: "
            f"nats per token of the second document of {arm_label(tune['on_the_pairs_of'])}'s "
            "validation pairs. The lowest, in bold, wrote the synthetic text."
        ),
        "tune": tune
        and _table(
            {
                "before tuning": (tune, "initial_validation_loss"),
                "after it": (tune, "validation_loss"),
            }
        ),
        "remarks": [*_edges(found), *_diverged(found), *_shared(found)],
    }


def _table(columns: Mapping[str, tuple[Mapping[str, Any], str]]) -> dict[str, Any]:
    """A row for each combination of settings, with a field of the trials of each column."""
    names = list(next(iter(columns.values()))[0]["settings"])
    combinations = dict.fromkeys(
        tuple(trial["settings"][name] for name in names)
        for one, _ in columns.values()
        for trial in one["trials"]
    )
    return {
        "settings": [_words(name) for name in names],
        "columns": list(columns),
        "rows": [
            {
                "settings": [f"{value:g}" for value in combination],
                "cells": [
                    _cell(one, dict(zip(names, combination, strict=True)), field)
                    for one, field in columns.values()
                ],
            }
            for combination in combinations
        ],
    }


def _cell(one: Mapping[str, Any], settings: Settings, field: str) -> dict[str, Any]:
    trial: Mapping[str, Any] = next(
        (trial for trial in one["trials"] if trial["settings"] == settings), {}
    )
    decides = field == "validation_loss"
    return {
        "value": trial.get(field),
        "best": decides and trial.get("trial") == one["winner"],
        "diverged": decides and bool(trial.get("diverged")),
    }


def _words(name: str) -> str:
    """`pretrain.weight_decay -> weight decay`."""
    return field_of(name).replace("_", " ")


def _edges(found: Mapping[str, Any]) -> list[str]:
    """Which winners have a value beyond which better ones may lie, by setting."""
    arms_at: dict[tuple[str, str], list[str]] = {}
    for arm, one in _searched(found).items():
        for name, edge in one["at_the_edge"].items():
            at = (name, f"{one['settings'][name]:g}, the {edge} that was tried")
            arms_at.setdefault(at, []).append(arm)
    return [
        f"Better ones may lie beyond {_words(name)} {where}: it won for {', '.join(arms)}."
        for (name, where), arms in arms_at.items()
    ]


def _diverged(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{arm}, trial {trial['trial']}: {trial['diverged']}"
        for arm, one in _searched(found).items()
        for trial in one["trials"]
        if trial.get("diverged")
    ]


def _searched(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The arms, and the synthesizer where its tuning was searched too, as people read them."""
    tune = {"the synthesizer": found[TUNE]} if found.get(TUNE) else {}
    return {arm_label(arm): one for arm, one in found["arms"].items()} | tune


def _shared(found: Mapping[str, Any]) -> list[str]:
    return [
        f"The settings of {arm_label(arm)} are those of {arm_label(other)}."
        for arm, other in found["has_the_winner_of"].items()
    ]


def losses_by_arm(found: Mapping[str, Any]) -> dict[str, list[float]]:
    """The validation losses of an arm's trials, lowest first; those that diverged have none."""
    return {
        arm: sorted(
            trial["validation_loss"]
            for trial in one["trials"]
            if is_number(trial["validation_loss"])
        )
        for arm, one in found["arms"].items()
    }
