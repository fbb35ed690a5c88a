"""The section `search` of a recipe: which settings of training are tried for every arm, and which
of tuning for the synthesizer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from pydantic import Field, model_validator

from synboot.core.config import Config, validate
from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.train.settings import LoopConfig

PRETRAIN, TUNE = "pretrain", "tune"

_NOT_SEARCHED = ("num_validations", "schedule")
"""Whoever looks at validation more often finds a lower lowest loss; a schedule is no number."""
_LOOP = tuple(name for name in LoopConfig.model_fields if name not in _NOT_SEARCHED)
_SEARCHED = {PRETRAIN: _LOOP, TUNE: (*_LOOP, "passes")}
"""What may be tried, by section: all else would change the text, and with it the arm, or what is
held out, and with it the loss that trials are compared by."""
_BEFORE = {PRETRAIN: "", TUNE: "tune_"}
"""How the names of a section's fields begin in this one."""
_LEAST = {"tune.passes": 1}
"""Beyond which there is nothing to try; of all else zero."""
_MAX_GRID = 100_000

Settings = Mapping[str, float]
"""Values by dotted name: `{"pretrain.weight_decay": 1.0}`."""
Space = dict[str, tuple[int | float, ...]]

LoopType = TypeVar("LoopType", bound=LoopConfig)


class SearchConfig(Config):
    """Equal tuning: the same trials for every arm, read on validation text; and, with `tune_space`,
    trials of the synthesizer, read on validation pairs."""

    trials: int = Field(default=8, ge=1)
    """Of every arm but variants and `repetition_same_cost`; the first has the recipe's own
    settings."""
    seed: int = 1000
    """Training seed of the arms' trials, none of the experiment's."""
    training_tokens: int | None = Field(default=None, ge=1)
    """Of an arm's trial, no more than the budget's; by default all of them."""
    space: Space = Field(min_length=1)
    """By dotted name, `{pretrain.weight_decay: [0.1, 1]}`: values of numbers of pretrain but
    num_validations; trials are drawn from all their combinations."""
    tune_trials: int = Field(default=8, ge=1)
    """Of the synthesizer; the first has the recipe's own settings."""
    tune_space: Space | None = Field(default=None, min_length=1)
    """The same of tune, `tune.passes` too, but for its validation_fraction; without them nothing is
    tried of it."""

    def values_of(self, section: str) -> Space:
        """The values that are tried of a section's settings."""
        return self.space if section == PRETRAIN else self.tune_space or {}

    def num_trials(self, section: str) -> int:
        """How many trials are asked, where something is tried of the section."""
        return self.trials if section == PRETRAIN else self.tune_trials

    @model_validator(mode="after")
    def _understood(self) -> Self:
        for section, fields in _SEARCHED.items():
            space, values_by_name = f"{_BEFORE[section]}space", self.values_of(section)
            expected = sorted(f"{section}.{field}" for field in fields)
            for name, values in values_by_name.items():
                if name not in expected:
                    known = ", ".join(expected)
                    raise ValueError(f"{space}: {name} cannot be searched; expected of {known}")
                if not values or len(set(values)) != len(values):
                    raise ValueError(
                        f"{space}.{name}: expected at least one value and no two alike"
                    )
            if math.prod(len(values) for values in values_by_name.values()) > _MAX_GRID:
                raise ValueError(f"{space}: expected at most {_MAX_GRID:,} combinations")
        return self


def tried_settings(
    search: SearchConfig, config: LoopConfig, seed: int, section: str = PRETRAIN
) -> list[Settings]:
    """The settings of all trials of a section, of pretrain the same for every arm: those of
    `config`, then combinations of the space in an order that `seed` keys, none twice. More trials
    go on where fewer ended. None where nothing is tried of the section.

    Raises ValueError if there are fewer combinations than trials, or if `config` cannot have one
    of the values.
    """
    space, before = search.values_of(section), _BEFORE[section]
    for name, values in space.items():
        for value in values:
            try:
                with_settings(config, {name: value}, section)
            except BadInput as error:
                raise ValueError(f"{before}space: {error}") from None
    own, others = _combinations(space, config)
    trials = search.num_trials(section) if space else 0
    if len(others) + 1 < trials:
        raise ValueError(
            f"{before}trials: {trials} asked, but {before}space and the recipe's own settings are "
            f"{len(others) + 1}"
        )
    order = rng(seed, "search").permutation(len(others))
    return [own, *(others[place] for place in order)][:trials]


def _combinations(space: Space, config: LoopConfig) -> tuple[Settings, list[Settings]]:
    """The settings that `config` has, and all others."""
    names = sorted(space)
    own = {name: getattr(config, field_of(name)) for name in names}
    grid = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(sorted(space[name]) for name in names))
    ]
    return own, [settings for settings in grid if settings != own]


def fewer_trials(search: SearchConfig, config: LoopConfig, section: str) -> dict[str, int]:
    """The field that says how many trials a section has, with as many as there are where `config`,
    which may be one of the combinations, leaves fewer; else nothing."""
    space = search.values_of(section)
    possible = len(_combinations(space, config)[1]) + 1
    too_many = space and possible < search.num_trials(section)
    return {f"{_BEFORE[section]}trials": possible} if too_many else {}


def with_settings(config: LoopType, settings: Settings, section: str = PRETRAIN) -> LoopType:
    """`config` with the values of `settings` that are of its section. Raises BadInput for one that
    it cannot have."""
    values: dict[str, Any] = config.model_dump()
    own = {name: value for name, value in settings.items() if name.startswith(f"{section}.")}
    values |= {field_of(name): value for name, value in own.items()}
    return validate(type(config), values, section)


def field_of(name: str) -> str:
    """`pretrain.weight_decay -> weight_decay`."""
    return name.partition(".")[2]


def edges(settings: Settings, search: SearchConfig, own: Settings) -> dict[str, str]:
    """Which settings are the lowest or the highest of those that could be tried, so that better
    ones may lie beyond; zero, or a single pass, is no such edge."""
    found = {}
    for name, value in settings.items():
        values = {*search.values_of(name.partition(".")[0])[name], own[name]}
        if len(values) > 1 and value == max(values):
            found[name] = "highest"
        elif len(values) > 1 and value == min(values) and value != _LEAST.get(name, 0):
            found[name] = "lowest"
    return found


def check_search(
    search: SearchConfig,
    configs: Mapping[str, LoopConfig],
    *,
    seed: int,
    seeds: tuple[int, ...],
    tokens: int,
) -> None:
    """Raises ValueError for a search that does not fit the recipe: `configs` are its sections by
    name, `seeds` its training seeds, `tokens` its training tokens."""
    if search.seed in seeds:
        raise ValueError(f"search.seed: expected none of experiment.seeds, got {search.seed}")
    if search.training_tokens is not None and search.training_tokens > tokens:
        raise ValueError(
            f"search.training_tokens: expected at most budget.training_tokens, {tokens}, got "
            f"{search.training_tokens}"
        )
    try:
        for section, config in configs.items():
            tried_settings(search, config, seed, section)
    except ValueError as error:
        raise ValueError(f"search.{error}") from None
