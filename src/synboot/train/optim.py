"""AdamW on matrices and vectors apart, and the learning-rate schedule."""

from __future__ import annotations

import math

import torch

from synboot.train.settings import OptimConfig


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
