"""A training that is stopped goes on to the same bits, and one that is not finite ends."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from synboot.core.errors import Incomplete, SynbootError
from synboot.train.checkpoint import TrainState, weights_of
from synboot.train.loss import summed_loss

sys.path.append(str(Path(__file__).parent))

from small_training import (
    STEPS,
    Events,
    assert_same,
    config,
    files,
    model,
    optimizer_tensors,
    run,
    stop_after,
)

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
