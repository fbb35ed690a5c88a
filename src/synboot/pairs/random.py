"""Pairs at random: the control of which documents are paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.rng import rng, seed_for
from synboot.core.storage import atomic_file
from synboot.pairs.find import PairSplit


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


def random_split(num_documents: int, split: PairSplit, seed: int) -> PairSplit:
    """As many training and validation pairs as `split` has, at random among the documents that it
    keeps for each: random pairs split as others are would lose more of them as crossing, since
    they join all documents to one another."""
    held_out = np.array(sorted(split.held_out), dtype=np.int64)
    rest = np.setdiff1d(np.arange(num_documents), held_out)
    sides = []
    for name, documents, pairs in (
        ("training", rest, split.training),
        ("validation", held_out, split.validation),
    ):
        drawn = random_pairs(len(documents), len(pairs) // 2, seed_for(seed, name))
        own = [(int(documents[a]), int(documents[b])) for a, b in drawn]
        sides.append([order for a, b in own for order in ((a, b), (b, a))])
    return PairSplit(sides[0], sides[1], 0, split.held_out)


def write_split(path: Path, split: PairSplit, ids: Sequence[str]) -> None:
    """Parquet with d1, d2 (ids), verdict and validation (bool)."""
    pairs = [*split.training, *split.validation]
    columns = {f"d{side + 1}": [ids[pair[side]] for pair in pairs] for side in (0, 1)}
    validation = [place >= len(split.training) for place in range(len(pairs))]
    table = {**columns, "verdict": ["keep"] * len(pairs), "validation": validation}
    with atomic_file(path) as file:
        pq.write_table(pa.table(table), file)


def read_split(path: Path, number: Mapping[str, int]) -> PairSplit | None:
    """The split that `write_split` wrote, its documents by `number`; None for pairs without one."""
    if "validation" not in pq.read_schema(path).names:
        return None
    table = pq.read_table(path, columns=["d1", "d2", "validation"])
    sides: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for a, b, side in zip(*(column.to_pylist() for column in table.columns), strict=True):
        sides[side].append((number[a], number[b]))
    return PairSplit(*sides, 0, frozenset(d for pair in sides[1] for d in pair))
