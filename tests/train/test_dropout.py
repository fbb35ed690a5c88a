"""Dropout: in its places, keyed by step, row and place, whatever else happens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synboot.core.errors import BadInput
from synboot.model.architecture import new_model
from synboot.model.settings import Shape
from synboot.train.dropout import Dropout

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import tiny_model

SHAPE = Shape(2, 16, 2, 1, 8, 24)
IDS = torch.arange(12)[None] % 32


def model() -> Any:
    return new_model(SHAPE, vocab_size=32, context=12, end_id=0, seed=0)


def logits(trained: Any, rows: int = 1) -> torch.Tensor:
    with torch.no_grad():
        return trained(input_ids=IDS.repeat(rows, 1)).logits


def test_it_works_in_training_only_and_goes_again() -> None:
    fresh = model().eval()
    plain = logits(fresh)
    dropout = Dropout(fresh, 0.5)
    dropout.draw(1, 0, np.array([0]))
    assert torch.equal(logits(fresh), plain)
    dropped = logits(fresh.train())
    assert not torch.allclose(dropped, plain)
    dropout.remove()
    assert torch.equal(logits(fresh), plain)
    assert all("dropout_keys" not in vars(module) for module in fresh.modules())


def test_masks_are_keyed_by_seed_step_and_row_and_nothing_else() -> None:
    """Law 4: neither the other rows of a forward pass nor torch's generators count."""
    fresh = model().train()
    dropout = Dropout(fresh, 0.3)

    def of(seed: int, step: int, rows: list[int]) -> torch.Tensor:
        torch.manual_seed(len(rows))
        dropout.draw(seed, step, np.array(rows))
        return logits(fresh, len(rows))

    whole = of(1, 5, [0, 1, 2, 3])
    torch.testing.assert_close(of(1, 5, [2, 3]), whole[2:])
    torch.testing.assert_close(of(1, 5, [3, 0]), whole[[3, 0]])
    others = [whole[0], *whole[1:], of(1, 6, [0])[0], of(2, 5, [0])[0]]
    for i, one in enumerate(others):
        assert not any(torch.allclose(one, other) for other in others[:i])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masks_are_as_good_as_coins(rate: float) -> None:
    """Their share, and that of two neighbours in a row, in width, in layers and in steps at once:
    with 2**18 draws, 0.008 is above 8 sigma. The scale keeps the mean."""
    layer = torch.nn.ModuleDict({name: torch.nn.Identity() for name in ("drop", "c_proj")})
    layer.register_parameter("weight", torch.nn.Parameter(torch.ones(1)))
    dropout = Dropout(layer.train(), rate)
    ones = torch.ones(16, 128, 128)

    def drawn(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        dropout.draw(3, step, np.arange(16))
        return layer["drop"](ones), layer["c_proj"](ones)

    (first, second), (later, _) = drawn(0), drawn(1)
    assert first.mean().item() == pytest.approx(1, abs=0.03)
    assert set(first.unique().tolist()) == {0, torch.tensor(1 / (1 - rate)).item()}
    gone = first == 0
    assert gone.float().mean().item() == pytest.approx(rate, abs=0.008)
    pairs = {
        "rows": gone[1:] & gone[:-1],
        "length": gone[:, 1:] & gone[:, :-1],
        "width": gone[:, :, 1:] & gone[:, :, :-1],
        "layers": gone & (second == 0),
        "steps": gone & (later == 0),
    }
    for name, both in pairs.items():
        assert both.float().mean().item() == pytest.approx(rate**2, abs=0.008), name


def test_it_is_on_what_enters_the_residual_stream() -> None:
    """The embedding and the two branches of each block: 1 + 2 x 2 places, a share of each 0."""
    fresh = model().train()
    dropped: list[float] = []
    dropout = Dropout(fresh, 0.25)
    for name, module in fresh.named_modules():
        if name.endswith(("embed_tokens", "o_proj", "down_proj")):
            module.register_forward_hook(
                lambda module, inputs, output: dropped.append((output == 0).float().mean().item())
            )
    dropout.draw(0, 0, np.arange(20))
    logits(fresh, 20)
    assert len(dropped) == 5
    # 3,840 draws each: a mean 0.04 off is 5.7 sigma, once in 10^8 seeds; this one is fixed.
    assert dropped == pytest.approx([0.25] * 5, abs=0.04)


@pytest.mark.parametrize("layout", ["qwen2", "llama", "mistral", "gpt2", "gpt_neox"])
def test_other_layouts_have_the_same_places(layout: str) -> None:
    """1 + 2 x 2 places whose sum is what the last norm reads: without dropout of their own."""
    other = tiny_model(layout, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    added: list[torch.Tensor] = []
    dropout = Dropout(other.train(), 0.25)
    hooked = [module for module in other.modules() if module._forward_hooks]
    for module in hooked:
        module.register_forward_hook(lambda module, inputs, output: added.append(output))
    norm = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
    stream: list[torch.Tensor] = []
    other.get_submodule(norm.get(layout, "model.norm")).register_forward_pre_hook(
        lambda module, inputs: stream.append(inputs[0])
    )
    dropout.draw(0, 0, np.arange(20))
    logits(other, 20)
    assert len(added) == len(hooked) == 5
    torch.testing.assert_close(torch.stack(added).sum(0), stream[0])
    shares = [(output == 0).float().mean().item() for output in added]
    # 5,760 draws each: a mean 0.04 off is 7 sigma; the seed is fixed.
    assert shares == pytest.approx([0.25] * 5, abs=0.04)


def test_a_model_without_places_is_refused_unless_nothing_is_dropped() -> None:
    with pytest.raises(BadInput, match="field dropout: expected 0, as Linear has no known layout"):
        Dropout(torch.nn.Linear(2, 2), 0.1)
    none = Dropout(torch.nn.Linear(2, 2), 0.0)
    none.draw(0, 0, np.arange(2))
    none.remove()
