from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from synboot.model.architecture import new_model
from synboot.model.settings import Shape
from synboot.train.checkpoint import (
    TrainState,
    checkpoints,
    load_checkpoint,
    put_weights,
    save_checkpoint,
    weights_of,
    write_tensors,
)
from synboot.train.optim import new_optimizer
from synboot.train.settings import OptimConfig

Run = tuple[torch.nn.Module, torch.optim.Optimizer]
HISTORY = [{"step": 1, "tokens": 10, "train_loss": 0.1 + 0.2, "validation_loss": 1 / 3}]


def new_run(seed: int = 0) -> Run:
    model = new_model(Shape(1, 16, 2, 1, 8, 16), vocab_size=20, context=8, end_id=0, seed=seed)
    return model, new_optimizer(model, OptimConfig(learning_rate=0.01))


def move(run: Run) -> None:
    """One step with gradients that depend on the weights."""
    model, optimizer = run
    for parameter in model.parameters():
        parameter.grad = torch.cos(parameter.detach() * 50)
    optimizer.step()


def tensors(run: Run) -> dict[str, torch.Tensor]:
    model, optimizer = run
    found = dict(weights_of(model))
    for index, parameter in enumerate(p for g in optimizer.param_groups for p in g["params"]):
        for name, value in optimizer.state[parameter].items():
            found[f"{index}.{name}"] = value
    return {name: value.clone() for name, value in found.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved(directory: Path, steps: int, best: Path | None = None) -> list[dict[str, torch.Tensor]]:
    """Save a checkpoint after each of `steps` steps; what each of them holds."""
    run = new_run()
    held = []
    for step in range(1, steps + 1):
        move(run)
        save_checkpoint(directory, TrainState(step=step, history=HISTORY), *run, best)
        held.append(tensors(run))
    return held


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": lambda path: flip_a_bit(path / "model.safetensors"),
    "a bit of the optimizer": lambda path: flip_a_bit(path / "optimizer.safetensors"),
    "weights cut short": lambda path: os.truncate(path / "model.safetensors", 100),
    "no weights": lambda path: (path / "model.safetensors").unlink(),
    "another state": lambda path: (path / "state.json").write_text('{"step": 99}'),
    "no checksums": lambda path: (path / "checksums.json").unlink(),
    "checksums empty": lambda path: (path / "checksums.json").write_bytes(b""),
    "checksums of nothing": lambda path: (path / "checksums.json").write_text("{}"),
    "checksums of another form": lambda path: (path / "checksums.json").write_text("[1, 2]"),
    "checksums in binary": lambda path: (path / "checksums.json").write_bytes(b"\xff\xfe\x00"),
    "checksums are a directory": lambda path: (
        (path / "checksums.json").unlink(),
        (path / "checksums.json").mkdir(),
    ),
}


def test_state_weights_and_optimizer_come_back_bit_for_bit(tmp_path: Path) -> None:
    run = new_run()
    for _ in range(3):
        move(run)
    state = TrainState(3, 300, 0.1 + 0.2, 7, 1 / 3, 2, HISTORY)
    save_checkpoint(tmp_path, state, *run)
    other = new_run(seed=1)
    assert load_checkpoint(tmp_path, *other) == state
    assert same(tensors(other), tensors(run))
    move(run)
    move(other)
    assert same(tensors(other), tensors(run))


def test_nothing_saved_is_nothing_loaded(tmp_path: Path) -> None:
    run = new_run()
    before = tensors(run)
    assert load_checkpoint(tmp_path / "none", *run) is None
    assert same(tensors(run), before)


def test_the_newest_and_the_one_before_it_are_kept(tmp_path: Path) -> None:
    held = saved(tmp_path, 4)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]
    run = new_run()
    state = load_checkpoint(tmp_path, *run)
    assert state is not None
    assert state.step == 4
    assert same(tensors(run), held[3])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    held = saved(tmp_path, 2)
    DAMAGES[damage](tmp_path / "step-00000002")
    run = new_run()
    state = load_checkpoint(tmp_path, *run)
    assert state == TrainState(step=1, history=HISTORY)
    assert same(tensors(run), held[0])


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_all_are_damaged_nothing_is_touched(tmp_path: Path, damage: str) -> None:
    saved(tmp_path, 2)
    for path in checkpoints(tmp_path):
        DAMAGES[damage](path)
    run = new_run()
    before = tensors(run)
    assert load_checkpoint(tmp_path, *run) is None
    assert same(tensors(run), before)


def test_a_damaged_checkpoint_does_not_outlive_a_good_one(tmp_path: Path) -> None:
    """Step 2 is damaged, the run goes on from step 1 and saves after other steps than before."""
    saved(tmp_path, 2)
    flip_a_bit(tmp_path / "step-00000002" / "model.safetensors")
    run = new_run()
    assert load_checkpoint(tmp_path, *run) is not None
    for step in (2, 3):
        move(run)
        save_checkpoint(tmp_path, TrainState(step=step), *run)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]
    flip_a_bit(tmp_path / "step-00000003" / "model.safetensors")
    state = load_checkpoint(tmp_path, *new_run())
    assert state is not None
    assert state.step == 2


def test_a_half_written_checkpoint_is_ignored_and_cleared_away(tmp_path: Path) -> None:
    held = saved(tmp_path, 1)
    half = tmp_path / ".step-00000002.4242.tmp"
    shutil.copytree(tmp_path / "step-00000001", half)
    (half / "state.json").unlink()
    run = new_run()
    state = load_checkpoint(tmp_path, *run)
    assert state is not None
    assert state.step == 1
    assert same(tensors(run), held[0])
    save_checkpoint(tmp_path, TrainState(step=2), *run)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000001", "step-00000002"}


def test_a_save_that_fails_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = saved(tmp_path, 2)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("synboot.train.checkpoint.write_tensors", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, TrainState(step=3), *new_run())
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    run = new_run()
    assert load_checkpoint(tmp_path, *run) is not None
    assert same(tensors(run), held[1])


def test_the_loaded_optimizer_does_not_lean_on_the_file(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    run = new_run()
    load_checkpoint(tmp_path, *run)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(tmp_path) not in maps.read_text()
    before = tensors(run)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"\0" * file.stat().st_size)
    assert same(tensors(run), before)


@pytest.mark.parametrize("links", [True, False])
def test_the_best_weights_belong_to_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def no_links(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", no_links)
    directory, best = tmp_path / "checkpoints", tmp_path / "best.safetensors"
    run = new_run()
    move(run)
    save_checkpoint(directory, TrainState(step=1), *run, best)  # before the first validation
    for step, content in ((2, b"best of step 2"), (3, b"best of step 3")):
        new = tmp_path / "new"
        new.write_bytes(content)
        new.replace(best)
        save_checkpoint(directory, TrainState(step=step), *run, best)
    new.write_bytes(b"best of a step that no checkpoint knows")
    new.replace(best)
    assert load_checkpoint(directory, *run, best).step == 3  # type: ignore[union-attr]
    assert best.read_bytes() == b"best of step 3"
    flip_a_bit(directory / "step-00000003" / "best.safetensors")
    assert load_checkpoint(directory, *run, best).step == 2  # type: ignore[union-attr]
    assert best.read_bytes() == b"best of step 2"


def test_best_weights_from_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    directory, best = tmp_path / "checkpoints", tmp_path / "best.safetensors"
    run = new_run()
    save_checkpoint(directory, TrainState(step=1), *run, best)
    best.write_bytes(b"later")
    load_checkpoint(directory, *run, best)
    assert not best.exists()


def test_the_state_is_plain_json(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    state = json.loads((tmp_path / "step-00000001" / "state.json").read_text())
    assert state["step"] == 1
    assert state["history"] == HISTORY


def test_weights_that_lack_a_name_are_refused() -> None:
    model, _ = new_run()
    weights = weights_of(model)
    del weights["model.norm.weight"]
    with pytest.raises(KeyError, match=r"model\.norm\.weight"):
        put_weights(model, weights)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_oserror() -> None:
    """So that the program can say it in a line; safetensors' own writer raises something else."""
    with pytest.raises(OSError, match="No space left"):
        write_tensors(Path("/dev/full"), {"weight": torch.zeros(8192)})
