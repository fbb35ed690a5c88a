"""Pairs a second in synthesizer-tuning: several pairs in a row, beside one pair a row.

Generated documents with lengths as spread as those of news (log-normal, median 60 tokens); the same
model, the same pairs, and as many of them a step. One pair a row is what a plain collator does, at
its best: of eight batches at a time, pairs of like length together, padded to the longest of their
batch, in a bare loop, eager and compiled for lengths that differ.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Result, Setting, compare, in_turns
from benchmarks.models import END, SIZES, Size
from benchmarks.training import bare_step
from synboot.data.batches import Batches
from synboot.data.tokens import TokenStore, write_token_store
from synboot.synth.template import PairRows
from synboot.train.loop import train
from synboot.train.settings import LoopConfig

STEPS = 8  # of a round that count
PAIRS = 2000
ROUNDS = {"S": 5, "M": 2}


def make_rows(directory: Path, size: Size) -> dict[bool, PairRows]:
    """Rows of the same pairs, by whether they are packed."""
    source = np.random.default_rng(0)
    lengths = np.clip(source.lognormal(np.log(60), 0.7, 1000), 5, 2000).astype(int)
    documents = (np.append(source.integers(1, size.vocab_size, n), END) for n in lengths)
    write_token_store(directory, documents, size.vocab_size)
    pairs = [(int(a), int(b)) for a, b in source.integers(0, 1000, (PAIRS, 2))]
    store = TokenStore(directory)
    return {
        packed: PairRows(store, pairs, context=size.context, end_id=END, seed=0, packed=packed)
        for packed in (True, False)
    }


class FirstRows:
    """The first rows of others."""

    def __init__(self, rows: PairRows, number: int) -> None:
        self.num_rows = number
        self.num_targets = rows.num_targets
        self.row = rows.row
        self.positions = rows.positions


def ours(size: Size, rows: PairRows) -> float:
    """Pairs a second of `train`, without its first and its last step."""
    times: list[float] = []
    config = LoopConfig(learning_rate=1e-4, batch_rows=size.rows, num_validations=1)
    with tempfile.TemporaryDirectory() as scratch:
        train(
            size.model(),
            FirstRows(rows, size.rows * (STEPS + 2)),
            FirstRows(rows, size.rows),
            config,
            Path(scratch),
            seed=0,
            device=torch.device("cpu"),
            compiled_length=size.context,
            checkpoint_seconds=1e9,
            progress=lambda *_: times.append(time.perf_counter()),
        )
    return counted_pairs(rows, size.rows) / (times[STEPS] - times[0])


def counted_pairs(rows: PairRows, batch_rows: int) -> int:
    """Of the steps that count."""
    return sum(rows.num_pairs(i) for i in range(batch_rows, batch_rows * (STEPS + 1)))


def by_length(rows: PairRows, first: int, number: int) -> list[Batches]:
    """Pairs from `first` on in `STEPS` batches, each of like length."""
    order = sorted(range(first, first + number), key=lambda i: len(rows.row(i)[0]))
    return [Batches(Chosen(rows, own.tolist()), number) for own in np.array_split(order, STEPS)]


class Chosen:
    """Some rows of others."""

    def __init__(self, rows: PairRows, places: list[int]) -> None:
        self._rows, self._places = rows, places
        self.num_rows = len(places)

    def num_targets(self, position: int) -> int:
        """Positions with loss."""
        return self._rows.num_targets(self._places[position])

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets)."""
        return self._rows.row(self._places[position])


class OnePairARow:
    """A bare loop that stays from round to round."""

    def __init__(self, size: Size, rows: PairRows, number: int, compiled: bool) -> None:
        model = size.model()
        self._number = number
        self._step = bare_step(model, torch.compile(model, dynamic=True) if compiled else model)
        self._batches = by_length(rows, 0, number)

    def __call__(self) -> float:
        """Pairs a second."""
        start = time.perf_counter()
        for batches in self._batches:
            [batch] = batches.batch(0)
            self._step(torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets))
        return self._number / (time.perf_counter() - start)


def real_share(rows: PairRows, batches: list[Batches]) -> float:
    """Positions that carry a pair's tokens over all positions of `batches`, which have all rows."""
    steps = [batch for own in batches for step in range(own.num_steps) for batch in own.batch(step)]
    real = sum(length * count for length, count in rows.row_lengths().items())
    return real / sum(batch.inputs.size for batch in steps)


def run(setting: Setting) -> list[Result]:
    """Pairs a second, and the share of positions that are real."""
    results = []
    for name in ["S"] if setting.quick else ["S", "M"]:
        with tempfile.TemporaryDirectory() as folder:
            rows = make_rows(Path(folder) / "tokens", SIZES[name])
            results += measure(name, SIZES[name], rows, 2 if setting.quick else ROUNDS[name])
    return results


def measure(name: str, size: Size, rows: dict[bool, PairRows], rounds: int) -> list[Result]:
    """Of one model."""
    number = counted_pairs(rows[True], size.rows)
    packed, single = rows[True], rows[False]
    work: dict[str, Callable[[], float]] = {
        "ours": partial(ours, size, packed),
        "one pair a row": OnePairARow(size, single, number, compiled=False),
        "one pair a row, compiled": OnePairARow(size, single, number, compiled=True),
    }
    rates = in_turns(work, rounds)
    pools = [by_length(single, i, min(number, PAIRS - i)) for i in range(0, PAIRS, number)]
    shares = {
        "ours": real_share(packed, [Batches(packed, size.rows)]),
        "one pair a row": real_share(single, [Batches(single, number // STEPS)]),
        "one pair a row, by length": real_share(single, [b for pool in pools for b in pool]),
        "all": 1.0,
    }
    case = f"{name}, context {size.context}"
    return [
        *compare("tuning", case, rates, unit="pairs/s"),
        *compare("tuning", f"{case}, real positions", shares, unit="of all", limit="all"),
    ]
