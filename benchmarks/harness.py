"""What the benchmarks share: turns, medians, processes, and a result that says who was faster."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from synboot.experiment.stages.process import set_threads

OUT = Path(__file__).parent / "out"


@dataclass(frozen=True)
class Setting:
    """How a benchmark is run: `quick` takes a minute or so, `threads` are also the cores, `out` is
    where more than results goes."""

    quick: bool
    threads: int
    out: Path = OUT


@dataclass(frozen=True)
class Result:
    """Ours beside one peer on the same work. `ratio` above 1: ours is better by so much. `limit` is
    what the machine allows for this work in the same run and unit, where it was measured."""

    name: str
    case: str
    ours: float
    peer: float
    peer_name: str
    limit: float | None
    ratio: float
    unit: str


def note(text: str) -> None:
    """Say on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


def more_is_better(unit: str) -> bool:
    """Of speeds ("MB/s") and shares ("of all"); of anything else less is."""
    return unit.endswith("/s") or unit.startswith("of ")


def compare(
    name: str,
    case: str,
    medians: Mapping[str, float],
    *,
    unit: str,
    ours: str = "ours",
    limit: str | None = None,
) -> list[Result]:
    """A result for every peer among `medians`; `limit` names the entry that is the ceiling."""
    own = medians[ours]
    more = more_is_better(unit)
    ceiling = None if limit is None else medians[limit]
    return [
        Result(name, case, own, value, peer, ceiling, own / value if more else value / own, unit)
        for peer, value in medians.items()
        if peer not in (ours, limit)
    ]


def in_turns(
    work: Mapping[str, Callable[[], float]], rounds: int, *, warm: bool = True
) -> dict[str, float]:
    """Median of what each returns, all called once a round and in turns first, after one call that
    does not count."""
    names = list(work)
    found: dict[str, list[float]] = {name: [] for name in names}
    for name in names if warm else []:
        work[name]()
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(work[name]())
    return {name: statistics.median(values) for name, values in found.items()}


def paired(
    work: Mapping[str, Callable[[], object]], rounds: int, *, warm: bool = True
) -> dict[str, float]:
    """Median seconds of each, `in_turns`."""

    def timed(job: Callable[[], object]) -> Callable[[], float]:
        def call() -> float:
            start = time.perf_counter()
            job()
            return time.perf_counter() - start

        return call

    return in_turns({name: timed(job) for name, job in work.items()}, rounds, warm=warm)


def pin(threads: int) -> None:
    """Keep this process, and what it starts, to `threads` of the cores it may use."""
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    threadpool_limits(threads)


# --- Processes -----------------------------------------------------------------------------------

_held: Any = None
_seconds = 0.0
_all: Any = None


class Workers(AbstractContextManager["Workers"]):
    """The processes of a stage's parts: `number` of them with one thread each, and each with its
    own `make(*arguments)`. A single one is this process. All are ready when this returns;
    `seconds` is what the slowest took to make it."""

    def __init__(self, number: int, make: Callable[..., Any], *arguments: Any) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if number == 1:
            start = time.perf_counter()
            self._own = make(*arguments)
            self.seconds = time.perf_counter() - start
            return
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(
            number, context, _begin, (context.Barrier(number), make, arguments)
        )
        self.seconds = max(self._pool.map(_meet, range(number)))

    def map(self, call: Callable[[Any, Any], Any], parts: Iterable[Any]) -> list[Any]:
        """`call(made, part)` of each part, in order, each by whoever is free."""
        if self._pool is None:
            return [call(self._own, part) for part in parts]
        return [f.result() for f in [self._pool.submit(_work, call, part) for part in parts]]

    def __exit__(self, *_: object) -> None:
        self._own = None
        if self._pool is not None:
            self._pool.shutdown()


def _begin(all_there: Any, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    global _held, _seconds, _all
    set_threads(1)
    start = time.perf_counter()
    _held = make(*arguments)
    _seconds, _all = time.perf_counter() - start, all_there


def _meet(_: int) -> float:
    _all.wait()
    return _seconds


def _work(call: Callable[[Any, Any], Any], part: Any) -> Any:
    return call(_held, part)
