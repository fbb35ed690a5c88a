"""What a recipe can say of training: where and how it computes, the optimizer and the loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from synboot.core.config import Config

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]
CompileName = Literal["auto", "on", "off"]


class OptimConfig(Config):
    """How the weights are moved. `weight_decay` is decoupled (Loshchilov and Hutter): every step
    shrinks the matrices by learning rate x weight decay; norms' vectors are left alone."""

    learning_rate: float = Field(gt=0)
    final_learning_rate_fraction: float = Field(default=0.005, ge=0, le=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    weight_decay: float = Field(default=0.1, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    gradient_clip: float = Field(default=1.0, gt=0)


class LoopConfig(OptimConfig):
    """What a run of the loop is, besides its rows and its model."""

    batch_rows: int = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    num_validations: int = Field(default=20, ge=1)
    """Validations spread evenly over the run; the last follows the last step."""
