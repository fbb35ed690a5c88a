from __future__ import annotations

import itertools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig, MixtralForCausalLM

from synboot.core.errors import BadInput
from synboot.model.architecture import new_model
from synboot.model.flops import (
    Cost,
    cost_of_model,
    cost_of_shape,
    forward_flops,
    sampling_flops,
    training_flops,
)
from synboot.model.settings import PRESETS, Shape, shape_of

sys.path.append(str(Path(__file__).parent))

from tiny import LAYOUTS, SIZES, tiny_model

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
    cost = cost_of_shape(shape, VOCAB_SIZE)
    ids = torch.zeros(3, length, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        logits = model(input_ids=ids, use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    expected = forward_flops(cost, 0, length) + future(shape, length)
    assert forward.get_total_flops() == 3 * expected
    assert backward.get_total_flops() == 2 * 3 * expected
    trained = training_flops(cost, {length: 3})
    assert trained == forward.get_total_flops() * 3 - 3 * 3 * future(shape, length)


costs = st.sampled_from([cost_of_shape(shape, VOCAB_SIZE) for shape in SHAPES]) | st.builds(
    Cost, *[st.integers(1, 1000)] * 4, st.integers(1, 20)
)


@settings(deadline=None)
@given(costs, st.lists(st.integers(0, 40), min_size=2, max_size=6))
def test_parts_of_a_sequence_sum_to_the_whole(cost: Cost, cuts: list[int]) -> None:
    bounds = sorted(cuts)
    parts = [forward_flops(cost, a, b) for a, b in itertools.pairwise(bounds)]
    assert sum(parts) == forward_flops(cost, bounds[0], bounds[-1])


@settings(deadline=None)
@given(costs, st.integers(1, 12), st.integers(1, 12))
def test_sampling_is_a_prompt_and_one_position_for_each_token_fed_back(
    cost: Cost, prompt_length: int, num_sampled: int
) -> None:
    prompt = forward_flops(cost, 0, prompt_length) - (prompt_length - 1) * cost.output
    steps = sum(
        forward_flops(cost, position, position + 1)
        for position in range(prompt_length, prompt_length + num_sampled - 1)
    )
    assert sampling_flops(cost, prompt_length, num_sampled) == prompt + steps
    assert sampling_flops(cost, prompt_length, num_sampled, shared_prompt=True) == steps


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
def test_a_sliding_layer_sees_its_window(window: int, first: int, more: int) -> None:
    cost = Cost(layers=0, output=0, attention=0, sliding=1, window=window)
    seen = [min(i + 1, window) for i in range(first, first + more)]
    assert forward_flops(cost, first, first + more) == sum(seen)


def test_a_row_that_does_not_occur_costs_nothing() -> None:
    cost = cost_of_shape(SHAPES[0], VOCAB_SIZE)
    assert training_flops(cost, Counter({7: 0})) == 0
    assert forward_flops(cost, 5, 5) == 0


def test_a_token_costs_two_flops_a_weight() -> None:
    # Shape(2, 16, 4, 2, 8, 32): query 16x32, key 16x16, value 16x16, output 32x16,
    # gate and up 16x32, down 32x16; 2 layers; output layer 16x50.
    weights = 2 * (512 + 256 + 256 + 512 + 512 + 512 + 512) + 800
    cost = cost_of_shape(SHAPES[0], VOCAB_SIZE)
    assert cost.layers + cost.output == 2 * weights


# Models of others.


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_of_ours_costs_what_its_shape_does(preset: str) -> None:
    with torch.device("meta"):
        model = new_model(shape_of(preset), vocab_size=1000, context=64, end_id=0, seed=0)
    assert cost_of_model(model) == cost_of_shape(shape_of(preset), 1000)


def test_a_tiny_gpt2_by_hand() -> None:
    """Width 24, 2 layers, 4 heads of 6: query, key, value as one 24x72, output 24x24, feed-forward
    24x96 and 96x24; 60 entries, tied."""
    layer = 24 * 72 + 24 * 24 + 24 * 96 + 96 * 24
    assert layer == 6912
    expected = Cost(layers=2 * 2 * 6912, output=2 * 60 * 24, attention=2 * 4 * (6 + 6) * 2)
    assert cost_of_model(tiny_model("gpt2")) == expected


def test_a_tiny_llama_by_hand() -> None:
    """Width 32, 2 layers, 4 query and 2 key-value heads of 8, feed-forward 40; 60 entries."""
    layer = 32 * 32 + 32 * 16 + 32 * 16 + 32 * 32 + 3 * 32 * 40
    assert layer == 6912
    expected = Cost(layers=2 * 2 * 6912, output=2 * 60 * 32, attention=2 * 4 * (8 + 8) * 2)
    assert cost_of_model(tiny_model("llama")) == expected


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "mistral, sliding"])
def test_the_count_agrees_with_what_torch_multiplies(layout: str) -> None:
    model, length = tiny_model(layout), 7
    model.set_attn_implementation("eager")
    cost = cost_of_model(model)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False)
    later = cost.attention * (length * (length - 1) // 2)  # eager attention computes these too
    assert counter.get_total_flops() == forward_flops(cost, 0, length) + later


def test_a_sliding_window_is_counted() -> None:
    full, sliding = (cost_of_model(tiny_model(name)) for name in ("mistral", "mistral, sliding"))
    assert (sliding.attention, sliding.sliding, sliding.window) == (0, full.attention, 5)
    assert forward_flops(full, 0, 5) == forward_flops(sliding, 0, 5)
    assert forward_flops(full, 0, 6) == forward_flops(sliding, 0, 6) + full.attention


def test_what_would_be_counted_wrongly_is_refused() -> None:
    mixture = MixtralForCausalLM(MixtralConfig(**SIZES, vocab_size=60, num_local_experts=4))
    with pytest.raises(BadInput, match=r"MixtralForCausalLM.*mixture of 4 experts"):
        cost_of_model(mixture)
    with_adapter: Any = tiny_model("llama")
    with_adapter.model.layers[0].adapter = torch.nn.ParameterDict({"down": torch.zeros(24, 2)})
    with pytest.raises(BadInput, match=r"layers\.0\.adapter\.down is no weight of a linear map"):
        cost_of_model(with_adapter)
