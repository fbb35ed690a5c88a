from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from synboot.model.architecture import Shape, new_model
from synboot.model.flops import (
    forward_flops,
    matmul_flops_per_token,
    sampling_flops,
    training_flops,
)

SHAPES = [Shape(2, 16, 4, 2, 8, 32), Shape(3, 24, 3, 1, 16, 40), Shape(1, 32, 2, 2, 8, 48)]
VOCAB_SIZE = 50


def future(shape: Shape, length: int) -> int:
    """FLOPs of scores and values towards later positions, which eager attention computes too."""
    return 4 * shape.layers * shape.query_heads * shape.head_dim * (length * (length - 1) // 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [1, 10])
def test_counts_agree_with_what_torch_multiplies(shape: Shape, length: int) -> None:
    model = new_model(shape, vocab_size=VOCAB_SIZE, context=16, end_id=0, seed=0)
    model.set_attn_implementation("eager")
    ids = torch.zeros(3, length, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        logits = model(input_ids=ids, use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    expected = forward_flops(shape, VOCAB_SIZE, 0, length) + future(shape, length)
    assert forward.get_total_flops() == 3 * expected
    assert backward.get_total_flops() == 2 * 3 * expected
    trained = training_flops(shape, VOCAB_SIZE, {length: 3})
    assert trained == forward.get_total_flops() * 3 - 3 * 3 * future(shape, length)


@settings(deadline=None)
@given(st.sampled_from(SHAPES), st.lists(st.integers(0, 40), min_size=2, max_size=6))
def test_parts_of_a_sequence_sum_to_the_whole(shape: Shape, cuts: list[int]) -> None:
    bounds = sorted(cuts)
    parts = [forward_flops(shape, VOCAB_SIZE, a, b) for a, b in itertools.pairwise(bounds)]
    assert sum(parts) == forward_flops(shape, VOCAB_SIZE, bounds[0], bounds[-1])


@settings(deadline=None)
@given(st.sampled_from(SHAPES), st.integers(1, 12), st.integers(1, 12))
def test_sampling_is_a_prompt_and_one_position_for_each_token_fed_back(
    shape: Shape, prompt_length: int, num_sampled: int
) -> None:
    output = 2 * shape.width * VOCAB_SIZE
    prompt = forward_flops(shape, VOCAB_SIZE, 0, prompt_length) - (prompt_length - 1) * output
    steps = sum(
        forward_flops(shape, VOCAB_SIZE, position, position + 1)
        for position in range(prompt_length, prompt_length + num_sampled - 1)
    )
    assert sampling_flops(shape, VOCAB_SIZE, prompt_length, num_sampled) == prompt + steps


def test_a_row_that_does_not_occur_costs_nothing() -> None:
    shape = SHAPES[0]
    assert training_flops(shape, VOCAB_SIZE, Counter({7: 0})) == 0
    assert forward_flops(shape, VOCAB_SIZE, 5, 5) == 0


def test_a_token_costs_two_flops_a_weight() -> None:
    # Shape(2, 16, 4, 2, 8, 32): query 16x32, key 16x16, value 16x16, output 32x16,
    # gate and up 16x32, down 32x16; 2 layers; output layer 16x50.
    weights = 2 * (512 + 256 + 256 + 512 + 512 + 512 + 512) + 800
    assert matmul_flops_per_token(SHAPES[0], VOCAB_SIZE) == 2 * weights
