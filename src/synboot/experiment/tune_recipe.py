"""tune.validate_on: by which pairs the synthesizer's checkpoint is chosen."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from synboot.core.config import Config

ValidateOn = Literal["held_out_pairs", "validation_text"]


class TuneValidationConfig(Config):
    """Validation of tuning.

    The base model knows the documents of held-out pairs: they are in the unique budget, which it
    passed many times. It forgets them in tuning, so that the loss on them may rise from the first
    step on, whatever the synthesizer learns. Validation text it has never seen.
    """

    validate_on: ValidateOn = "held_out_pairs"
    """Held-out pairs of the unique budget, or the (at most 128) most similar pairs of documents of
    the validation split; then all pairs of the unique budget are trained on."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of pairs held out, at most; pairs that share a document with them serve neither
    side."""

    @model_validator(mode="after")
    def _fraction_of_pairs(self) -> Self:
        default = type(self).model_fields["validation_fraction"].default
        if self.validate_on == "validation_text" and self.validation_fraction != default:
            raise ValueError(
                "validation_fraction: with validate_on: validation_text no pair is held out, got "
                f"{self.validation_fraction:g}"
            )
        return self

    def validation_setting(self) -> dict[str, Any]:
        """The one setting that a stage's config needs."""
        if self.validate_on == "validation_text":
            return {"validate_on": self.validate_on}
        return {"validation_fraction": self.validation_fraction}
