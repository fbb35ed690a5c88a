"""The base model of an arm's text, where it is not the run's repetition."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from synboot.core.config import Config


class BaseModelConfig(Config):
    """In what the model that a synthesizer starts from (or that writes itself, in
    `self_distillation`) differs from repetition; null is as repetition has it.

    A writer need not be as large as the model that its text is for, nor as strongly regularised:
    its errors are diluted by real text, and by other writers.
    """

    preset: str | None = None
    """Of writers: the shape that the base model and the synthesizer have, in the first round."""
    learning_rate: float | None = Field(default=None, gt=0)
    """As in pretrain."""
    weight_decay: float | None = Field(default=None, ge=0)
    """As in pretrain."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """As in pretrain."""

    def settings(self) -> dict[str, Any]:
        """Those that are given, as settings of a recipe: `{model.preset: 3m}`."""
        given = self.model_dump(exclude_none=True)
        return {
            f"{'model' if name == 'preset' else 'pretrain'}.{name}": value
            for name, value in given.items()
        }
