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
    """Of AdamW, at its peak."""
    final_learning_rate_fraction: float = Field(default=0.005, ge=0, le=1)
    """Of the peak, at the end of a cosine."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate after warmup."""
    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises linearly from zero."""
    weight_decay: float = Field(default=0.1, ge=0)
    """A step shrinks the matrices by learning rate x weight decay."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the mean of their squares."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of that mean."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Norm of a step's gradient, at most."""


class LoopConfig(OptimConfig):
    """What a run of the loop is, besides its rows and its model."""

    batch_rows: int = Field(gt=0)
    """Rows of a step, each as long as the context; in tuning a row holds as many pairs as fit."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of what the embedding and the blocks add to the residual stream that a step sets to
    zero, the rest scaled up."""
    num_validations: int = Field(default=20, ge=1)
    """Validations spread evenly over the run; the last follows the last step. In
    pretraining each reads at most 100,000 tokens."""
