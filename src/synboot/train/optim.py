"""AdamW on matrices and vectors apart, and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field

from synboot.core.config import Config


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


def new_optimizer(model: torch.nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on parameters of two and more dimensions only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True
    )


def learning_rate(config: OptimConfig, step: int, num_steps: int) -> float:
    """The rate of a step (0-based): linear warmup over `warmup_fraction` of the steps, then
    constant, or a cosine down to `final_learning_rate_fraction` of the peak."""
    warmup = max(1, round(config.warmup_fraction * num_steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup + 1) / max(1, num_steps - warmup)
    floor = config.final_learning_rate_fraction
    return config.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
