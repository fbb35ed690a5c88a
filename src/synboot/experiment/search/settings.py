"""The section `search` of a recipe: which settings of training are tried for every arm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from synboot.core.config import Config, validate
from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.train.loop import LoopConfig

SECTION = "pretrain."
"""How the names of searched settings begin: all else would change the text, and with it the arm."""

_NOT_SEARCHED = ("num_validations",)
"""Whoever looks at validation more often finds a lower lowest loss."""
_MAX_GRID = 100_000

Settings = Mapping[str, float]
"""Values by dotted name: `{"pretrain.weight_decay": 1.0}`."""


class SearchConfig(Config):
    """Equal tuning: the same trials for every arm, read on validation text."""

    trials: int = Field(default=8, ge=1)
    """Of every arm; the first has the recipe's own settings."""
    seed: int = 1000
    """Training seed of the trials, none of the experiment's."""
    training_tokens: int | None = Field(default=None, ge=1)
    """Of a trial; by default those of the recipe."""
    space: dict[str, tuple[int | float, ...]] = Field(min_length=1)
    """Values of settings of pretrain; trials are drawn from all their combinations."""

    @model_validator(mode="after")
    def _understood(self) -> Self:
        fields = set(LoopConfig.model_fields) - set(_NOT_SEARCHED)
        for name, values in self.space.items():
            if not name.startswith(SECTION) or name.removeprefix(SECTION) not in fields:
                known = ", ".join(sorted(SECTION + field for field in fields))
                raise ValueError(f"space: {name} cannot be searched; expected of {known}")
            if not values or len(set(values)) != len(values):
                raise ValueError(f"space.{name}: expected at least one value and no two alike")
        if math.prod(len(values) for values in self.space.values()) > _MAX_GRID:
            raise ValueError(f"space: expected at most {_MAX_GRID:,} combinations")
        return self


def tried_settings(search: SearchConfig, pretrain: LoopConfig, seed: int) -> list[Settings]:
    """The settings of all trials, the same for every arm: those of `pretrain`, then combinations of
    the space in an order that `seed` keys, none twice. More trials go on where fewer ended.

    Raises ValueError if there are fewer combinations than trials, or if `pretrain` cannot have one
    of the values.
    """
    names = sorted(search.space)
    own = {name: getattr(pretrain, name.removeprefix(SECTION)) for name in names}
    for name in names:
        for value in search.space[name]:
            try:
                with_settings(pretrain, {name: value})
            except BadInput as error:
                raise ValueError(f"space: {error}") from None
    grid = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(sorted(search.space[name]) for name in names))
    ]
    others = [settings for settings in grid if settings != own]
    if len(others) + 1 < search.trials:
        raise ValueError(
            f"trials: {search.trials} asked, but space and the recipe's own settings are "
            f"{len(others) + 1}"
        )
    order = rng(seed, "search").permutation(len(others))
    return [own, *(others[place] for place in order[: search.trials - 1])]


def with_settings(pretrain: LoopConfig, settings: Settings) -> LoopConfig:
    """`pretrain` with other values. Raises BadInput for one that it cannot have."""
    values: dict[str, Any] = pretrain.model_dump()
    values |= {name.removeprefix(SECTION): value for name, value in settings.items()}
    return validate(type(pretrain), values, "pretrain")


def edges(settings: Settings, search: SearchConfig, own: Settings) -> dict[str, str]:
    """Which settings are the lowest or the highest of those that could be tried, so that better
    ones may lie beyond; zero is no such edge."""
    found = {}
    for name, value in settings.items():
        values = {*search.space[name], own[name]}
        if len(values) > 1 and value == max(values):
            found[name] = "highest"
        elif len(values) > 1 and value == min(values) and value != 0:
            found[name] = "lowest"
    return found


def check_search(
    search: SearchConfig, pretrain: LoopConfig, *, seed: int, seeds: tuple[int, ...], tokens: int
) -> None:
    """Raises ValueError for a search that does not fit the recipe: `seeds` are its training seeds,
    `tokens` its training tokens."""
    if search.seed in seeds:
        raise ValueError(f"search.seed: expected none of experiment.seeds, got {search.seed}")
    if search.training_tokens is not None and search.training_tokens > tokens:
        raise ValueError(
            f"search.training_tokens: expected at most budget.training_tokens, {tokens}, got "
            f"{search.training_tokens}"
        )
    try:
        tried_settings(search, pretrain, seed)
    except ValueError as error:
        raise ValueError(f"search.{error}") from None
