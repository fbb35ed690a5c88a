"""What reading texts with a transformer costs, for any architecture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def reading_flops(
    model: torch.nn.Module, config: Any, lengths: Iterable[int], *, causal: bool
) -> int:
    """FLOPs of one forward pass over texts of `lengths` positions, padding not counted: 2 for
    each weight of a matrix and position (embeddings are looked up, not multiplied), and the
    scores and values of attention over the positions that each may see."""
    lengths = list(lengths)
    looked_up = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)
    }
    weights = sum(
        parameter.numel()
        for parameter in model.parameters()
        if parameter.ndim > 1 and id(parameter) not in looked_up
    )
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    head_dim = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    visible = sum(n * (n + 1) // 2 if causal else n * n for n in lengths)
    return 2 * weights * sum(lengths) + 4 * layers * heads * int(head_dim) * visible
