"""The recipe that a search leaves: with the winners, and no choice left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from synboot.experiment.arm_settings import REFERENCE
from synboot.experiment.arms import arm_names
from synboot.experiment.recipe import Recipe
from synboot.experiment.search.settings import (
    PRETRAIN,
    TUNE,
    Settings,
    fewer_trials,
    field_of,
    with_settings,
)


def frozen_recipe(
    recipe: Recipe, found: Mapping[str, Any], written: Mapping[str, Any] | None = None
) -> str:
    """The recipe as YAML, what was found laid over it: the winner of repetition as `pretrain`,
    which is the base model's, that of tuning as `tune`, and every arm's in `experiment.overrides`,
    above what stood there.

    Where files lie and how the machine is used stand in it as they do in the recipe's file,
    `written`; what was given beside it is given again.
    """
    values = recipe.model_dump(mode="json", exclude_unset=True)
    if written is not None:
        for section, field in (("corpus", "path"), ("evaluate", "tasks")):
            _as_written(values, written, section, field)
        values.pop("runtime", None)
        values |= {"runtime": dict(written["runtime"])} if written.get("runtime") else {}
    arms = arm_names(recipe.experiment)
    winners: dict[str, Settings] = {arm: one["settings"] for arm, one in found["arms"].items()}
    winners |= {arm: winners[other] for arm, other in found["has_the_winner_of"].items()}
    of_tune = found[TUNE]["settings"] if TUNE in found else {}
    for section, own in ((PRETRAIN, winners.get(REFERENCE, {})), (TUNE, of_tune)):
        values[section] |= {field_of(name): value for name, value in own.items()}
        if recipe.search is not None:
            config = with_settings(getattr(recipe, section), own, section)
            values["search"] |= fewer_trials(recipe.search, config, section)
    before = values.get("experiment", {}).get("overrides", {})
    overrides = before | {
        arm: {**before.get(arm, {}), **winners[arm]} for arm in arms if arm in winners
    }
    values["experiment"] = values.get("experiment", {}) | {"overrides": overrides}
    note = (
        f"# Frozen by synboot search: the best of {found['trials_per_arm']} trials an arm on "
        f"validation text\n# (seed {found['seed']}, {found['training_tokens']:,} training tokens "
        "a trial); test text was not read.\n"
    )
    if TUNE in found:
        num_trials = len(found[TUNE]["trials"])
        note += f"# tune: the best of {num_trials} trials on validation pairs.\n"
    return note + yaml.safe_dump(values, sort_keys=False, width=100)


def _as_written(
    values: dict[str, Any], written: Mapping[str, Any], section: str, field: str
) -> None:
    before = written.get(section) or {}
    if field in before:
        values[section][field] = before[field]
    else:
        values.get(section, {}).pop(field, None)
