from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from synboot.core.errors import BadInput
from synboot.model.architecture import Shape, new_model
from synboot.model.decode import CachedDecoder

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


def run(
    decoder: CachedDecoder, texts: list[torch.Tensor], prompts: list[int], num_steps: int
) -> list[torch.Tensor]:
    """Logits of each slot: after its prompt, then after each token that is fed in."""
    found = []
    for slot, (ids, length) in enumerate(zip(texts, prompts, strict=True)):
        prefix = decoder.prefill(ids[:length])
        assert prefix.length == length
        decoder.place(slot, prefix)
        found.append([prefix.logits])
    for step in range(num_steps):
        places = torch.tensor([length + step for length in prompts])
        ids = torch.stack([text[place] for text, place in zip(texts, places, strict=True)])
        for slot, logits in enumerate(decoder.step(ids, places)):
            found[slot].append(logits)
    return [torch.stack(logits) for logits in found]


@pytest.mark.parametrize("name", [*SHAPES, *LAYOUTS])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_are_those_of_a_full_forward_at_every_position(name: str, attention: str) -> None:
    model = model_of(name)
    model.set_attn_implementation(attention)
    texts, prompts = sequences(4), [1, 5, 14, 9]
    decoder = CachedDecoder(model, slots=4, capacity=CAPACITY)
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
        decoder = CachedDecoder(model, slots=4, capacity=CAPACITY)
        texts = [neighbours[0], neighbours[1], mine, neighbours[2]]
        found = run(decoder, texts, [lengths[0], lengths[1], 6, lengths[2]], num_steps=8)[2]
        kept = found if kept is None else kept
        assert torch.equal(found, kept)


@pytest.mark.parametrize("name", SHAPES)
def test_a_slot_does_not_remember_what_it_held_before(name: str) -> None:
    model = model_of(name)
    long, short, other = sequences(3)
    fresh = CachedDecoder(model, slots=2, capacity=CAPACITY)
    expected = run(fresh, [short, other], [3, 4], num_steps=6)
    used = CachedDecoder(model, slots=2, capacity=CAPACITY)
    run(used, [long, other], [12, 12], num_steps=12)
    found = run(used, [short, other], [3, 4], num_steps=6)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_slot_can_wait_while_the_others_go_on() -> None:
    """Idle slots are fed position 0 again and again, and may hold anything."""
    model = model_of("grouped")
    text, idle = sequences(2)
    decoder = CachedDecoder(model, slots=2, capacity=CAPACITY)
    decoder.place(1, decoder.prefill(text[:4]))
    for place in range(4, CAPACITY):
        logits = decoder.step(torch.stack([idle[place], text[place]]), torch.tensor([0, place]))
    with torch.inference_mode():
        full = model(input_ids=text[None]).logits[0, -1]
    torch.testing.assert_close(logits[1], full, atol=TOLERANCE * 10, rtol=TOLERANCE)


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
        CachedDecoder(Qwen3ForCausalLM(config(**changes)), slots=1, capacity=4)


@pytest.mark.parametrize(
    ("layout", "named"),
    [("gpt2", "not gpt2"), ("mistral, sliding", "mistral model with sliding_attention")],
)
def test_another_kind_of_model_is_refused(layout: str, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        CachedDecoder(tiny_model(layout), slots=1, capacity=4)


def test_the_common_theta_of_published_models_is_followed() -> None:
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config(rope_parameters=rope)).eval()
    ids = torch.arange(12) % 20
    logits = CachedDecoder(model, slots=1, capacity=12).prefill(ids).logits
    with torch.inference_mode():
        expected = model(input_ids=ids[None]).logits[0, -1]
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=TOLERANCE)
