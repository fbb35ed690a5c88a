"""Settings of single arms: what a recipe may set for one arm alone, and variants, which are arms
with other settings.

Settings are named as in a recipe, with dots: `tune.passes`. What all arms share (corpus, tokenizer,
budget but for the synthetic share, model, evaluation) cannot be set for one: the arms would not be
comparable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

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
    set: Settings = Field(default_factory=dict)
    rounds: int = Field(default=1, ge=1)
    """Times that text is written: the jointly trained model of a round is the base of the next."""

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
