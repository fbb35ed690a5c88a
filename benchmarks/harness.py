"""What the benchmarks share: pairs of runs, medians, and a result that says who was faster."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from threadpoolctl import threadpool_limits


@dataclass(frozen=True)
class Setting:
    """How a benchmark is run: `quick` takes a minute at most, `threads` are also the cores."""

    quick: bool
    threads: int


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


def compare(
    name: str,
    case: str,
    medians: Mapping[str, float],
    *,
    unit: str,
    ours: str = "ours",
    limit: str | None = None,
) -> list[Result]:
    """A result for every peer among `medians`; `limit` names the entry that is the ceiling. In a
    `unit` that ends in "/s" more is better, in any other less is."""
    own = medians[ours]
    more = unit.endswith("/s")
    ceiling = None if limit is None else medians[limit]
    return [
        Result(name, case, own, value, peer, ceiling, own / value if more else value / own, unit)
        for peer, value in medians.items()
        if peer not in (ours, limit)
    ]


def paired(
    work: Mapping[str, Callable[[], object]], rounds: int, *, warm: bool = True
) -> dict[str, float]:
    """Median seconds of each, all run once a round and in turns first, after one run that does not
    count."""
    names = list(work)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names if warm else []:
        work[name]()
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            work[name]()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def pin(threads: int) -> None:
    """Keep this process, and what it starts, to `threads` of the cores it may use."""
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    threadpool_limits(threads)
