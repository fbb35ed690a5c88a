"""Law 6: the state of training is one value; train 2k steps = train k, kill, resume k. Loss is
divided by global valid tokens, so that masked rows weigh the same under any sharding."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from synboot.data.batches import IGNORED, Batches
from synboot.data.mixture import Mixture, Source
from synboot.data.tokens import TokenStore, write_token_store
from synboot.model.architecture import new_model
from synboot.model.settings import Shape
from synboot.train.checkpoint import TrainState, weights_of
from synboot.train.loop import train
from synboot.train.loss import summed_loss
from synboot.train.settings import LoopConfig

CPU = torch.device("cpu")
KILLED_AT = 9


def train_here(store: Path, scratch: Path, **options: Any) -> tuple[Any, TrainState]:
    """18 steps over three passes of a small store, dropout on, micro-batches of uneven size."""
    torch.set_num_threads(1)
    text = TokenStore(store)
    mixture = Mixture([Source("real", text, len(text), 3 * text.num_tokens())], 12, 0, seed=1)
    held = Mixture([Source("valid", text, 5, text.num_tokens(5))], 12, 0, seed=0)
    config = LoopConfig(learning_rate=0.01, batch_rows=4, dropout=0.2, num_validations=6)
    model = new_model(Shape(2, 16, 2, 1, 8, 24), vocab_size=40, context=12, end_id=0, seed=2)
    state = train(
        model, mixture, held, config, scratch, seed=5, device=CPU, micro_rows=3, **options
    )
    return model, state


def make_store(directory: Path) -> Path:
    random = np.random.default_rng(3)
    documents = [np.append(random.integers(1, 40, 6 + i % 11), 0) for i in range(24)]
    write_token_store(directory, documents, 40)
    return directory


def kill_yourself(done: float, total: float, note: str) -> None:
    """A `ReportProgress` that ends this process as a power cut would: the weights of the step
    have moved, its checkpoint is not written."""
    if done == KILLED_AT:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, TrainState, Path]:
    scratch = tmp_path_factory.mktemp("whole")
    return *train_here(store, scratch), scratch


def everything(model: Any, scratch: Path) -> dict[str, torch.Tensor]:
    """Weights, optimizer tensors and best weights at the end."""
    newest = sorted((scratch / "checkpoints").glob("step-*"))[-1]
    return {
        **weights_of(model),
        **load_file(newest / "optimizer.safetensors"),
        **{f"best {k}": v for k, v in load_file(scratch / "best.safetensors").items()},
    }


def assert_equal_to_the_last_bit(
    model: Any, state: TrainState, scratch: Path, whole: tuple[Any, TrainState, Path]
) -> None:
    assert state == whole[1]
    expected, found = everything(whole[0], whole[2]), everything(model, scratch)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_and_resumed_is_never_killed(
    tmp_path: Path, store: Path, whole: tuple[Any, TrainState, Path]
) -> None:
    """kill -9 of the training process, then another process goes on."""
    code = (
        "import importlib.util, pathlib\n"
        f"spec = importlib.util.spec_from_file_location('law', {str(Path(__file__))!r})\n"
        "law = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(law)\n"
        f"law.train_here(pathlib.Path({str(store)!r}), pathlib.Path({str(tmp_path)!r}),\n"
        "               progress=law.kill_yourself, checkpoint_seconds=0.0)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    steps: list[int] = []

    def emit(event: str, **fields: Any) -> None:
        if event == "training_from":
            steps.append(fields["step"])

    model, state = train_here(store, tmp_path, emit=emit)
    assert steps == [KILLED_AT - 1]  # the step in flight is all that was lost
    assert_equal_to_the_last_bit(model, state, tmp_path, whole)


def test_the_state_is_one_directory(
    tmp_path: Path, store: Path, whole: tuple[Any, TrainState, Path]
) -> None:
    """A checkpoint carried to an empty scratch folder is all that a resume needs."""
    stopping = iter(range(1, 100))
    with pytest.raises(Exception, match="stopped after step 7"):
        train_here(store, tmp_path / "first", should_stop=lambda: next(stopping) == 7)
    there = tmp_path / "second" / "checkpoints"
    there.mkdir(parents=True)
    (tmp_path / "first" / "checkpoints" / "step-00000007").rename(there / "step-00000007")
    model, state = train_here(store, tmp_path / "second")
    assert_equal_to_the_last_bit(model, state, tmp_path / "second", whole)


class MaskedRows:
    """Rows of which each carries loss at another number of positions."""

    num_rows = 10

    def num_targets(self, position: int) -> int:
        return 1 + position

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        inputs = (np.arange(12, dtype=np.int64) * (position + 3)) % 40
        targets = np.roll(inputs, -1)
        targets[: 12 - self.num_targets(position)] = IGNORED
        return inputs, targets


def gradients(world_size: int, micro_rows: int) -> dict[str, torch.Tensor]:
    """The sum over ranks of what each adds up: what an all-reduce would give."""
    model = new_model(Shape(2, 16, 2, 1, 8, 24), vocab_size=40, context=12, end_id=0, seed=2)
    for rank in range(world_size):
        batches = Batches(MaskedRows(), 10, rank=rank, world_size=world_size)
        for batch in batches.batch(0, micro_rows):
            loss, _ = summed_loss(model, batch, CPU)
            (loss / batch.global_targets).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("world_size", "micro_rows"), [(1, 1), (1, 4), (2, 10), (3, 2)])
def test_masked_rows_weigh_the_same_under_any_sharding(world_size: int, micro_rows: int) -> None:
    """Up to the order of sums in float32: 2^-24 relative for each of some hundred terms."""
    torch.set_num_threads(1)
    whole, found = gradients(1, 10), gradients(world_size, micro_rows)
    assert found.keys() == whole.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-7)
