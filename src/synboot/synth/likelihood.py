"""How likely a model finds texts, each after a prompt of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from synboot.data.batches import IGNORED


@torch.inference_mode()
def nats_after(
    model: Any, prompts: Sequence[np.ndarray], texts: Sequence[np.ndarray], num_tokens: int
) -> list[float]:
    """Of all of each of `texts`, ids with their END where they have one, after its prompt: in
    float32, among the first `num_tokens` ids. One forward pass for all, so that a figure depends on
    no text that is not given with it."""
    rows = [np.concatenate(row) for row in zip(prompts, texts, strict=True)]
    shape = len(rows), max(map(len, rows)) - 1
    inputs = np.zeros(shape, dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    for i, (before, row) in enumerate(zip(map(len, prompts), rows, strict=True)):
        inputs[i, : len(row) - 1] = row[:-1]
        targets[i, before - 1 : len(row) - 1] = row[before:]
    ids = torch.from_numpy(inputs).to(model.device)
    logits = model(input_ids=ids, use_cache=False).logits[..., :num_tokens]
    losses = functional.cross_entropy(
        logits.float().transpose(1, 2),
        torch.from_numpy(targets).to(model.device),
        ignore_index=IGNORED,
        reduction="none",
    )
    return [float(nats) for nats in losses.double().sum(1).cpu()]
