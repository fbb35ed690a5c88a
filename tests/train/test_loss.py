from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from synboot.data.batches import IGNORED, Batch, Batches
from synboot.data.tokens import TokenStore, write_token_store
from synboot.synth.template import PairRows
from synboot.train import loss as loss_module
from synboot.train.loss import has_plain_head, head_loss, keeps_apart, mean_loss, summed_loss

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import SIZES, tiny_model

CPU = torch.device("cpu")
VOCAB_SIZE = 60
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
SMALL = SIZES | {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 32}


def seeded(make: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def gemma2() -> Any:
    """Logits are capped, layers are sliding and full in turns."""
    return seeded(
        Gemma2ForCausalLM,
        Gemma2Config(
            **SMALL, head_dim=8, sliding_window=6, final_logit_softcapping=3.0, pad_token_id=None
        ),
    )


def granite() -> Any:
    """Logits are scaled."""
    return seeded(GraniteForCausalLM, GraniteConfig(**SMALL, logits_scaling=4.0, pad_token_id=None))


def bloom() -> Any:
    """Distances within the row are added to scores, whatever the positions say."""
    return seeded(
        BloomForCausalLM, BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=24, n_layer=2, n_head=4)
    )


def mamba() -> Any:
    """A state runs through the row."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4}
    return seeded(MambaForCausalLM, MambaConfig(vocab_size=VOCAB_SIZE, **sizes))


OTHERS = {"gemma2": gemma2, "granite": granite, "bloom": bloom, "mamba": mamba}


def make(layout: str) -> Any:
    if layout in OTHERS:
        return OTHERS[layout]()
    return tiny_model(layout, vocab_size=VOCAB_SIZE, **NO_DROPOUT)


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Sums of some hundred terms in float32, up to their order."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=2e-5 * scale + 1e-7)


# The output layer in chunks.


@settings(max_examples=40, deadline=None)
@given(
    positions=st.integers(1, 40),
    width=st.integers(1, 9),
    vocabulary=st.integers(2, 50),
    rows=st.integers(1, 41),
    with_bias=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_chunks_have_the_loss_and_gradients_of_the_whole(
    positions: int, width: int, vocabulary: int, rows: int, with_bias: bool, scale: float
) -> None:
    source = torch.Generator().manual_seed(positions * 100 + width)

    def leaf(*shape: int) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=source)).requires_grad_()

    hidden, weight = leaf(positions, width), leaf(vocabulary, width)
    bias = leaf(vocabulary) if with_bias else None
    targets = torch.randint(0, vocabulary, (positions,), generator=source)
    leaves = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    logits = functional.linear(hidden.double(), weight.double())
    if bias is not None:
        logits = logits + bias.double()
    expected = functional.cross_entropy(logits, targets, reduction="sum")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "_chunk_rows", lambda weight: rows)
        found = head_loss(hidden, weight, bias, targets)
        with torch.no_grad():
            assert head_loss(hidden, weight, bias, targets).item() == found.item()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-3)
    # Upstream gradients are passed on.
    pairs = zip(
        torch.autograd.grad(found * 0.5, leaves),
        torch.autograd.grad(expected * 0.5, leaves),
        strict=True,
    )
    for ours, plain in pairs:
        size = plain.abs().max().item()
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4 * size + 1e-6)


def test_a_target_without_any_probability_has_a_finite_loss() -> None:
    hidden, weight = torch.ones(1, 1), torch.tensor([[0.0], [500.0]])
    assert head_loss(hidden, weight, None, torch.tensor([0])).item() == 500.0


def test_logits_never_exist_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    softmax = torch.softmax

    def watch(logits: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        sizes.append(len(logits))
        return softmax(logits, *arguments, **options)

    monkeypatch.setattr(torch, "softmax", watch)
    head_loss(torch.randn(1300, 4), torch.randn(70_000, 4), None, torch.zeros(1300, dtype=int))
    assert max(sizes) == 64  # 2^22 logits are fewer than 60 rows of 70,000
    assert sum(sizes) == 1300


@pytest.mark.parametrize(
    ("layout", "plain"),
    [
        ("qwen3", True),
        ("llama", True),
        ("gpt2", True),
        ("gpt_neox", True),
        ("mamba", True),
        ("gemma2", False),
        ("granite", False),
    ],
)
def test_the_loss_is_that_of_plain_transformers(layout: str, plain: bool) -> None:
    model = make(layout)
    assert has_plain_head(model) == plain
    random = np.random.default_rng(0)
    inputs = random.integers(1, VOCAB_SIZE, (3, 12))
    targets = np.where(random.random((3, 12)) < 0.4, IGNORED, inputs)
    logits = model(input_ids=torch.from_numpy(inputs), use_cache=False).logits
    expected = functional.cross_entropy(
        logits.flatten(0, 1),
        torch.from_numpy(targets).flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    found, count = summed_loss(model, Batch(inputs, targets, 0, np.arange(len(inputs))), CPU)
    assert count == int((targets != IGNORED).sum())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert_close(gradients(model, found), gradients(model, expected))


def test_trying_the_head_draws_nothing_and_leaves_the_mode() -> None:
    model = make("qwen3").train()
    before = torch.get_rng_state()
    assert has_plain_head(model)
    assert keeps_apart(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


# Packed rows.


@pytest.mark.parametrize(
    ("layout", "apart"),
    [
        ("qwen3", True),
        ("qwen2", True),
        ("llama", True),
        ("mistral, sliding", True),
        ("gpt2", True),
        ("gpt_neox", True),
        ("gemma2", True),
        ("mamba", False),
    ],
)
def test_which_models_keep_texts_of_a_row_apart(layout: str, apart: bool) -> None:
    assert keeps_apart(make(layout)) == apart


def test_a_model_that_knows_no_positions_is_not_trusted() -> None:
    """Bloom either keeps texts apart or is found not to: never the one while claiming the other."""
    model = bloom()
    ids = torch.arange(9)[None]
    try:
        packed = model(input_ids=ids, position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]))
    except (TypeError, ValueError):
        assert not keeps_apart(model)
        return
    same = torch.allclose(packed.logits[:, 4:], model(input_ids=ids[:, 4:]).logits, atol=1e-4)
    assert keeps_apart(model) == same


@pytest.mark.parametrize(
    "layout", ["qwen3", "llama", "gpt2", "gpt_neox", "mistral, sliding", "gemma2"]
)
def test_packed_pairs_train_as_pairs_alone(tmp_path: Path, layout: str) -> None:
    random = np.random.default_rng(1)
    documents = [np.append(random.integers(1, VOCAB_SIZE, 2 + i % 7), 0) for i in range(12)]
    write_token_store(tmp_path, documents, VOCAB_SIZE)
    pairs = [(i, (i * 5 + 1) % 12) for i in range(12)]
    options: dict[str, Any] = {"context": 32, "end_id": 0, "seed": 0}
    store, model = TokenStore(tmp_path), make(layout)
    losses: list[torch.Tensor] = []
    rows = {}
    for packed in (True, False):
        rows[packed] = PairRows(store, pairs, packed=packed, **options)
        [batch] = Batches(rows[packed], 100).batch(0)
        loss, count = summed_loss(model, batch, CPU)
        assert count == batch.global_targets
        losses.append(loss)
    assert rows[True].num_rows < rows[False].num_rows == 12
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
    assert_close(gradients(model, losses[0]), gradients(model, losses[1]))
    means = [mean_loss(model, rows[packed], 2, CPU) for packed in (True, False)]
    assert means[0] == pytest.approx(means[1], rel=1e-5)
