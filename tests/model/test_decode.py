from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from synboot.core.errors import BadInput
from synboot.model.architecture import new_model
from synboot.model.decode import Cache, CachedDecoder, bucket
from synboot.model.settings import Shape

sys.path.append(str(Path(__file__).parent))

from tiny import tiny_model

SHAPES = {
    "grouped": Shape(2, 24, 4, 2, 8, 40),
    "one key-value head": Shape(3, 16, 3, 1, 16, 32),
    "multi-head": Shape(2, 32, 2, 2, 8, 48),
}
VOCAB_SIZE = 70
CAPACITY = 24
LAYOUTS = ["qwen3 with biases", "qwen2", "llama", "llama 3", "llama with biases", "mistral"]
# Sums in another order, float32: logits of these models are of size 1.
TOLERANCE = 1e-5


def model_of(name: str) -> Any:
    if name in LAYOUTS:
        return tiny_model(name, vocab_size=VOCAB_SIZE, context=CAPACITY)
    model = new_model(SHAPES[name], vocab_size=VOCAB_SIZE, context=CAPACITY, end_id=0, seed=4)
    with torch.no_grad():  # weights as large as trained ones, so that attention is not flat
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
            else:
                parameter.add_(0.3 * torch.sin(torch.arange(parameter.numel())))
    return model.eval()


def sequences(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(VOCAB_SIZE, (CAPACITY,), generator=generator) for _ in range(number)]


def room_for(decoder: CachedDecoder, slots: int, **changes: Any) -> Cache:
    """A prompt of its own for each slot by default, and room for the longest."""
    sizes = {"places": slots, "shared": 1, "prompt_room": CAPACITY, "own_room": CAPACITY}
    return decoder.cache(slots=slots, **sizes | changes)


def start(
    decoder: CachedDecoder, cache: Cache, texts: list[torch.Tensor], prompts: list[int]
) -> list[torch.Tensor]:
    """Put prompts into slots of the same number, one by one: the logits after each."""
    found = []
    for slot, (ids, length) in enumerate(zip(texts, prompts, strict=True)):
        at = torch.tensor([slot])
        found += decoder.prefill(cache, at, ids[None, :length], torch.tensor([length]))
        cache.seat(at, at, torch.tensor([0]))
    return found


def run(
    decoder: CachedDecoder,
    texts: list[torch.Tensor],
    prompts: list[int],
    num_steps: int,
    cache: Cache | None = None,
) -> list[torch.Tensor]:
    """Logits of each slot: after its prompt, then after each token that is fed in."""
    cache = cache or room_for(decoder, len(texts))
    found = [torch.stack(start(decoder, cache, texts, prompts))]
    for step in range(num_steps):
        places = [length + step for length in prompts]
        cache.ids.copy_(
            torch.stack([text[place] for text, place in zip(texts, places, strict=True)])
        )
        cache.counts.fill_(step)
        found.append(decoder.step(cache))
    return list(torch.stack(found, dim=1))


@pytest.mark.parametrize("name", [*SHAPES, *LAYOUTS])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_are_those_of_a_full_forward_at_every_position(name: str, attention: str) -> None:
    model = model_of(name)
    model.set_attn_implementation(attention)
    texts, prompts = sequences(4), [1, 5, 14, 9]
    decoder = CachedDecoder(model, capacity=CAPACITY)
    found = run(decoder, texts, prompts, num_steps=CAPACITY - max(prompts))
    with torch.inference_mode():
        full = model(input_ids=torch.stack(texts)).logits
    spread = full.std().item()
    assert spread > 0.3  # else the tolerance would be wide
    for slot, (length, logits) in enumerate(zip(prompts, found, strict=True)):
        expected = full[slot, length - 1 : length - 1 + len(logits)]
        torch.testing.assert_close(logits, expected, atol=TOLERANCE * 10, rtol=TOLERANCE)


@pytest.mark.parametrize("name", SHAPES)
def test_a_slot_does_not_see_what_the_others_hold(name: str) -> None:
    model = model_of(name)
    mine, *others = sequences(6)
    kept = None
    for neighbours, lengths in (
        (others[:3], [2, 13, 7]),
        (others[2:5], [14, 1, 3]),
        ([mine, mine, mine], [6, 6, 6]),
    ):
        decoder = CachedDecoder(model, capacity=CAPACITY)
        texts = [neighbours[0], neighbours[1], mine, neighbours[2]]
        found = run(decoder, texts, [lengths[0], lengths[1], 6, lengths[2]], num_steps=8)[2]
        kept = found if kept is None else kept
        assert torch.equal(found, kept)


@pytest.mark.parametrize("name", SHAPES)
def test_a_slot_does_not_remember_what_it_held_before(name: str) -> None:
    model = model_of(name)
    long, short, other = sequences(3)
    decoder = CachedDecoder(model, capacity=CAPACITY)
    expected = run(decoder, [short, other], [3, 4], num_steps=6)
    used = room_for(decoder, 2)
    run(decoder, [long, other], [12, 12], num_steps=12, cache=used)
    found = run(decoder, [short, other], [3, 4], num_steps=6, cache=used)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_slot_can_wait_while_the_others_go_on() -> None:
    """Idle slots are fed position 0 again and again, and may hold anything."""
    model = model_of("grouped")
    text, idle = sequences(2)
    decoder = CachedDecoder(model, capacity=CAPACITY)
    cache = room_for(decoder, 2)
    start(decoder, cache, [idle, text], [CAPACITY, 4])
    for place in range(4, CAPACITY):
        cache.ids.copy_(torch.stack([idle[place], text[place]]))
        cache.counts.copy_(torch.tensor([0, place - 4]))
        logits = decoder.step(cache)
    with torch.inference_mode():
        full = model(input_ids=text[None]).logits[0, -1]
    torch.testing.assert_close(logits[1], full, atol=TOLERANCE * 10, rtol=TOLERANCE)


@pytest.mark.parametrize("name", SHAPES)
def test_draws_share_prompts_that_are_computed_together(name: str) -> None:
    """Three prompts of different lengths in one padded call, and seven slots that go on from
    them, in no order; with attention that reads no further than it must."""
    model = model_of(name)
    texts, lengths = torch.stack(sequences(7)), [9, 2, 5]
    place_of = torch.tensor([2, 0, 1, 0, 2, 2, 0])
    column_of = torch.tensor([1, 0, 2, 1, 0, 2, 2])
    prompts = texts[:3, :9]
    decoder = CachedDecoder(model, capacity=CAPACITY)
    cache = room_for(decoder, 7, places=4, shared=3)
    at = torch.tensor([3, 1, 0])
    found = [decoder.prefill(cache, at, prompts, torch.tensor(lengths))[place_of]]
    cache.seat(torch.arange(7), at[place_of], column_of)
    for step in range(8):
        cache.ids.copy_(texts[:, 10 + step])
        cache.counts.fill_(step)
        found.append(decoder.step(cache, prompt_room=9, own_room=step + 1))
    for slot, place in enumerate(place_of.tolist()):
        length = lengths[place]
        ids = torch.cat([prompts[place, :length], texts[slot, 10:18]])
        with torch.inference_mode():
            full = model(input_ids=ids[None]).logits[0, length - 1 :]
        mine = torch.stack([logits[slot] for logits in found])
        torch.testing.assert_close(mine, full, atol=TOLERANCE * 10, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("precision", "mean", "most"), [("float32", 0.005, 0.02), ("bfloat16", 0.01, 0.04)]
)
def test_bfloat16_changes_what_is_sampled_from_by_little(
    precision: str, mean: float, most: float
) -> None:
    """Total variation of the next token's distribution, over 240 positions of a model with weights
    as large as trained ones: of keys and values in bfloat16 alone about 2**-9 of a logit's terms;
    of matrix products too, whose results are rounded as well, a few times that."""
    model = new_model(
        Shape(2, 40, 5, 1, 16, 56), vocab_size=VOCAB_SIZE, context=CAPACITY, end_id=0, seed=4
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    texts, prompts = sequences(20), [4 + slot % 5 for slot in range(20)]
    found = []
    for own, kept in (("float32", "float32"), (precision, "bfloat16")):
        decoder = CachedDecoder(model.eval(), capacity=CAPACITY, precision=getattr(torch, own))
        cache = room_for(decoder, 20, dtype=getattr(torch, kept))
        assert cache.keys.dtype == cache.prompt_values.dtype == getattr(torch, kept)
        logits = torch.stack(run(decoder, texts, prompts, num_steps=12, cache=cache))[:, 1:]
        assert logits.dtype == torch.float32
        found.append(logits.double().softmax(-1))
    distances = (found[0] - found[1]).abs().sum(-1) / 2
    assert found[0].amax(-1).mean() > 0.1  # not a flat toy
    assert 0 < distances.mean() < mean
    assert distances.max() < most


def test_lengths_that_attention_looks_back_are_few_and_near() -> None:
    found = [bucket(length, 1000) for length in range(1, 1001)]
    assert sorted(set(found)) == [64, 96, 128, 192, 256, 384, 512, 768, 1000]
    assert all(size >= length for length, size in enumerate(found, 1))
    assert all(size < 1.5 * length for length, size in enumerate(found, 1) if length > 64)
    assert bucket(3, 20) == 20


def config(**changes: object) -> Qwen3Config:
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Qwen3Config(**sizes | heads | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        (
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            "sliding_attention",
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type linear",
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "partial_rotary_factor": 0.5,
                }
            },
            "partial rotary",
        ),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        CachedDecoder(Qwen3ForCausalLM(config(**changes)), capacity=4)


@pytest.mark.parametrize(
    ("layout", "named"),
    [("gpt2", "not gpt2"), ("mistral, sliding", "mistral model with sliding_attention")],
)
def test_another_kind_of_model_is_refused(layout: str, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        CachedDecoder(tiny_model(layout), capacity=4)


def test_the_common_theta_of_published_models_is_followed() -> None:
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config(rope_parameters=rope)).eval()
    ids = torch.arange(12) % 20
    decoder = CachedDecoder(model, capacity=12)
    cache = decoder.cache(slots=1, places=1, shared=1, prompt_room=12, own_room=1)
    logits = decoder.prefill(cache, torch.tensor([0]), ids[None], torch.tensor([12]))[0]
    with torch.inference_mode():
        expected = model(input_ids=ids[None]).logits[0, -1]
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=TOLERANCE)
