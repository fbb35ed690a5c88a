"""Floating-point operations of training, generation and scoring, counted by hand (law 10).

A product of an (m, k) and a (k, n) matrix counts 2mkn. Counted are the linear maps, the output
layer and the attention products over the positions that a token may see (itself and those before
it). Not counted: norms, activations, softmax, rotary embedding, the optimizer. The backward pass
counts twice the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping

from synboot.model.architecture import Shape


def forward_flops(shape: Shape, vocab_size: int, first: int, stop: int) -> int:
    """FLOPs of computing positions `first` to `stop` of a sequence whose earlier positions are
    known (0 to L for a whole sequence), with the output layer at each of them."""
    tokens = stop - first
    return tokens * matmul_flops_per_token(shape, vocab_size) + _attention(shape, first, stop)


def training_flops(shape: Shape, vocab_size: int, row_lengths: Mapping[int, int]) -> int:
    """FLOPs of forward and backward over `{row length: number of rows}`."""
    return 3 * sum(
        count * forward_flops(shape, vocab_size, 0, length) for length, count in row_lengths.items()
    )


def sampling_flops(shape: Shape, vocab_size: int, prompt_length: int, num_sampled: int) -> int:
    """FLOPs of one prompt, with logits at its last position only, and of the tokens after it;
    the last sampled token is not fed back."""
    last = prompt_length + max(num_sampled - 1, 0)
    prompt = forward_flops(shape, 0, 0, prompt_length) + 2 * vocab_size * shape.width
    return prompt + forward_flops(shape, vocab_size, prompt_length, last)


def matmul_flops_per_token(shape: Shape, vocab_size: int) -> int:
    """FLOPs of all linear maps and the output layer for one token."""
    attention = shape.width * shape.head_dim * 2 * (shape.query_heads + shape.key_value_heads)
    feed_forward = 3 * shape.width * shape.feed_forward_width
    return 2 * (shape.layers * (attention + feed_forward) + vocab_size * shape.width)


def _attention(shape: Shape, first: int, stop: int) -> int:
    """Scores and values: 4 x heads x head_dim for each (query, visible key), in every layer."""
    visible = (first + 1 + stop) * (stop - first) // 2  # sum of first+1 ... stop
    return 4 * shape.layers * shape.query_heads * shape.head_dim * visible
