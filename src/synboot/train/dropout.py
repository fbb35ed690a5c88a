"""Dropout whose masks are a function of step, row and place alone (law 4).

A hash of the place decides, in a stream of each row and layer: how a batch is cut into
micro-batches, which thread computes it and what else draws random numbers make no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from synboot.core.errors import BadInput
from synboot.core.rng import rng

_RESIDUAL_STREAM = (
    ("embed_tokens", "o_proj", "down_proj"),  # Llama, Mistral, Qwen2, Qwen3
    ("drop", "c_proj"),  # GPT-2, whose blocks have two c_proj
    ("emb_dropout", "dense", "dense_4h_to_h"),  # GPT-NeoX
)
"""The modules whose outputs the residual stream is the sum of, by layout."""


class Dropout:
    """Dropout on what the embedding and every block's two branches add to the residual stream of
    `model`, while it trains, until `remove`. It comes on top of dropout that a model has of its
    own, which `load_model` sets to 0. Raises BadInput for a layout that is not known."""

    def __init__(self, model: torch.nn.Module, rate: float) -> None:
        self._places: list[Any] = _places(model) if rate else []
        self._device = next(model.parameters()).device
        self._streams: dict[int, torch.Tensor] = {}
        """By the number of rows; each stays where it is, for graphs that read it there."""
        self._handles = [place.register_forward_hook(_dropping(rate)) for place in self._places]

    def draw(self, seed: int, step: int, rows: np.ndarray) -> None:
        """Choose the masks of the forward pass that follows, over `rows`, numbers of rows in the
        batch of a step."""
        if not self._places:
            return
        most = int(rows.max()) + 1
        # A row's numbers do not depend on how many rows there are: rows come first.
        keys = rng(seed, "dropout", step).integers(
            -(2**31), 2**31, (most, len(self._places), 2), dtype=np.int32
        )
        drawn = torch.from_numpy(np.ascontiguousarray(keys[rows].transpose(1, 2, 0)))
        streams = self._streams.setdefault(len(rows), drawn.to(self._device))
        streams.copy_(drawn)
        for place, keys_of_rows in zip(self._places, streams, strict=True):
            place.dropout_keys = keys_of_rows[..., None, None]  # [2, rows, 1, 1]

    def remove(self) -> None:
        """The model is as it was."""
        for handle in self._handles:
            handle.remove()
        for place in self._places:
            place.__dict__.pop("dropout_keys", None)


def _places(model: torch.nn.Module) -> list[torch.nn.Module]:
    modules: dict[str, list[torch.nn.Module]] = {}
    for name, module in model.named_modules():
        modules.setdefault(name.rsplit(".", 1)[-1], []).append(module)
    layout = next((names for names in _RESIDUAL_STREAM if modules.keys() >= {*names}), None)
    if layout is None:
        raise BadInput(f"field dropout: expected 0, as {type(model).__name__} has no known layout")
    return [module for name in layout for module in modules[name]]


@cache
def _dropping(rate: float) -> Callable[[torch.nn.Module, Any, torch.Tensor], torch.Tensor]:
    """A forward hook; one object a rate, so that arms of equal rate share compiled blocks."""
    threshold = int(rate * 2**31)

    def drop(module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        first, second = module.dropout_keys
        _, length, width = output.shape
        place = torch.arange(length * width, dtype=torch.int32, device=output.device)
        mixed = _mixed(_mixed(place.view(length, width) + first) ^ second)
        kept = (mixed & 0x7FFFFFFF) >= threshold
        return output * (kept.to(output.dtype) * (1 / (1 - rate)))

    return drop


def _mixed(words: torch.Tensor) -> torch.Tensor:
    """The finaliser of MurmurHash3 (A. Appleby, public domain), on int32 as if without sign:
    every bit of a word depends on all of its bits."""
    words = (words ^ ((words >> 16) & 0xFFFF)) * -2048144789
    words = (words ^ ((words >> 13) & 0x7FFFF)) * -1028477387
    return words ^ ((words >> 16) & 0xFFFF)
