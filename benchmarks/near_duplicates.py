"""Shared 13-word windows of pairs of related texts, from texts to shares: pairs a second.

The pairs are the 20 nearest neighbours, above a similarity of 0.3, of 4,000 sections of Wikipedia
below SYNBOOT_DATA by `lsa`, of the documentation in Python where that is not set. Python sets are
built once a text. rensa estimates what the others count: its figure is that of signatures of the
same windows, 128 numbers each, and of comparing them; answers are not compared.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.harness import Result, Setting, compare, paired
from synboot.data.ngrams import reference_windows, windows_of
from synboot.data.overlaps import overlaps, shared_counts
from synboot.pairs.encoders.lsa import LsaEncoder
from synboot.pairs.find import candidates_of
from synboot.pairs.neighbours.exact import ExactIndex
from synboot.worlds.pydocs import python_documents

MIN_SIMILARITY = 0.3


def run(setting: Setting) -> list[Result]:
    """From texts, and of windows that are there."""
    texts = related_texts(1000 if setting.quick else 4000)
    vectors = LsaEncoder.fit(texts, dimensions=128, seed=0).encode(texts)
    near = candidates_of(ExactIndex(vectors).search(0, len(texts), 20))
    pairs = [(c.first, c.second) for c in near if c.similarity >= MIN_SIMILARITY]
    first, second = np.array(pairs, dtype=np.int64).T
    found: dict[str, list[float]] = {}
    work: dict[str, Callable[[], object]] = {
        "ours": lambda: found.update(ours=overlaps(texts, first, second).tolist()),
        "Python sets": lambda: found.update(sets=by_sets(texts, pairs)),
    }
    rensa = _rensa()
    if rensa is not None:
        work["rensa (estimates)"] = lambda: by_signatures(rensa, texts, pairs)
    results = _rates(f"{len(texts):,} texts, {len(pairs):,} pairs", work, len(pairs))
    if found["ours"] != found["sets"]:
        raise AssertionError("the answers differ from those of Python sets")

    windows = windows_of(texts)
    sets = [reference_windows(text) for text in texts]
    counting: dict[str, Callable[[], object]] = {
        "ours": lambda: shared_counts(windows, first, second),
        "Python sets": lambda: [len(sets[a] & sets[b]) for a, b in pairs],
    }
    return results + _rates("windows made before", counting, len(pairs))


def _rates(case: str, work: dict[str, Callable[[], object]], pairs: int) -> list[Result]:
    rates = {name: pairs / seconds for name, seconds in paired(work, 3).items()}
    return compare("near_duplicates", case, rates, unit="pairs/s")


def related_texts(count: int) -> list[str]:
    """The first of a corpus."""
    if "SYNBOOT_DATA" in os.environ:
        path = Path(os.environ["SYNBOOT_DATA"]) / "enwiki_sec" / "train.parquet"
        texts: list[str] = pq.read_table(path, columns=["text"])["text"].to_pylist()[:count]
        return texts
    print("SYNBOOT_DATA is not set: documentation")
    return [document["text"] for document in python_documents()][:count]


def by_sets(texts: list[str], pairs: list[tuple[int, int]]) -> list[float]:
    """Slow and obvious."""
    sets = [reference_windows(text) for text in texts]
    return [
        len(sets[a] & sets[b]) / min(len(sets[a]), len(sets[b])) if sets[a] and sets[b] else 0.0
        for a, b in pairs
    ]


def by_signatures(rensa: Any, texts: list[str], pairs: list[tuple[int, int]]) -> list[float]:
    """MinHash of the same windows."""
    made = []
    for text in texts:
        signature = rensa.RMinHash(num_perm=128, seed=42)
        signature.update([" ".join(window) for window in reference_windows(text)])
        made.append(signature)
    return [made[a].jaccard(made[b]) for a, b in pairs]


def _rensa() -> Any:
    try:
        return importlib.import_module("rensa")
    except ImportError:
        print("not installed: pip install rensa")
        return None
