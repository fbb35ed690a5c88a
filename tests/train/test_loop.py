from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional

from synboot.core.errors import Incomplete, SynbootError
from synboot.data.batches import IGNORED, Batches
from synboot.data.mixture import Mixture, Source
from synboot.data.tokens import TokenStore, write_token_store
from synboot.model.architecture import Shape, new_model
from synboot.train.checkpoint import TrainState, put_weights, weights_of
from synboot.train.loop import (
    LoopConfig,
    train,
    validation_steps,
)
from synboot.train.loss import mean_loss, summed_loss

sys.path.append(str(Path(__file__).parents[1] / "model"))

from tiny import tiny_model

CPU = torch.device("cpu")
END = 0
VOCAB_SIZE = 32
CONTEXT = 12
SHAPE = Shape(2, 16, 2, 1, 8, 24)
IDS = torch.arange(CONTEXT)[None] % VOCAB_SIZE


class ListedRows:
    """Rows from a list of (inputs, targets)."""

    def __init__(self, rows: list[tuple[list[int], list[int]]]) -> None:
        self._rows = [(np.array(i, dtype=np.int64), np.array(t, dtype=np.int64)) for i, t in rows]
        self.num_rows = len(rows)

    def num_targets(self, position: int) -> int:
        return int((self._rows[position][1] != IGNORED).sum())

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        return self._rows[position]


def random_rows(number: int, seed: int, masked: float = 0.3) -> ListedRows:
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        length = int(random.integers(2, CONTEXT + 1))
        targets = random.integers(1, VOCAB_SIZE, length)
        targets[random.random(length) < masked] = IGNORED
        targets[-1] = 1
        rows.append((random.integers(1, VOCAB_SIZE, length).tolist(), targets.tolist()))
    return ListedRows(rows)


ROWS = random_rows(50, seed=1)
VALIDATION = random_rows(9, seed=2)
STEPS = 13  # 50 rows, 4 at a time


def model(seed: int = 0) -> Any:
    return new_model(SHAPE, vocab_size=VOCAB_SIZE, context=CONTEXT, end_id=END, seed=seed)


def config(**fields: object) -> LoopConfig:
    defaults = {"learning_rate": 0.01, "batch_rows": 4, "num_validations": 4}
    return LoopConfig.model_validate(defaults | fields)


def run(
    scratch: Path,
    trained: Any = None,
    rows: Any = ROWS,
    loop: LoopConfig | None = None,
    validation: Any = VALIDATION,
    **options: Any,
) -> tuple[Any, TrainState]:
    trained = trained or model()
    options = {"seed": 3, "device": CPU} | options
    return trained, train(trained, rows, validation, loop or config(), scratch, **options)


def optimizer_tensors(scratch: Path) -> dict[str, torch.Tensor]:
    newest = sorted((scratch / "checkpoints").glob("step-*"))[-1]
    return load_file(newest / "optimizer.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def stop_after(steps: int) -> Callable[[], bool]:
    """A `should_stop` that becomes true at the end of the given step of this process."""
    seen = 0

    def should_stop() -> bool:
        nonlocal seen
        seen += 1
        return seen >= steps

    return should_stop


class Events:
    """Collects what is emitted; may act on it."""

    def __init__(self, act: Callable[[str, dict[str, Any]], None] = lambda *_: None) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._act = act

    def __call__(self, event: str, **fields: Any) -> None:
        self.seen.append((event, fields))
        self._act(event, fields)

    def first_step(self) -> int:
        return next(int(fields["step"]) for event, fields in self.seen if event == "training_from")


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


# Resume.


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], TrainState, bytes]:
    torch.set_num_threads(1)
    scratch = tmp_path_factory.mktemp("uninterrupted")
    trained, state = run(scratch, loop=config(dropout=0.2))
    best = (scratch / "best.safetensors").read_bytes()
    return weights_of(trained), optimizer_tensors(scratch), state, best


@pytest.mark.parametrize("stops", [[1], [6], [12], [2, 1, 5], [1] * 12])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, uninterrupted: Any, stops: list[int]
) -> None:
    """With dropout on, in fresh objects."""
    weights, optimizer, state, best = uninterrupted
    done = 0
    for steps in stops:
        with pytest.raises(Incomplete, match=f"after step {done + steps} of {STEPS}"):
            run(tmp_path, model(9), loop=config(dropout=0.2), should_stop=stop_after(steps)) if (
                done
            ) else run(tmp_path, loop=config(dropout=0.2), should_stop=stop_after(steps))
        done += steps
    torch.manual_seed(12345)
    events = Events()
    trained, resumed = run(tmp_path, model(9), loop=config(dropout=0.2), emit=events)
    assert events.first_step() == done
    assert resumed == state
    assert_same(weights_of(trained), weights)
    assert_same(optimizer_tensors(tmp_path), optimizer)
    assert (tmp_path / "best.safetensors").read_bytes() == best


def test_one_object_can_be_stopped_and_go_on(tmp_path: Path, uninterrupted: Any) -> None:
    """In a notebook: nothing of the stopped run, hooks or gradients, is left on the model."""
    trained = model()
    with pytest.raises(Incomplete):
        run(tmp_path, trained, loop=config(dropout=0.2), should_stop=stop_after(5))
    assert all(parameter.grad is None for parameter in trained.parameters())
    _, state = run(tmp_path, trained, loop=config(dropout=0.2))
    assert state == uninterrupted[2]
    assert_same(weights_of(trained), uninterrupted[0])


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_when_checkpoints_are_written_changes_nothing(
    tmp_path: Path, uninterrupted: Any, seconds: float
) -> None:
    trained, state = run(tmp_path, loop=config(dropout=0.2), checkpoint_seconds=seconds)
    assert state == uninterrupted[2]
    assert_same(weights_of(trained), uninterrupted[0])
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names[-1] == f"step-{STEPS:08}"
    assert len(names) == (2 if seconds == 0 else 1)


def test_a_finished_run_is_not_trained_again(tmp_path: Path, uninterrupted: Any) -> None:
    run(tmp_path, loop=config(dropout=0.2))
    events = Events()
    trained, state = run(tmp_path, model(9), loop=config(dropout=0.2), emit=events)
    assert [event for event, _ in events.seen] == ["training_from"]
    assert state == uninterrupted[2]
    assert_same(weights_of(trained), uninterrupted[0])
    assert not trained.training


@pytest.mark.parametrize(("damaged", "goes_on_from"), [(1, 7), (2, 0)])
def test_damaged_checkpoints_cost_time_and_nothing_else(
    tmp_path: Path, uninterrupted: Any, damaged: int, goes_on_from: int
) -> None:
    """A checkpoint after every step, stopped after step 8; the newest one or two go bad."""
    with pytest.raises(Incomplete):
        run(
            tmp_path,
            loop=config(dropout=0.2),
            should_stop=stop_after(8),
            checkpoint_seconds=0.0,
        )
    for path in sorted((tmp_path / "checkpoints").iterdir())[-damaged:]:
        file = path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    events = Events()
    trained, state = run(tmp_path, model(), loop=config(dropout=0.2), emit=events)
    assert events.first_step() == goes_on_from
    assert state == uninterrupted[2]
    assert_same(weights_of(trained), uninterrupted[0])
    assert (tmp_path / "best.safetensors").read_bytes() == uninterrupted[3]


def test_a_stop_at_the_last_step_is_an_end(tmp_path: Path) -> None:
    _, state = run(tmp_path, should_stop=stop_after(STEPS))
    assert state.step == STEPS


# What is not finite.


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_gradient_that_is_not_finite_names_its_step_and_leaves_no_trace(tmp_path: Path) -> None:
    fresh = model()
    before: dict[str, bytes] = {}

    def poison(event: str, fields: dict[str, Any]) -> None:
        if event == "checkpoint" and fields["step"] == 5:
            before.update(files(tmp_path))
            with torch.no_grad():
                fresh.model.norm.weight[0] = float("inf")

    with pytest.raises(SynbootError, match=f"step 6 of {STEPS}: .* not finite") as caught:
        run(tmp_path, fresh, loop=config(dropout=0.2), emit=Events(poison), checkpoint_seconds=0.0)
    assert caught.value.exit_code == 1
    assert files(tmp_path) == before
    assert all(parameter.grad is None for parameter in fresh.parameters())
    events = Events()
    _, state = run(tmp_path, fresh, loop=config(dropout=0.2), emit=events)
    assert events.first_step() == 5
    assert state.step == STEPS


def test_a_loss_that_is_not_finite_stops_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradient can be finite: that of a target whose probability is 0."""

    def infinite(*arguments: Any) -> tuple[torch.Tensor, int]:
        loss, targets = summed_loss(*arguments)
        return loss + math.inf, targets

    monkeypatch.setattr("synboot.train.loop.summed_loss", infinite)
    with pytest.raises(SynbootError, match=f"step 1 of {STEPS}: .* not finite"):
        run(tmp_path)
    assert files(tmp_path) == {}


def test_a_last_step_that_leads_astray_is_not_kept(tmp_path: Path) -> None:
    """No next step's gradient would tell: validation does."""
    loop = config(learning_rate=1e38, batch_rows=50, weight_decay=0.0)
    with pytest.raises(SynbootError, match="step 1 of 1: the validation loss is not finite"):
        run(tmp_path, loop=loop)
    assert files(tmp_path) == {}


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
