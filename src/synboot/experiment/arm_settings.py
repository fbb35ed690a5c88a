"""Settings of single arms: what a recipe may set for one arm alone, and variants, which are arms
with other settings.

Settings are named as in a recipe, with dots: `tune.passes`. What all arms share (corpus, tokenizer,
budget but for the synthetic share, model, evaluation) cannot be set for one: the arms would not be
comparable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from synboot.core.config import Config, merge

ArmName = Literal[
    "repetition", "sbp", "oracle", "self_distillation", "random_pairs", "real_context"
]

REFERENCE = "repetition"
SAME_COST = "repetition_same_cost"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_TEXT = ("pretrain", "budget.synthetic_share")
_SETTINGS: dict[str, tuple[str, ...]] = {
    "repetition": ("pretrain",),
    "oracle": ("pretrain",),
    "sbp": (*_TEXT, "base_model", "pairs", "tune", "synthesize"),
    "random_pairs": (*_TEXT, "base_model", "pairs", "tune", "synthesize"),
    "self_distillation": (*_TEXT, "base_model", "tune.initial_checkpoint", "synthesize"),
    "real_context": (*_TEXT, "pairs"),
}
"""Sections and settings that mean something to an arm of that kind."""

_WITHOUT_SYNTHETIC = ("pretrain.order",)
_UNPROMPTED = ("synthesize.best_of", "synthesize.megadocuments")
_EXCEPT: dict[str, tuple[str, ...]] = {
    "repetition": _WITHOUT_SYNTHETIC,
    "oracle": _WITHOUT_SYNTHETIC,
    "self_distillation": _UNPROMPTED,
}
"""Of those, what does not: it needs other text to be ordered, or a seed document."""


def _flat(settings: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _with_dots(settings: Any) -> Any:
    """`{a: {b: 1}, c.d: 2} -> {a.b: 1, c.d: 2}`: a command line's settings come nested."""
    return dict(_flat(settings)) if isinstance(settings, Mapping) else settings


Settings = Annotated[dict[str, Any], BeforeValidator(_with_dots)]
"""Values by setting, `{pretrain.weight_decay: 3.0}`."""


class VariantConfig(Config):
    """An arm of its own that is another one with other settings."""

    of: ArmName
    """The arm that it is but for `set` and `rounds`; it shares that arm's text where these leave it
    alone."""
    set: Settings = Field(default_factory=dict)
    """By dotted name, `{tune.passes: 4}`: settings that `overrides` may have too. It or `rounds`
    must be given."""
    rounds: int = Field(default=1, ge=1)
    """Times that text is written (sbp, random_pairs, self_distillation): the jointly trained model
    of a round is the base of the next."""

    @model_validator(mode="after")
    def _differs(self) -> VariantConfig:
        if not self.set and self.rounds == 1:
            raise ValueError(f"expected set or rounds: without them it is {self.of}")
        if self.rounds > 1 and "synthesize" not in _SETTINGS[self.of]:
            raise ValueError(f"rounds: {self.of} has no text that a model writes")
        return self


def arm_of_multiple(multiple: float) -> str:
    """The arm that repeats `multiple` times the unique budget."""
    return f"repetition_{multiple:g}x"


def is_multiple(arm: str) -> bool:
    """Whether `arm_of_multiple` names an arm so."""
    return re.fullmatch(rf"{REFERENCE}_\d+(\.\d+)?(e\+\d+)?x", arm) is not None


def family_of(arm: str) -> str:
    """The arm whose settings it has: repetition of more text, or for longer, is repetition."""
    return REFERENCE if arm.startswith(f"{REFERENCE}_") else arm


def settings_of(
    arm: str, variants: Mapping[str, VariantConfig], overrides: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The settings of its family, of the arm itself and of a variant, the last above the others."""
    own, kind = ({**variants[arm].set}, variants[arm].of) if arm in variants else ({}, arm)
    return {**overrides.get(family_of(kind), {}), **overrides.get(kind, {}), **own}


def check_arms(
    known: Sequence[str],
    variants: Mapping[str, VariantConfig],
    overrides: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raises ValueError for a setting that an arm does not have, for a variant whose name cannot
    be or is
    that of an arm, and for settings of an arm that is not `known`."""
    for arm, settings in overrides.items():
        if arm not in known:
            raise ValueError(f"overrides: expected one of {', '.join(known)}, got {arm}")
        _check_settings(f"overrides.{arm}", arm, settings)
    for arm, variant in variants.items():
        if arm in known or not _NAME.fullmatch(arm):
            raise ValueError(
                "variants: expected a name of letters, digits, dots, dashes and underscores that "
                f"no arm has, got {arm}"
            )
        _check_settings(f"variants.{arm}.set", variant.of, variant.set)


def settings_for(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that can be set for an arm of that kind."""
    known, without = _SETTINGS[family_of(kind)], _EXCEPT.get(family_of(kind), ())
    return {
        name: value
        for name, value in settings.items()
        if _is_below(name, known) and not _is_below(name, without)
    }


def _check_settings(where: str, kind: str, settings: Mapping[str, Any]) -> None:
    known, without = _SETTINGS[family_of(kind)], _EXCEPT.get(family_of(kind), ())
    possible = settings_for(kind, settings)
    for name, value in settings.items():
        if "." not in name and name in possible:
            raise ValueError(f"{where}: {name}: expected a mapping of its settings, got {value!r}")
        if name not in possible:
            but = f" but {', '.join(without)}" if without else ""
            raise ValueError(
                f"{where}: {name} cannot be set for {kind} alone; expected settings of "
                f"{', '.join(known)}{but}"
            )


def _is_below(name: str, sections: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{section}.") for section in sections)


def by_section(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`{a.b: 1, a.c: 2} -> {a: {b: 1, c: 2}}`."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested


class ExperimentConfig(Config):
    """Which arms are compared over which training seeds."""

    arms: tuple[ArmName, ...] = ("repetition", "sbp", "oracle")
    """repetition (unique text), sbp (unique and synthetic text), oracle (more unique text);
    controls: self_distillation (the base model's own text), random_pairs (a synthesizer tuned on
    them), real_context (real pairs, d2 right after d1)."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of weights and data order. An arm's text is written once, from a base model of the
    first one, and shared by its seeds, unless `bootstrap_per_seed`."""
    bootstrap_per_seed: bool = False
    """Write the synthetic text anew for every seed, so that intervals over seeds cover it."""
    repetition_multiples: tuple[Annotated[float, Field(gt=1)], ...] = ()
    """For each, an arm that repeats that many times as much unique text with the same training
    tokens, for data efficiency: 2, 4, 8."""
    cost_inclusive: bool = False
    """Add `repetition_same_cost`: repetition trained for longer, by the FLOPs of SBP's embedding,
    neighbours, tuning, synthesis and base models that are no arm."""
    variants: dict[str, VariantConfig] = Field(default_factory=dict)
    """By name."""
    overrides: dict[str, Settings] = Field(default_factory=dict)
    """By arm, settings of it and its variants alone (repetition's are those of base models too): of
    `pretrain`; for arms with other text also `budget.synthetic_share`, and those of `base_model`,
    `pairs`, `tune` and `synthesize` that it is made with. null takes out what a base recipe has."""
    ensembles: bool = False
    """Also score the mean probability of an arm's seeds, of which there must be several."""

    @field_validator("overrides", mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if type(given) is not dict:
            return given
        taken_out = [arm for arm, settings in given.items() if settings is None]
        for arm in taken_out:
            if arm not in (*get_args(ArmName), SAME_COST) and not is_multiple(str(arm)):
                raise ValueError(f"expected an arm to take out, got {arm}")
        return {arm: settings for arm, settings in given.items() if arm not in taken_out}

    def kind_of(self, arm: str) -> str:
        """What an arm is a variant of; itself, if it is none."""
        return self.variants[arm].of if arm in self.variants else arm

    def settings_of(self, arm: str) -> dict[str, Any]:
        """The arm's own settings; a variant has those of its arm, and its own above them."""
        return settings_of(arm, self.variants, self.overrides)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name, values in (("arms", self.arms), ("seeds", self.seeds)):
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name}: expected at least one and no two alike")
        if len({f"{multiple:g}" for multiple in self.repetition_multiples}) != len(
            self.repetition_multiples
        ):
            raise ValueError("repetition_multiples: expected no two alike")
        return self

    @model_validator(mode="after")
    def _arms_that_settings_need(self) -> Self:
        for name, arm in (("repetition_multiples", "repetition"), ("cost_inclusive", "sbp")):
            if getattr(self, name) and arm not in self.arms:
                raise ValueError(f"{name}: expected {arm} among the arms")
        if self.ensembles and len(self.seeds) == 1:
            raise ValueError("ensembles: expected several seeds")
        return self

    @model_validator(mode="after")
    def _settings_of_arms(self) -> Self:
        multiples = (arm_of_multiple(multiple) for multiple in self.repetition_multiples)
        known = (*get_args(ArmName), *multiples, SAME_COST)
        check_arms(known, self.variants, self.overrides)
        return self
