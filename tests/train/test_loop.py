"""The training loop: what it minimises, that batches change nothing, and what it leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional

from synboot.core.errors import Incomplete
from synboot.data.batches import IGNORED, Batches
from synboot.data.mixture import Mixture, Source
from synboot.data.tokens import TokenStore, write_token_store
from synboot.train.checkpoint import put_weights, weights_of
from synboot.train.loop import (
    validation_steps,
)
from synboot.train.loss import mean_loss, summed_loss

sys.path.append(str(Path(__file__).parents[1] / "model"))
sys.path.append(str(Path(__file__).parent))

from small_training import (
    CONTEXT,
    CPU,
    END,
    IDS,
    ROWS,
    STEPS,
    VALIDATION,
    VOCAB_SIZE,
    ListedRows,
    assert_same,
    config,
    files,
    model,
    optimizer_tensors,
    random_rows,
    run,
    stop_after,
)
from tiny import tiny_model

# The loss: what it counts, and that nothing about batches changes it.


def reference_loss(trained: Any, rows: Any, positions: range) -> tuple[float, int]:
    """(sum of nats, number of targets), row by row and position by position."""
    total, count = 0.0, 0
    for position in positions:
        inputs, targets = rows.row(position)
        with torch.inference_mode():
            logits = trained.eval()(input_ids=torch.from_numpy(inputs)[None]).logits[0].double()
        for place, target in enumerate(targets.tolist()):
            if target != IGNORED:
                total += float(logits[place].logsumexp(0) - logits[place, target])
                count += 1
    return total, count


@pytest.mark.parametrize("batch_rows", [1, 3, 9, 50])
def test_mean_loss_is_that_of_each_position_alone(batch_rows: int) -> None:
    """However rows are batched and padded."""
    fresh = model()
    total, count = reference_loss(fresh, VALIDATION, range(9))
    # Sums of about 60 terms of size 3 in float32.
    assert mean_loss(fresh, VALIDATION, batch_rows, CPU) == pytest.approx(total / count, rel=1e-6)


def test_masked_positions_carry_no_loss_and_no_gradient() -> None:
    """The last hidden states at masked and padded positions get a gradient of zero."""
    fresh = model()
    [batch] = Batches(ListedRows([([1, 2, 3], [IGNORED, 5, IGNORED]), ([4], [6])]), 2).batch(0)
    kept: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, hidden: torch.Tensor) -> None:
        if hidden.requires_grad:
            hidden.retain_grad()
            kept.append(hidden)

    fresh.model.norm.register_forward_hook(keep)
    loss, targets = summed_loss(fresh, batch, CPU)
    loss.backward()
    assert targets == batch.global_targets == 2
    with_gradient = kept[0].grad.abs().sum(-1) > 0  # type: ignore[union-attr]
    assert with_gradient.tolist() == [[False, True, False], [True, False, False]]


def test_rows_weigh_by_their_valid_tokens(tmp_path: Path) -> None:
    """The loss of a step is the sum over its targets over their number, not a mean of rows'."""
    rows = ListedRows([([1] * 12, [IGNORED] * 11 + [2]), (list(range(1, 13)), [7] * 12)])
    fresh = model()
    total, count = reference_loss(fresh, rows, range(2))
    assert count == 13
    _, state = run(tmp_path, fresh, rows)
    assert state.history[0]["train_loss"] == pytest.approx(total / 13, rel=1e-6)


def gradients(micro_rows: int | None) -> dict[str, torch.Tensor]:
    fresh = model()
    for batch in Batches(ROWS, 8).batch(0, micro_rows):
        loss, _ = summed_loss(fresh, batch, CPU)
        (loss / batch.global_targets).backward()
    return {name: p.grad for name, p in fresh.named_parameters()}


@pytest.mark.parametrize("micro_rows", [1, 3, 8])
def test_accumulated_gradients_are_those_of_the_full_batch(micro_rows: int) -> None:
    """Up to the order of sums in float32: relative 2^-24 for each of some hundred terms."""
    whole = gradients(None)
    for name, gradient in gradients(micro_rows).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("micro_rows", [1, 3, 4, 100])
def test_accumulation_trains_as_the_full_batch_does(tmp_path: Path, micro_rows: int) -> None:
    """Adam divides gradients by their size, so that rounding of tiny ones can grow: hence 1e-4."""
    _, whole = run(tmp_path / "whole")
    _, parts = run(tmp_path / "parts", micro_rows=micro_rows)
    assert parts.tokens == whole.tokens
    for a, b in zip(parts.history, whole.history, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_no_forward_pass_has_more_rows_than_allowed(tmp_path: Path) -> None:
    """Validation included: it would need the memory that micro-batches save."""
    fresh = model()
    rows: list[int] = []
    fresh.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    run(tmp_path, fresh, micro_rows=2)
    assert max(rows) == 2


# The run: budget, history, best weights.


def test_every_target_is_trained_on_once(tmp_path: Path) -> None:
    _, state = run(tmp_path)
    assert state.step == STEPS
    assert state.tokens == sum(ROWS.num_targets(p) for p in range(50))
    assert [point["step"] for point in state.history] == [3, 6, 10, 13]
    assert state.history[-1]["tokens"] == state.tokens


def test_a_mixture_is_trained_to_the_token(tmp_path: Path) -> None:
    documents = [np.array([1 + i % 30] * (i % 7) + [END]) for i in range(40)]
    write_token_store(tmp_path / "store", documents, VOCAB_SIZE)
    store = TokenStore(tmp_path / "store")
    mixture = Mixture([Source("real", store, 40, 333)], CONTEXT, END, seed=0)
    _, state = run(tmp_path / "scratch", rows=mixture)
    assert state.tokens == mixture.num_tokens == 333


def test_a_tiny_repeated_text_is_learnt_by_heart(tmp_path: Path) -> None:
    text = [END, *np.random.default_rng(0).integers(1, VOCAB_SIZE, CONTEXT).tolist()]
    row = (text[:-1], text[1:])
    loop = config(learning_rate=0.02, weight_decay=0.0, num_validations=1)
    _, state = run(tmp_path, rows=ListedRows([row] * 400), loop=loop, validation=ListedRows([row]))
    # From ln 32 = 3.5 nats; a text of 12 tokens holds nothing that could not be remembered.
    assert state.best_loss is not None
    assert state.best_loss < 0.05


def test_the_best_weights_are_those_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    """Random rows learnt by heart: validation soon grows worse."""
    loop = config(learning_rate=0.03, num_validations=12, schedule="constant")
    trained, state = run(tmp_path, rows=random_rows(120, seed=5), loop=loop)
    losses = [point["validation_loss"] for point in state.history]
    best = losses.index(min(losses))
    assert state.best_loss == losses[best]
    assert state.best_step == state.history[best]["step"]
    assert best < len(losses) - 1
    last = {name: w.clone() for name, w in weights_of(trained).items()}
    put_weights(trained, load_file(tmp_path / "best.safetensors"))
    assert mean_loss(trained, VALIDATION, 4, CPU) == state.best_loss
    assert any(not torch.equal(last[name], w) for name, w in weights_of(trained).items())


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 60))
def test_validations_are_spread_evenly_and_include_the_last(num_steps: int, number: int) -> None:
    steps = sorted(validation_steps(num_steps, number))
    assert len(steps) == min(number, num_steps)
    assert steps[-1] == num_steps
    assert steps[0] >= 1
    gaps = np.diff([0, *steps])
    assert gaps.max() - gaps.min() <= 1


def test_the_training_loss_is_that_of_the_stretch_since_the_last_point(tmp_path: Path) -> None:
    _, every = run(tmp_path / "every", loop=config(num_validations=STEPS))
    _, some = run(tmp_path / "some")
    tokens = np.diff([0, *(point["tokens"] for point in every.history)])
    nats = tokens * np.array([point["train_loss"] for point in every.history])
    first = 0
    for point in some.history:
        stop = int(point["step"] or 0)
        mean = nats[first:stop].sum() / tokens[first:stop].sum()
        assert point["train_loss"] == pytest.approx(mean, rel=1e-9)
        first = stop


# Dropout, randomness, precision, files.


def logits(trained: Any) -> torch.Tensor:
    with torch.no_grad():
        return trained(input_ids=IDS).logits


@pytest.mark.parametrize("layout", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_model_of_others_learns_and_resumes(tmp_path: Path, layout: str, dropout: float) -> None:
    """With the loss of plain transformers before the first step."""

    def fresh() -> Any:
        changes = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        return tiny_model(layout, vocab_size=VOCAB_SIZE, context=CONTEXT, **changes)

    before = mean_loss(fresh(), VALIDATION, 4, CPU)
    total = count = 0
    for position in range(VALIDATION.num_rows):
        inputs, targets = VALIDATION.row(position)
        with torch.no_grad():
            found = fresh()(input_ids=torch.from_numpy(inputs)[None]).logits[0]
        kept = targets != IGNORED
        chosen = found.double().log_softmax(-1)[np.flatnonzero(kept), targets[kept]]
        total, count = total - float(chosen.sum()), count + int(kept.sum())
    assert before == pytest.approx(total / count, rel=1e-5)
    loop = config(dropout=dropout)
    trained, state = run(tmp_path / "whole", fresh(), loop=loop)
    assert state.history[-1]["validation_loss"] < before
    with pytest.raises(Incomplete):
        run(tmp_path / "parts", fresh(), loop=loop, should_stop=stop_after(1))
    resumed, _ = run(tmp_path / "parts", fresh(), loop=loop)
    assert_same(weights_of(resumed), weights_of(trained))


@pytest.mark.parametrize("stops", [False, True])
def test_after_training_the_model_is_as_it_came(tmp_path: Path, stops: bool) -> None:
    fresh = model()
    torch.manual_seed(77)
    expected = torch.rand(2)
    torch.manual_seed(77)
    try:
        run(tmp_path, fresh, loop=config(dropout=0.3), should_stop=lambda: stops)
    except Incomplete:
        assert stops
    assert torch.equal(torch.rand(2), expected)  # the caller's generator is left alone
    assert not fresh.training
    assert all(not module._forward_hooks for module in fresh.modules())
    trained = logits(fresh.train())
    assert torch.equal(logits(fresh.eval()), trained)


def test_validation_is_without_dropout(tmp_path: Path) -> None:
    trained, state = run(tmp_path, loop=config(dropout=0.5))
    without_hooks = mean_loss(trained, VALIDATION, 4, CPU)
    assert state.history[-1]["validation_loss"] == without_hooks


def test_dropout_and_the_seed_change_training_and_nothing_else_does(tmp_path: Path) -> None:
    def losses(name: str, dropout: float, seed: int) -> list[Any]:
        _, state = run(tmp_path / name, loop=config(dropout=dropout), seed=seed)
        return [point["train_loss"] for point in state.history]

    plain = losses("plain", 0.0, 3)
    assert losses("another seed", 0.0, 4) == plain
    dropped = losses("dropout", 0.2, 3)
    assert dropped != plain
    assert losses("dropout again", 0.2, 3) == dropped
    assert losses("dropout, another seed", 0.2, 4) != dropped


def test_bfloat16_trains_on_a_cpu(tmp_path: Path) -> None:
    """Half precision has 8 bits of mantissa: losses agree to a percent or so."""
    _, whole = run(tmp_path / "float32")
    trained, half = run(tmp_path / "bfloat16", precision="bfloat16")
    assert {p.dtype for p in trained.parameters()} == {torch.float32}
    assert {t.dtype for t in optimizer_tensors(tmp_path / "bfloat16").values()} == {torch.float32}
    a = [point["validation_loss"] for point in half.history]
    b = [point["validation_loss"] for point in whole.history]
    assert a != b
    assert a == pytest.approx(b, rel=0.03)


def test_no_file_is_a_pickle(tmp_path: Path) -> None:
    run(tmp_path, checkpoint_seconds=0.0)
    found = files(tmp_path)
    assert len(found) == 1 + 2 * 5  # best; two checkpoints
    for name, content in found.items():
        assert not content.startswith((b"\x80", b"PK")), name  # pickle; torch.save's zip
        if name.endswith(".safetensors"):
            size = int.from_bytes(content[:8], "little")
            assert isinstance(json.loads(content[8 : 8 + size]), dict)
        else:
            assert name.endswith(".json")
            json.loads(content)


def test_progress_counts_every_step(tmp_path: Path) -> None:
    seen: list[tuple[float, float, str]] = []
    run(tmp_path, progress=lambda done, total, note: seen.append((done, total, note)))
    assert [done for done, _, _ in seen] == list(range(1, STEPS + 1))
    assert {total for _, total, _ in seen} == {STEPS}
    assert seen[0][2] == ""
    assert seen[-1][2].startswith("validation loss ")


def test_gradients_are_clipped_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the optimizer sees has at most the norm that was asked for."""
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watch(self: torch.optim.AdamW, *arguments: Any) -> Any:
        all_gradients = [p.grad.flatten() for g in self.param_groups for p in g["params"]]
        norms.append(torch.cat(all_gradients).norm().item())
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    run(tmp_path, loop=config(gradient_clip=0.05))
    assert len(norms) == STEPS
    assert max(norms) <= 0.05 * (1 + 1e-5)
    assert functional.mse_loss(torch.tensor(norms), torch.tensor([0.05] * STEPS)) < 1e-6
