from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.synth.engine import Completion, Engine, ReferenceEngine, Request
from synboot.synth.engine_slots import SlotEngine
from synboot.synth.engine_transformers import TransformersEngine
from synboot.synth.engines import engine_for
from synboot.synth.settings import SamplingConfig

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import LAYOUTS, tiny_model

torch.set_num_threads(1)
END = 0
CONTEXT = 24
TOKENS = 24
ROWS = 32
FIXED: dict[str, Any] = {"context": CONTEXT, "end_id": END, "num_tokens": TOKENS}
LLAMA = tiny_model("llama", vocab_size=ROWS, context=CONTEXT)


def requests(count: int) -> list[Request]:
    lengths = rng("lengths").integers(1, CONTEXT, count).tolist()
    return [
        Request(rng("prompt", i).integers(0, TOKENS, length), (5, "sample", i))
        for i, length in enumerate(lengths)
    ]


def engine(slots: int, model: Any = LLAMA) -> TransformersEngine:
    return TransformersEngine(model, slots=slots, **FIXED)


def plain(completions: list[Completion]) -> list[tuple[list[int], str]]:
    return [(c.tokens.tolist(), c.finish_reason) for c in completions]


class Watched:
    """The shapes that go into a model, and of the logits that come out."""

    def __init__(self, model: Any) -> None:
        self.inputs: list[tuple[int, int]] = []
        self.logits: list[tuple[int, ...]] = []
        self.positions: list[int] = []
        self._handle = model.register_forward_hook(self._see, with_kwargs=True)

    def _see(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self.inputs.append(tuple(kwargs["input_ids"].shape))
        self.positions.append(int(kwargs["position_ids"].max()))
        self.logits.append(tuple(output.logits.shape))

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_equals_the_reference(layout: str) -> None:
    """Token for token. Logits agree to about 1e-5: with other kernels than those this was written
    on, one of the some 100 tokens here would differ with a chance below 1%."""
    model = tiny_model(layout, vocab_size=ROWS, context=CONTEXT)
    asked = requests(8)
    expected = ReferenceEngine(model, **FIXED).sample(asked, SamplingConfig(top_p=0.95))
    assert plain(engine(5, model).sample(asked, SamplingConfig(top_p=0.95))) == plain(expected)


@pytest.mark.parametrize("slots", [1, 3, 40])
def test_what_is_asked_together_does_not_show_here(slots: int) -> None:
    """More than is promised: last bits of logits may differ, which a draw feels with a chance of
    about 1e-5 a token; there are about 200 here."""
    asked = requests(14)
    whole = plain(engine(5).sample(asked, SamplingConfig()))
    assert {reason for _, reason in whole} == {"end", "length"}
    order = rng("order", slots).permutation(14).tolist()
    found = plain(engine(slots).sample([asked[i] for i in order], SamplingConfig()))
    assert [found[order.index(i)] for i in range(14)] == whole


def test_the_same_requests_give_the_same_text() -> None:
    first, again = (plain(engine(4).sample(requests(9), SamplingConfig())) for _ in range(2))
    assert first == again


def test_batches_are_of_like_lengths_and_rows_that_ended_leave() -> None:
    asked = requests(12)
    with Watched(LLAMA) as seen:
        found = engine(6).sample(asked, SamplingConfig(top_p=1.0))
    prompts = [shape for shape in seen.inputs if shape[1] > 1]
    lengths = sorted(len(request.prompt) for request in asked)
    assert prompts == [(6, lengths[5]), (6, lengths[11])]
    assert max(rows for rows, _ in seen.inputs) == 6
    steps = [rows for rows, length in seen.inputs if length == 1]
    assert min(steps) <= 3
    # At most twice as many rows are computed as draw a token.
    drawn = sum(len(c.tokens) + (c.finish_reason == "end") for c in found)
    assert sum(steps) <= 2 * drawn
    assert {shape[1] for shape in seen.logits} == {1}  # not those of whole prompts
    assert max(seen.positions) < CONTEXT


def test_positions_stay_within_a_model_that_learned_them() -> None:
    """A full prompt ends at once; its row stays while the short ones go on to the last position."""
    model = tiny_model("gpt2", vocab_size=ROWS, context=CONTEXT)
    asked = [Request(np.full(n, 5), ("edge", n, i)) for i in range(4) for n in (CONTEXT, 1, 2)]
    with Watched(model) as seen:
        found = engine(12, model).sample(asked, SamplingConfig(temperature=0))
    expected = ReferenceEngine(model, **FIXED).sample(asked, SamplingConfig(temperature=0))
    assert plain(found) == plain(expected)
    assert max(seen.positions) == CONTEXT - 1


def loud_padding(layout: str) -> Any:
    """A model that finds nothing likelier than the rows of its embedding that are no tokens."""
    model = tiny_model(layout, vocab_size=ROWS, context=CONTEXT)
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight[TOKENS::2] = 50 * weight[0]
        weight[TOKENS + 1 :: 2] = -50 * weight[0]
    return model


ENGINES: dict[str, Callable[..., Engine]] = {
    "reference": lambda model, **options: ReferenceEngine(model, **options),
    "slots": lambda model, **options: SlotEngine(model, slots=3, **options),
    "transformers": lambda model, **options: TransformersEngine(model, slots=3, **options),
}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ids_that_the_tokenizer_lacks_are_never_drawn(name: str, temperature: float) -> None:
    model = loud_padding("llama")
    asked, sampling = requests(8), SamplingConfig(temperature=temperature, max_tokens=8)
    options = {"context": CONTEXT, "end_id": END}
    of_all = ENGINES[name](model, **options).sample(asked, sampling)
    assert np.mean(np.concatenate([c.tokens for c in of_all]) >= TOKENS) > 0.5
    found = ENGINES[name](model, num_tokens=TOKENS, **options).sample(asked, sampling)
    drawn = np.concatenate([c.tokens for c in found])
    assert len(drawn) > 8
    assert (drawn < TOKENS).all()


@pytest.mark.parametrize("name", ENGINES)
def test_a_tokenizer_that_is_larger_than_the_model_is_bad_input(name: str) -> None:
    with pytest.raises(BadInput, match=rf"{ROWS + 1} tokens.*{ROWS} rows"):
        ENGINES[name](LLAMA, context=CONTEXT, end_id=END, num_tokens=ROWS + 1)
    with pytest.raises(ValueError, match=f"END is {TOKENS}"):
        ENGINES[name](LLAMA, context=CONTEXT, end_id=TOKENS, num_tokens=TOKENS)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("qwen3", "slots"),
        ("llama", "slots"),
        ("llama 3", "slots"),
        ("mistral", "slots"),
        ("mistral, sliding", "transformers"),
        ("gpt2", "transformers"),
        ("gpt_neox", "transformers"),
    ],
)
def test_the_fastest_engine_that_understands_the_model(layout: str, name: str) -> None:
    model = tiny_model(layout, vocab_size=ROWS, context=CONTEXT)
    chosen = engine_for(model, slots=3, **FIXED)
    assert chosen.name == name
    with pytest.raises(BadInput, match=f"{ROWS + 1} tokens"):
        engine_for(model, context=CONTEXT, end_id=END, num_tokens=ROWS + 1, slots=3)


def test_a_model_with_a_state_of_its_own_is_left_to_the_reference() -> None:
    config = MambaConfig(vocab_size=ROWS, hidden_size=16, num_hidden_layers=1, state_size=4)
    torch.manual_seed(0)
    model = MambaForCausalLM(config)
    with pytest.raises(BadInput, match="MambaForCausalLM cannot be sampled in batches"):
        engine(2, model)
    chosen = engine_for(model, slots=3, **FIXED)
    assert chosen.name == "reference"
    asked = [Request(np.array([3, 4]), ("state", i)) for i in range(2)]
    assert all(len(c.tokens) <= 4 for c in chosen.sample(asked, SamplingConfig(max_tokens=4)))


def test_global_random_state_is_neither_read_nor_changed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = plain(engine(3).sample(requests(4), SamplingConfig()))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert plain(engine(3).sample(requests(4), SamplingConfig())) == first
