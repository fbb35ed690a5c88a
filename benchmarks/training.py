"""Seconds of a training step, and peak memory: `train` beside bare loops and transformers' Trainer.

All train the same weights on the same rows with AdamW (fused), gradients clipped, in float32. Each
round runs every side in turns for a few steps, of which the first, with what is set up in it, and
ours with validation and checkpoint, do not count. The limit is the model's matrix products alone:
every linear map forward, to its input and to its weights, as plain torch.mm. Memory is that of a
process of its own for each side, compilation included. Peer: `pip install accelerate`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.harness import Result, Setting, compare, in_turns, pin
from benchmarks.models import SIZES, Size
from synboot.train.loop import train
from synboot.train.settings import LoopConfig

STEPS = 3  # of a round that count
OURS, LIMIT = "ours", "GEMMs alone"
CONFIG = LoopConfig(learning_rate=1e-4, batch_rows=1, schedule="constant", num_validations=1)


class RandomRows:
    """Rows of random tokens, all of one length."""

    def __init__(self, number: int, context: int, vocab_size: int) -> None:
        tokens = np.random.default_rng(0).integers(0, vocab_size, (number, context + 1))
        self._tokens = tokens
        self.num_rows = number

    def num_targets(self, position: int) -> int:
        """All positions."""
        return len(self._tokens[position]) - 1

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets)."""
        return self._tokens[position, :-1], self._tokens[position, 1:]


class Case:
    """The sides of one case; each method runs `STEPS` steps and returns seconds a step."""

    def __init__(self, size: Size) -> None:
        self.size, self.rows = size, size.rows
        self.data = RandomRows(self.rows * (STEPS + 2), size.context, size.vocab_size)
        self._bare: dict[bool, Callable[[int], None]] = {}
        self._products: Callable[[], None] | None = None

    def ours(self) -> float:
        """`train` itself; its last step, which validates and saves, does not count."""
        times: list[float] = []
        valid = RandomRows(self.rows, self.size.context, self.size.vocab_size)
        config = CONFIG.model_copy(update={"batch_rows": self.rows})
        with tempfile.TemporaryDirectory() as scratch:
            train(
                self.size.model(),
                self.data,
                valid,
                config,
                Path(scratch),
                seed=0,
                device=torch.device("cpu"),
                compiled_length=self.size.context,
                checkpoint_seconds=1e9,
                progress=lambda *_: times.append(time.perf_counter()),
            )
        return (times[STEPS] - times[0]) / STEPS

    def bare(self, compiled: bool) -> float:
        """A loop of a few lines; model and optimizer stay from round to round."""
        if compiled not in self._bare:
            self._bare[compiled] = self._bare_loop(compiled)
        step = self._bare[compiled]
        step(0)
        start = time.perf_counter()
        for number in range(1, STEPS + 1):
            step(number)
        return (time.perf_counter() - start) / STEPS

    def _bare_loop(self, compiled: bool) -> Callable[[int], None]:
        model = self.size.model()
        step = bare_step(model, torch.compile(model, dynamic=False) if compiled else model)

        def numbered(number: int) -> None:
            rows = [self.data.row(number * self.rows + i) for i in range(self.rows)]
            inputs, targets = (torch.from_numpy(np.stack(half)) for half in zip(*rows, strict=True))
            step(inputs, targets)

        return numbered

    def trainer(self, compiled: bool) -> float:
        """transformers' Trainer, with the labels that its model shifts itself."""
        from transformers import Trainer, TrainerCallback, TrainingArguments  # needs accelerate

        times: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                times.append(time.perf_counter())

        examples = [
            {"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)}
            for row in (self.data.row(i)[0] for i in range(self.data.num_rows))
        ]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=self.rows,
                max_steps=STEPS + 1,
                learning_rate=1e-4,
                lr_scheduler_type="constant",
                weight_decay=0.1,
                optim="adamw_torch_fused",
                torch_compile=compiled,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            Trainer(
                self.size.model(), arguments, train_dataset=examples, callbacks=[Clock()]
            ).train()
        return (times[STEPS] - times[0]) / STEPS

    def products(self) -> float:
        """Every linear map's three products."""
        if self._products is None:
            self._products = self._plain_products()
        start = time.perf_counter()
        for _ in range(STEPS):
            self._products()
        return (time.perf_counter() - start) / STEPS

    def _plain_products(self) -> Callable[[], None]:
        model, positions = self.size.model(), self.rows * self.size.context
        shapes = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear)]
        operands = {
            (out, width): (
                torch.randn(positions, width),
                torch.randn(out, width),
                torch.randn(positions, out),
            )
            for out, width in shapes
        }

        def run() -> None:
            for shape in shapes:
                states, weight, gradient = operands[shape]
                torch.mm(states, weight.t())
                torch.mm(gradient, weight)
                torch.mm(gradient.t(), states)

        return run


def bare_step(
    model: Any, forward: Callable[..., Any]
) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """A step of training as one would write it: inputs and targets, int64 [rows, length]."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> None:
        logits = forward(input_ids=inputs, use_cache=False).logits
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


SIDES: dict[str, Callable[[Case], float]] = {
    OURS: Case.ours,
    "bare loop": lambda case: case.bare(False),
    "bare loop compiled": lambda case: case.bare(True),
    "Trainer": lambda case: case.trainer(False),
    "Trainer compiled": lambda case: case.trainer(True),
    LIMIT: Case.products,
}


def sides() -> list[str]:
    """Those that can run here."""
    if importlib.util.find_spec("accelerate") is None:
        print("Trainer: not installed: pip install accelerate", file=sys.stderr)
        return [name for name in SIDES if not name.startswith("Trainer")]
    return list(SIDES)


def peak_memory(case: str, side: str, threads: int) -> float:
    """MB resident at most in a process that runs one round of a side."""
    command = [sys.executable, "-m", "benchmarks.training", case, side, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def run(setting: Setting) -> list[Result]:
    """S and M, seconds and memory."""
    results: list[Result] = []
    names = sides()
    for name in ["S"] if setting.quick else ["S", "M"]:
        case = Case(SIZES[name])
        work = {side: partial(SIDES[side], case) for side in names}
        times = in_turns(work, 2 if setting.quick else 5)
        milliseconds = {side: 1000 * value for side, value in times.items()}
        results += compare("training", f"{name}, a step", milliseconds, unit="ms", limit=LIMIT)
        memory = {side: peak_memory(name, side, setting.threads) for side in names if side != LIMIT}
        results += compare("training", f"{name}, peak memory", memory, unit="MB")
    return results


if __name__ == "__main__":
    case_name, side_name, cores = sys.argv[1:]
    pin(int(cores))
    SIDES[side_name](Case(SIZES[case_name]))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    # ru_maxrss would be that of the process that started this one, if that was larger.
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024 / 1e6)
