"""Rows to batches: rank-aware, addressable by step, hence resumable for free (laws 4, 6)."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

IGNORED = -100
"""The target of a position that carries no loss."""


class Rows(Protocol):
    """Training rows that can be read in any order."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""

    def num_targets(self, position: int) -> int:
        """How many positions of a row carry loss."""

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets), int64 [length] both; a target without loss is `IGNORED`."""


@runtime_checkable
class PackedRows(Rows, Protocol):
    """Rows that may hold several texts, which do not see each other."""

    def positions(self, position: int) -> np.ndarray:
        """The place of each input in its own text, int64 [length]: 0 where a text begins."""


@dataclass(frozen=True)
class Batch:
    """`inputs`, `targets`: int64 [rows, length], padded on the right (padding carries no loss);
    `positions` likewise, of packed rows (padding is a text of its own), or none where each row is
    one text. `rows`: int64 [rows], their numbers in the batch of all ranks.

    `global_targets` counts the positions with loss over the batches of all ranks: dividing by it
    makes every trained position weigh the same under any sharding (law 6).
    """

    inputs: np.ndarray
    targets: np.ndarray
    global_targets: int
    rows: np.ndarray
    positions: np.ndarray | None = None


class Batches:
    """The batches of one rank. Batch `step` of all ranks together is rows
    `step * batch_rows` to `(step + 1) * batch_rows`, whatever the number of ranks; the last batch
    may have fewer."""

    def __init__(self, rows: Rows, batch_rows: int, *, rank: int = 0, world_size: int = 1) -> None:
        self._rows = rows
        self._batch_rows = batch_rows
        self._rank = rank
        self._world_size = world_size
        self.num_steps = -(-rows.num_rows // batch_rows)

    def batch(self, step: int, micro_rows: int | None = None) -> list[Batch]:
        """The micro-batches of a step, at most `micro_rows` rows each (all rows by default)."""
        first = step * self._batch_rows
        positions = range(first, min(first + self._batch_rows, self._rows.num_rows))
        total = sum(self._rows.num_targets(position) for position in positions)
        own = positions[self._rank :: self._world_size]
        size = micro_rows or max(len(own), 1)
        return [self._collate(first, own[i : i + size], total) for i in range(0, len(own), size)]

    def _collate(self, first: int, positions: range, global_targets: int) -> Batch:
        rows = [self._rows.row(position) for position in positions]
        shape = len(rows), max(len(inputs) for inputs, _ in rows)
        inputs = np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        for i, (row_inputs, row_targets) in enumerate(rows):
            inputs[i, : len(row_inputs)] = row_inputs
            targets[i, : len(row_targets)] = row_targets
        numbers = np.array(positions, dtype=np.int64) - first
        if not isinstance(self._rows, PackedRows):
            return Batch(inputs, targets, global_targets, numbers)
        places = np.tile(np.arange(shape[1]), (shape[0], 1))
        for i, position in enumerate(positions):
            own = self._rows.positions(position)
            places[i] = np.concatenate([own, np.arange(shape[1] - len(own))])
        restart = (places != np.arange(shape[1])).any()
        return Batch(inputs, targets, global_targets, numbers, places if restart else None)


class ReadAhead:
    """Batches of which the next step's is read, by a thread, while the one before is worked on."""

    def __init__(self, batches: Batches, micro_rows: int | None = None) -> None:
        self._batches = batches
        self._micro_rows = micro_rows
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[list[Batch]]] | None = None
        self.num_steps = batches.num_steps

    def batch(self, step: int) -> list[Batch]:
        """The micro-batches of a step, as `Batches.batch` gives them."""
        ready = self._ahead if self._ahead is not None and self._ahead[0] == step else None
        found = self._batches.batch(step, self._micro_rows) if ready is None else ready[1].result()
        if step + 1 < self._batches.num_steps:
            future = self._pool.submit(self._batches.batch, step + 1, self._micro_rows)
            self._ahead = (step + 1, future)
        return found

    def close(self) -> None:
        """Let the thread end."""
        self._pool.shutdown(cancel_futures=True)
