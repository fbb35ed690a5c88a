"""Shared 13-word windows of pairs of related texts, from texts to shares: pairs a second.

The pairs are the 20 nearest neighbours, above a similarity of 0.3, of 4,000 sections of Wikipedia
below SYNBOOT_DATA by `lsa`, of the documentation in Python where that is not set. Python sets are
built once a text; answers are identical. rensa estimates what the others count, by signatures of
128 numbers: it stands beside our own signatures (synboot.data.minhash) of the same windows, with
the same comparisons. Both estimates must be near the Jaccard similarity.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.harness import Result, Setting, compare, note, paired
from synboot.data.minhash import BANDS, ROWS, signatures
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
    results = _rates(f"{len(texts):,} texts, {len(pairs):,} pairs", work, len(pairs))
    if found["ours"] != found["sets"]:
        raise AssertionError("the answers differ from those of Python sets")

    windows = windows_of(texts)
    sets = [reference_windows(text) for text in texts]
    counting: dict[str, Callable[[], object]] = {
        "ours": lambda: shared_counts(windows, first, second),
        "Python sets": lambda: [len(sets[a] & sets[b]) for a, b in pairs],
    }
    results += _rates("windows made before", counting, len(pairs))

    rensa = _rensa()
    if rensa is None:
        return results
    estimates: dict[str, np.ndarray] = {}
    estimating: dict[str, Callable[[], object]] = {
        "ours": lambda: estimates.update(ours=by_our_signatures(texts, first, second)),
        "rensa": lambda: estimates.update(rensa=by_signatures(rensa, texts, pairs)),
    }
    results += _rates("estimates by 128 numbers", estimating, len(pairs))
    check_estimates(estimates, np.array([jaccard(sets[a], sets[b]) for a, b in pairs]))
    return results


def _rates(case: str, work: dict[str, Callable[[], object]], pairs: int) -> list[Result]:
    rates = {name: pairs / seconds for name, seconds in paired(work, 3).items()}
    return compare("near_duplicates", case, rates, unit="pairs/s")


def related_texts(count: int) -> list[str]:
    """The first of a corpus."""
    if "SYNBOOT_DATA" in os.environ:
        path = Path(os.environ["SYNBOOT_DATA"]) / "enwiki_sec" / "train.parquet"
        texts: list[str] = pq.read_table(path, columns=["text"])["text"].to_pylist()[:count]
        return texts
    note("SYNBOOT_DATA is not set: documentation")
    return [document["text"] for document in python_documents()][:count]


def by_sets(texts: list[str], pairs: list[tuple[int, int]]) -> list[float]:
    """Slow and obvious."""
    sets = [reference_windows(text) for text in texts]
    return [
        len(sets[a] & sets[b]) / min(len(sets[a]), len(sets[b])) if sets[a] and sets[b] else 0.0
        for a, b in pairs
    ]


def jaccard(a: set[Any], b: set[Any]) -> float:
    """0 of two empty sets."""
    return len(a & b) / len(a | b) if a or b else 0.0


def check_estimates(estimates: dict[str, np.ndarray], true: np.ndarray) -> None:
    """Raises AssertionError for one that is off by more than a tenth in the mean of texts with
    windows in common."""
    some = true > 0
    for name, values in estimates.items():
        error = float(np.abs(values - true)[some].mean()) if some.any() else 0.0
        if error > 0.1:
            raise AssertionError(f"{name}: estimates are off by {error:.3f}")


def by_our_signatures(texts: list[str], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The share of equal numbers in the signatures of two texts; 0 without windows."""
    windows = windows_of(texts)
    made = signatures(windows, seed=0)
    some = (windows.sizes[first] > 0) & (windows.sizes[second] > 0)
    return (made[first] == made[second]).mean(axis=1) * some


def by_signatures(rensa: Any, texts: list[str], pairs: list[tuple[int, int]]) -> np.ndarray:
    """rensa's."""
    made = []
    for text in texts:
        signature = rensa.RMinHash(num_perm=BANDS * ROWS, seed=42)
        signature.update([" ".join(window) for window in reference_windows(text)])
        made.append(signature)
    return np.array([made[a].jaccard(made[b]) for a, b in pairs])


def _rensa() -> Any:
    try:
        return importlib.import_module("rensa")
    except ImportError:
        note("not installed: pip install rensa")
        return None
