"""What a recipe can say of a model: its preset, and the type of keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from synboot.core.errors import BadInput

CacheType = Literal["float32", "bfloat16"]
"""Of keys and values."""


@dataclass(frozen=True)
class Shape:
    """A Qwen3-layout transformer with tied embeddings, without its vocabulary and context.

    Grouped-query attention: `query_heads` share `key_value_heads`. Every linear map is free of
    biases; the feed-forward is SwiGLU with `feed_forward_width` hidden units.
    """

    layers: int
    width: int
    query_heads: int
    key_value_heads: int
    head_dim: int
    feed_forward_width: int


PRESETS: dict[str, Shape] = {
    "0.6m": Shape(4, 96, 3, 1, 32, 256),
    "1m": Shape(4, 128, 4, 2, 32, 384),
    "3m": Shape(6, 192, 6, 2, 32, 512),
    "5m": Shape(6, 256, 8, 4, 32, 704),
    "14m": Shape(8, 384, 6, 2, 64, 1024),
    "20m": Shape(8, 448, 7, 1, 64, 1216),
    "50m": Shape(10, 640, 10, 2, 64, 1728),
    "100m": Shape(12, 832, 13, 1, 64, 2240),
    "350m": Shape(24, 1024, 16, 8, 64, 2816),
    "1b": Shape(24, 1792, 14, 7, 128, 4864),
    # The shape of the 3B model is recalled, not sourced; that of the 6B model is the natural
    # next one of the same family with that many parameters.
    "paper-3b": Shape(26, 3072, 24, 8, 128, 8192),
    "paper-6b": Shape(32, 4096, 32, 8, 128, 11008),
}
"""Names are all parameters, roughly, with a vocabulary that suits the size: 2,048 entries up to
14m, 8,192 for 20m and 50m, 16,384 for 100m, 49,152 from 350m on (`paper-*` are the scales of arXiv
2509.15248)."""


def shape_of(preset: str) -> Shape:
    """The preset's shape. Raises BadInput for a name that does not exist."""
    if preset not in PRESETS:
        raise BadInput(f"field model.preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    return PRESETS[preset]


def num_parameters(shape: Shape, vocab_size: int) -> tuple[int, int]:
    """(all parameters, parameters without the embedding), counted by hand."""
    attention = shape.width * shape.head_dim * 2 * (shape.query_heads + shape.key_value_heads)
    feed_forward = 3 * shape.width * shape.feed_forward_width
    norms = 2 * shape.width + 2 * shape.head_dim
    rest = shape.layers * (attention + feed_forward + norms) + shape.width
    return rest + vocab_size * shape.width, rest
