"""Rows to batches: rank-aware, addressable by step, hence resumable for free (laws 4, 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True)
class Batch:
    """`inputs`, `targets`: int64 [rows, length], padded on the right (padding carries no loss).

    `global_targets` counts the positions with loss over the batches of all ranks: dividing by it
    makes every trained position weigh the same under any sharding (law 6).
    """

    inputs: np.ndarray
    targets: np.ndarray
    global_targets: int


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
        own = [self._rows.row(position) for position in positions[self._rank :: self._world_size]]
        size = micro_rows or max(len(own), 1)
        return [_collate(own[i : i + size], total) for i in range(0, len(own), size)]


def _collate(rows: list[tuple[np.ndarray, np.ndarray]], global_targets: int) -> Batch:
    length = max(len(inputs) for inputs, _ in rows)
    inputs = np.zeros((len(rows), length), dtype=np.int64)
    targets = np.full((len(rows), length), IGNORED, dtype=np.int64)
    for i, (row_inputs, row_targets) in enumerate(rows):
        inputs[i, : len(row_inputs)] = row_inputs
        targets[i, : len(row_targets)] = row_targets
    return Batch(inputs, targets, global_targets)
