"""A step's gradients: by a graph that is replayed the same as asked for in pieces."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synboot.data.batches import IGNORED, Batch, Batches
from synboot.model.replay import Replay
from synboot.train.checkpoint import weights_of
from synboot.train.device import autocast
from synboot.train.dropout import Dropout
from synboot.train.loss import PlacedBatch, summed_loss
from synboot.train.step_graph import StepGraph

sys.path.append(str(Path(__file__).parent))

from small_training import CONTEXT, CPU, VOCAB_SIZE, ListedRows, assert_same, config, model, run

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Gradients:
    """Of steps without an optimizer."""

    def __init__(
        self, trained: Any, device: torch.device, precision: str = "float32", **options: bool
    ) -> None:
        self._model, self._device = trained, device
        self._cast = autocast(device, precision)
        self._graph = StepGraph(trained, device, **options)

    def add(self, batch: Batch) -> tuple[torch.Tensor, int]:
        return self._graph.run(self._work, batch)

    def _work(self, batch: Batch | PlacedBatch) -> tuple[torch.Tensor, int]:
        with self._cast():
            loss, targets = summed_loss(self._model, batch, self._device)
        torch.autograd.backward(loss / batch.global_targets)
        return loss.detach(), targets


def whole_rows(number: int) -> ListedRows:
    """Rows all of whose positions carry loss, as those of pretraining."""
    random = np.random.default_rng(5)
    rows = random.integers(1, VOCAB_SIZE, (number, 2, CONTEXT)).tolist()
    return ListedRows([(inputs, targets) for inputs, targets in rows])


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As on a GPU, with a stand-in for its graphs."""
    found: list[str] = []

    def capture(_self: Replay, function: Callable[[], None]) -> Any:
        class Graph:
            def replay(self) -> None:
                found.append("replay")
                function()

        return Graph()

    monkeypatch.setattr(Replay, "_warm_up", lambda _self, function: function())
    monkeypatch.setattr(Replay, "_capture", capture)
    before = Replay.__init__

    def made(self: Replay, device: torch.device) -> None:
        before(self, device)
        self.reason = None

    monkeypatch.setattr(Replay, "__init__", made)
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_training_is_the_same(
    tmp_path: Path, request: pytest.FixtureRequest, dropout: float
) -> None:
    """Nine steps of 4 rows, and a last one of 2, which has a shape of its own."""
    rows, loop = whole_rows(38), config(dropout=dropout)
    torch.set_num_threads(1)  # one replica, as on a GPU
    expected, _ = run(tmp_path / "pieces", rows=rows, loop=loop)
    replays = request.getfixturevalue("replays")
    found, _ = run(tmp_path / "graph", rows=rows, loop=loop)
    assert len(replays) == 8
    assert_same(weights_of(found), weights_of(expected))


def test_what_has_another_shape_or_masked_targets_is_asked_for_in_pieces(
    replays: list[str],
) -> None:
    trained = model()
    gradients = Gradients(trained, CPU)
    masked = ListedRows([([1, 2, 3], [2, 3, IGNORED])] * 4)
    for rows in (whole_rows(4), whole_rows(3), masked, whole_rows(4), whole_rows(4)):
        [batch] = Batches(rows, 4).batch(0)
        trained.zero_grad(set_to_none=True)
        loss, targets = gradients.add(batch)
        found = [p.grad.clone() for p in trained.parameters()]
        trained.zero_grad(set_to_none=True)
        alone, number = Gradients(trained, CPU, captures=False).add(batch)
        assert targets == number == (batch.targets != IGNORED).sum()
        assert torch.equal(loss, alone)
        assert all(torch.equal(a, p.grad) for a, p in zip(found, trained.parameters(), strict=True))
    assert len(replays) == 2


def test_compiled_code_is_not_captured(
    tmp_path: Path, replays: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synboot.train.loop.compiled_blocks", lambda *_: nullcontext())
    torch.set_num_threads(1)
    run(tmp_path, rows=whole_rows(20), compiled_length=CONTEXT)
    assert not replays


def test_batches_of_one_step_add_up(replays: list[str]) -> None:
    trained, [whole] = model(), Batches(whole_rows(4), 4).batch(0)
    gradients = Gradients(trained, CPU)
    gradients.add(whole)
    expected = [p.grad.clone() for p in trained.parameters()]
    trained.zero_grad(set_to_none=True)
    for part in Batches(whole_rows(4), 4).batch(0, micro_rows=2):
        gradients.add(part)
    for parameter, gradient in zip(trained.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    assert not replays


@CUDA
@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_replays_what_it_was_asked_for_in_pieces(precision: str) -> None:
    """Gradients of batch after batch, with weights that change in between."""
    device, trained = torch.device("cuda"), model().to("cuda")
    replayed = Gradients(trained, device, precision)
    asked = Gradients(trained, device, precision, captures=False)
    masks, batches = Dropout(trained, 0.2), Batches(whole_rows(24), 4)
    trained.train()
    for step in range(6):
        [batch] = batches.batch(step)
        masks.draw(3, step, batch.rows)
        expected, _ = asked.add(batch)
        gradients = [p.grad.clone() for p in trained.parameters()]
        trained.zero_grad(set_to_none=True)
        found, _ = replayed.add(batch)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        for parameter, gradient in zip(trained.parameters(), gradients, strict=True):
            off = (parameter.grad - gradient).norm() / gradient.norm()
            assert off < (1e-5 if precision == "float32" else 1e-2)
            parameter.data -= 0.1 * parameter.grad
        trained.zero_grad(set_to_none=True)


@CUDA
@pytest.mark.gpu
def test_a_gpu_trains_as_a_cpu_does(tmp_path: Path) -> None:
    rows, loop = whole_rows(40), config(dropout=0.2)
    _, found = run(tmp_path / "gpu", rows=rows, loop=loop, device=torch.device("cuda"))
    _, expected = run(tmp_path / "cpu", rows=rows, loop=loop)
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
