"""Stages that know no machine learning, with faults that go off once, at an exact place."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synboot.core.errors import BadInput, Incomplete
from synboot.core.storage import digest, exclusive_lock, write_json
from synboot.pipeline.stage import Context, Counts, Stage

LINGER_SECONDS = 30.0
"""How long a worker that lost its runner would go on if nothing ended it."""


@dataclass(frozen=True)
class Bench:
    """Where toy stages say what they did, and what shall go wrong: no part of any identity."""

    side: Path
    runner: int = field(default_factory=os.getpid)
    faults: Mapping[str, str] = field(default_factory=dict)
    """Place ("part 3", "prepare", "finish", "step 2") to the name of what goes wrong there."""
    waits: Mapping[str, str] = field(default_factory=dict)
    """Place to the place that another worker must have begun with before it goes on."""

    def enter(self, place: str) -> None:
        """Note that the work at `place` really began."""
        with (self.side / "executions").open("a") as file:
            file.write(f"{place} {os.getpid()}\n")

    def reach(self, place: str) -> None:
        """The middle of the work at `place`: what shall go wrong there goes wrong, once."""
        if place in self.waits:
            self._wait_for(self.waits[place])
        marker = self.side / f"fault at {place}"
        if place not in self.faults or marker.exists():
            return
        marker.touch()
        self._go_wrong(self.faults[place])

    def _go_wrong(self, fault: str) -> None:
        if fault == "kill runner":
            with exclusive_lock(self.side / "lingering"):
                os.kill(self.runner, signal.SIGKILL)
                time.sleep(LINGER_SECONDS)
            (self.side / "survived").touch()
        elif fault == "die":
            os._exit(7)
        elif fault == "kill idle sibling":
            self._wait_for("part 2")
            time.sleep(0.5)  # the other worker is done with it, and has nothing else to do
            os.kill(self._sibling(), signal.SIGKILL)
            time.sleep(0.5)
        elif fault in {"SIGINT", "SIGTERM"}:
            os.kill(self.runner, signal.Signals[fault])
            time.sleep(0.3)
        elif fault in {"group SIGINT", "group SIGTERM"}:
            os.killpg(0, signal.Signals[fault.removeprefix("group ")])
            time.sleep(0.3)
        elif fault == "SIGINT twice":
            with exclusive_lock(self.side / "lingering"):
                for _ in range(2):
                    os.kill(self.runner, signal.SIGINT)
                    time.sleep(0.3)
                time.sleep(LINGER_SECONDS)
        elif fault == "disk full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif fault == "bad input":
            raise BadInput("toy.txt, line 3: expected a number")
        elif fault == "raise":
            raise RuntimeError("a bug of the toy")
        elif fault == "wait":
            while not (self.side / "go on").exists():
                time.sleep(0.02)
        else:
            raise AssertionError(fault)

    def _wait_for(self, place: str) -> None:
        while f"{place} " not in (self.side / "executions").read_text():
            time.sleep(0.01)

    def _sibling(self) -> int:
        lines = (self.side / "executions").read_text().splitlines()
        pids = {int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("part ")}
        (sibling,) = pids - {os.getpid()}
        return sibling


class Numbers(Stage):
    """Keyed random numbers in parts; with a `need`, until so many of them are even.

    `philox`: from the project's own generator.
    """

    name = "numbers"
    version = 1

    def __init__(self, *arguments: Any, bench: Bench, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.bench = bench

    def prepare(self, context: Context, directory: Path) -> None:
        """What every part adds."""
        self.bench.enter("prepare")
        (directory / "half").write_text("")
        self.bench.reach("prepare")
        (directory / "half").unlink()
        (directory / "offset").write_text(str(10 * self.seed))

    def num_parts(self, context: Context) -> int:
        return int(self.config["parts"])

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        self.bench.enter(f"part {index}")
        offset = int((context.prepared / "offset").read_text())
        size = self.config["per_part"]
        with (directory / "numbers").open("w") as file:
            for item in range(index * size, (index + 1) * size):
                if item == index * size + size // 2:
                    file.flush()
                    self.bench.reach(f"part {index}")
                file.write(f"{item} {offset + self._draw(item)}\n")
        return {"numbers": size}

    def _draw(self, item: int) -> int:
        if not self.config["philox"]:
            return int(digest([self.seed, self.name, item])[:5], 16)
        from synboot.core.rng import rng  # loads NumPy, which most toy runs have no time for

        return int(rng(self.seed, self.name, item).integers(1_000_000))

    def need(self, context: Context, parts: Sequence[Path]) -> tuple[float, float] | None:
        if self.config["need"] is None:
            return None
        even = sum(int(line.split()[1]) % 2 == 0 for line in _lines(parts))
        return even, self.config["need"]

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        self.bench.enter("finish")
        lines = _lines(parts)
        (context.directory / "numbers").write_text("".join(lines[: len(lines) // 2]))
        (context.directory / "deep" / "er").mkdir(parents=True)
        self.bench.reach("finish")
        (context.directory / "numbers").write_text("".join(lines))
        (context.directory / "deep" / "er" / "first").write_text("".join(lines[:1]))
        return {"numbers": len(lines), "parts": len(parts)}


class Total(Stage):
    """Adds up the numbers in one long loop that saves what it has when it is asked to stop."""

    name = "total"
    version = 1

    def __init__(self, *arguments: Any, bench: Bench, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.bench = bench

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        self.bench.enter("total")
        saved = context.scratch / "saved.json"
        lines = context.inputs["numbers"].file("numbers").read_text().splitlines()
        step, total = json.loads(saved.read_text()) if saved.exists() else (0, 0)
        while step < len(lines):
            self.bench.enter(f"step {step}")
            self.bench.reach(f"step {step}")
            total += int(lines[step].split()[1])
            step += 1
            if context.should_stop():
                write_json(saved, [step, total])
                raise Incomplete(f"stopped after step {step}")
        (context.directory / "total").write_text(str(total))
        return {"total": total}


def _lines(parts: Sequence[Path]) -> list[str]:
    return [
        line for part in parts for line in (part / "numbers").read_text().splitlines(keepends=True)
    ]


def pipeline(
    bench: Bench,
    *,
    parts: int = 6,
    per_part: int = 4,
    need: int | None = None,
    philox: bool = False,
    seed: int = 1,
    numerics: Mapping[str, Any] | None = None,
    label: str | None = None,
) -> list[Stage]:
    """Numbers, then their total."""
    config = {"parts": parts, "per_part": per_part, "need": need, "philox": philox}
    numbers = Numbers(config, {}, seed=seed, numerics=numerics, label=label, bench=bench)
    return [numbers, Total({}, {"numbers": numbers}, seed=seed, bench=bench)]


def lock_is_free(path: Path) -> bool:
    """Whether no living process holds the lock: the kernel frees it when its holder dies."""
    with contextlib.suppress(Incomplete), exclusive_lock(path):
        return True
    return False
