"""Seconds of a training step, and peak memory: `train` beside bare loops and transformers' Trainer.

All train the same weights on the same rows with AdamW (fused), gradients clipped, in float32. Each
round runs every side in turns for a few steps, of which the first, with what is set up in it, and
ours with validation and checkpoint, do not count. The limit is the model's matrix products alone:
every linear map forward, to its input and to its weights, as plain torch.mm. Memory is that of a
process of its own for each side, compilation included. Peer: `pip install accelerate`.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.harness import Result, Setting, compare, pin
from synboot.model.architecture import Shape, new_model
from synboot.train.loop import LoopConfig, train

STEPS = 3  # of a round that count
OURS, LIMIT = "ours", "GEMMs alone"
CASES = {
    "S": (Shape(6, 192, 6, 6, 32, 512), 4096, 256, 8),
    "M": (Shape(8, 384, 6, 6, 64, 1024), 8192, 512, 4),
}
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

    def __init__(self, name: str) -> None:
        self.shape, self.vocab_size, self.context, self.rows = CASES[name]
        self.data = RandomRows(self.rows * (STEPS + 2), self.context, self.vocab_size)
        self._bare: dict[bool, Callable[[int], None]] = {}
        self._products: Callable[[], None] | None = None

    def model(self) -> Any:
        """The same weights each time."""
        return new_model(
            self.shape, vocab_size=self.vocab_size, context=self.context, end_id=0, seed=0
        )

    def ours(self) -> float:
        """`train` itself; its last step, which validates and saves, does not count."""
        times: list[float] = []
        valid = RandomRows(self.rows, self.context, self.vocab_size)
        config = CONFIG.model_copy(update={"batch_rows": self.rows})
        with tempfile.TemporaryDirectory() as scratch:
            train(
                self.model(),
                self.data,
                valid,
                config,
                Path(scratch),
                seed=0,
                device=torch.device("cpu"),
                compiled_length=self.context,
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
        model = self.model().train()
        forward = torch.compile(model, dynamic=False) if compiled else model
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)

        def step(number: int) -> None:
            rows = [self.data.row(number * self.rows + i) for i in range(self.rows)]
            inputs, targets = (torch.from_numpy(np.stack(half)) for half in zip(*rows, strict=True))
            logits = forward(input_ids=inputs, use_cache=False).logits
            functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

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
            Trainer(self.model(), arguments, train_dataset=examples, callbacks=[Clock()]).train()
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
        model, positions = self.model(), self.rows * self.context
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


def seconds(case: Case, names: list[str], rounds: int) -> dict[str, float]:
    """Median seconds a step of each, in rounds; a first one does not count."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            value = SIDES[name](case)
            if number:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


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
        times = seconds(Case(name), names, 2 if setting.quick else 5)
        milliseconds = {side: 1000 * value for side, value in times.items()}
        results += compare("training", f"{name}, a step", milliseconds, unit="ms", limit=LIMIT)
        memory = {side: peak_memory(name, side, setting.threads) for side in names if side != LIMIT}
        results += compare("training", f"{name}, peak memory", memory, unit="MB")
    return results


if __name__ == "__main__":
    case_name, side_name, cores = sys.argv[1:]
    pin(int(cores))
    SIDES[side_name](Case(case_name))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    # ru_maxrss would be that of the process that started this one, if that was larger.
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024 / 1e6)
