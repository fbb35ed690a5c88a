"""Pairs at random: the control of which documents are paired."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.rng import rng
from synboot.core.storage import atomic_file


def random_pairs(num_documents: int, num_pairs: int, seed: int) -> list[tuple[int, int]]:
    """`num_pairs` distinct unordered pairs (first < second) of `num_documents`, uniformly and by
    key. Related documents are paired as often as chance has it. Raises ValueError if there are
    not that many."""
    total = num_documents * (num_documents - 1) // 2
    if num_pairs > total:
        raise ValueError(f"{num_pairs} pairs of {num_documents} documents, which have {total}")
    draws = rng(seed, "random pairs")
    if 2 * num_pairs > total:
        first, second = np.triu_indices(num_documents, 1)
        chosen = draws.permutation(total)[:num_pairs]
        return list(zip(first[chosen].tolist(), second[chosen].tolist(), strict=True))
    found: dict[tuple[int, int], None] = {}
    while len(found) < num_pairs:
        for a, b in draws.integers(num_documents, size=(num_pairs, 2)).tolist():
            if a != b and len(found) < num_pairs:
                found[min(a, b), max(a, b)] = None
    return list(found)


def write_random_pairs(path: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Parquet with d1, d2 (ids) and verdict, every pair in both orders."""
    ordered = [order for a, b in pairs for order in ((a, b), (b, a))]
    d1, d2 = ([pair[side] for pair in ordered] for side in (0, 1))
    with atomic_file(path) as file:
        pq.write_table(pa.table({"d1": d1, "d2": d2, "verdict": ["keep"] * len(d1)}), file)
