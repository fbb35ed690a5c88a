"""A small training: a model of some hundred weights, rows, and ways to stop and to watch it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from synboot.data.batches import IGNORED
from synboot.model.architecture import new_model
from synboot.model.settings import Shape
from synboot.train.checkpoint import TrainState
from synboot.train.loop import train
from synboot.train.settings import LoopConfig

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


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


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
