"""Pairs a second in synthesizer-tuning: several pairs in a row, beside one pair a row.

Generated documents with lengths as spread as those of news (log-normal, median 60 tokens); the
same pairs, model and rows a batch. One pair a row is what a plain collator does: rows padded to
the longest of their batch, run eagerly, since their lengths differ.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Result, Setting, compare
from synboot.data.batches import Batches
from synboot.data.tokens import TokenStore, write_token_store
from synboot.model.architecture import Shape, new_model
from synboot.synth.template import PairRows
from synboot.train.loop import LoopConfig, train

SHAPE, VOCAB_SIZE, CONTEXT, BATCH_ROWS = Shape(6, 192, 6, 6, 32, 512), 4096, 256, 8
STEPS = 4
PAIRS = 2000


def make_rows(directory: Path) -> dict[bool, PairRows]:
    """Rows of the same pairs, by whether they are packed."""
    source = np.random.default_rng(0)
    lengths = np.clip(source.lognormal(np.log(60), 0.7, 1000), 5, 2000).astype(int)
    documents = (np.append(source.integers(1, VOCAB_SIZE, n), 0) for n in lengths)
    write_token_store(directory, documents, VOCAB_SIZE)
    pairs = [(int(a), int(b)) for a, b in source.integers(0, 1000, (PAIRS, 2))]
    store = TokenStore(directory)
    return {
        packed: PairRows(store, pairs, context=CONTEXT, end_id=0, seed=0, packed=packed)
        for packed in (True, False)
    }


class FirstRows:
    """The first rows of others."""

    def __init__(self, rows: PairRows, number: int) -> None:
        self.num_rows = number
        self.num_targets = rows.num_targets
        self.row = rows.row
        self.positions = rows.positions


def pairs_a_second(rows: PairRows, compiled: bool) -> float:
    """Of `train`, without its first and its last step."""
    times: list[float] = []
    used = FirstRows(rows, BATCH_ROWS * (STEPS + 2))
    config = LoopConfig(learning_rate=1e-4, batch_rows=BATCH_ROWS, num_validations=1)
    model = new_model(SHAPE, vocab_size=VOCAB_SIZE, context=CONTEXT, end_id=0, seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        train(
            model,
            used,
            FirstRows(rows, BATCH_ROWS),
            config,
            Path(scratch),
            seed=0,
            device=torch.device("cpu"),
            compiled_length=CONTEXT if compiled else None,
            checkpoint_seconds=1e9,
            progress=lambda *_: times.append(time.perf_counter()),
        )
    counted = range(BATCH_ROWS, BATCH_ROWS * (STEPS + 1))
    return sum(rows.num_pairs(position) for position in counted) / (times[STEPS] - times[0])


def real_share(rows: PairRows) -> float:
    """Positions that carry a pair's tokens over all positions of all batches."""
    batches = Batches(rows, BATCH_ROWS)
    steps = range(batches.num_steps)
    padded = sum(batch.inputs.size for step in steps for batch in batches.batch(step))
    return sum(length * count for length, count in rows.row_lengths().items()) / padded


def run(setting: Setting) -> list[Result]:
    """Pairs a second, and the share of positions that are real."""
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(Path(folder) / "tokens")
        work: dict[str, Callable[[], float]] = {
            "ours": lambda: pairs_a_second(rows[True], True),
            "packed, eager": lambda: pairs_a_second(rows[True], False),
            "one pair a row": lambda: pairs_a_second(rows[False], False),
        }
        found: dict[str, list[float]] = {name: [] for name in work}
        names = list(work)
        for number in range((2 if setting.quick else 5) + 1):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                value = work[name]()
                if number:  # the first round compiles
                    found[name].append(value)
        medians = {name: statistics.median(values) for name, values in found.items()}
        packed, single = real_share(rows[True]), real_share(rows[False])
    results = compare("tuning", "context 256", medians, unit="pairs/s")
    share = Result(
        "tuning",
        "real positions",
        packed,
        single,
        "one pair a row",
        1.0,
        packed / single,
        "of all",
    )
    return [*results, share]
