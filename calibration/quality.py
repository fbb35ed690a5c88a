"""The measures of synthetic text, on a corpus whose faults are planted and counted.

A hundred thousand synthetic documents beside as many real ones, of 100 to 200 words: the words of
Python's documentation as often as they come there, and words of a topic. Planted are copies of the
seed, near duplicates of the seed, of another real document and of another draw at known Jaccard
similarities on both sides of the threshold, repetitive documents, and documents of another topic
than the seed's. What is measured must be what was planted, within stated bounds and minutes; the
similarity of an encoder is shown without a bound.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import synboot
from synboot.core.rng import rng
from synboot.worlds.pydocs import write_pydocs

_TOPIC_DOCUMENTS = 5
_TOPIC_WORDS = 40
_TOPIC_SHARE = 0.4
_WINDOW = 5  # words, of near duplicates

# Shares of the synthetic documents; the rest is new text of the seed's topic.
_PLANTED = {
    "copy": 0.01,
    "near_seed": 0.02,
    "below_seed": 0.02,
    "near_corpus": 0.01,
    "near_draw": 0.03,
    "repetitive": 0.02,
    "irrelevant": 0.25,
}
_NEAR, _BELOW = 0.75, 0.5
"""Jaccard similarities; the threshold is 0.6."""
_RATE_BOUND = 0.001


class _Writer:
    """Writes documents of a topic, each keyed on its own."""

    def __init__(self, folder: Path) -> None:
        write_pydocs(folder / "pydocs.jsonl")
        counts: Counter[str] = Counter()
        for line in (folder / "pydocs.jsonl").read_text(encoding="utf-8").splitlines():
            counts.update(re.findall(r"[a-z]+", json.loads(line)["text"].lower()))
        self._words = np.array(sorted(counts))
        often = np.array([counts[word] for word in self._words.tolist()], dtype=np.float64)
        self._up_to = np.cumsum(often / often.sum())

    def topic(self, number: int) -> np.ndarray:
        """The words of a topic, evenly out of all."""
        return self._words[rng("topic", number).integers(0, len(self._words), _TOPIC_WORDS)]

    def words(self, topic: int, *key: str | int) -> list[str]:
        """A document of 100 to 200 words."""
        random = rng(*key)
        size = int(random.integers(100, 201))
        common = np.searchsorted(self._up_to, random.random(size), side="right")
        own = self.topic(topic)[random.integers(0, _TOPIC_WORDS, size)]
        common = self._words[np.minimum(common, len(self._words) - 1)]
        return [str(word) for word in np.where(random.random(size) < _TOPIC_SHARE, own, common)]


def _altered(words: Sequence[str], new: Sequence[str], similarity: float) -> list[str]:
    """The beginning of `words`, and `new` words to their number, so that the windows of both have
    about that Jaccard similarity: s / (2 w - s) of w windows, s of them shared."""
    windows = len(words) - _WINDOW + 1
    shared = round(2 * windows * similarity / (1 + similarity))
    kept = shared + _WINDOW - 1
    return [*words[:kept], *(f"{new[i % len(new)]}x{i}" for i in range(len(words) - kept))]


def _text(words: Sequence[str]) -> str:
    sentences = [" ".join(words[i : i + 15]).capitalize() for i in range(0, len(words), 15)]
    return ". ".join(sentences) + "."


def _synthetic(writer: _Writer, real: Sequence[list[str]]) -> Iterator[dict[str, str]]:
    """The synthetic documents, in a keyed order of kinds; seed i has draw i, so that no two draws
    are alike that are not planted to be."""
    total = len(real)
    kinds = np.repeat([*_PLANTED, "plain"], _counts(total))
    kinds = kinds[rng("kinds").permutation(total)]
    plain = np.flatnonzero(kinds == "plain")
    originals = iter(rng("originals").permutation(plain).tolist())
    others = iter(rng("others").permutation(np.flatnonzero(kinds == "plain")).tolist())
    for i, kind in enumerate(kinds.tolist()):
        topic = i // _TOPIC_DOCUMENTS
        fresh = writer.words(topic, "synthetic", i)
        words = fresh
        if kind == "copy":
            yield {"kind": kind, "seed_id": f"r{i}", "text": "  ".join(real[i]).upper() + "!"}
            continue
        if kind in ("near_seed", "below_seed"):
            words = _altered(real[i], fresh, _NEAR if kind == "near_seed" else _BELOW)
        elif kind == "near_corpus":
            words = _altered(real[next(others)], fresh, _NEAR)
        elif kind == "near_draw":
            other = next(originals)
            theirs = writer.words(other // _TOPIC_DOCUMENTS, "synthetic", other)
            words = _altered(theirs, fresh, _NEAR)
        elif kind == "repetitive":
            words = fresh[:25] * 5
        elif kind == "irrelevant":
            topics = -(-total // _TOPIC_DOCUMENTS)
            words = writer.words((topic + topics // 2) % topics, "synthetic", i)
        yield {"kind": kind, "seed_id": f"r{i}", "text": _text(words)}


def _counts(total: int) -> list[int]:
    planted = [round(share * total) for share in _PLANTED.values()]
    return [*planted, total - sum(planted)]


def _write(path: Path, records: Iterator[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def run(quick: bool) -> dict[str, Any]:
    """Plant, measure with the public function on all processors, compare."""
    return measure(3_000 if quick else 100_000, most_seconds=120.0 if quick else 600.0)


def measure(total: int, *, most_seconds: float, workers: int | None = None) -> dict[str, Any]:
    """The outcome for `total` documents on either side."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = _Writer(folder)
        real = [writer.words(i // _TOPIC_DOCUMENTS, "real", i) for i in range(total)]
        _write(folder / "real.jsonl",
               ({"id": f"r{i}", "text": _text(words)} for i, words in enumerate(real)))  # fmt: skip
        _write(folder / "synthetic.jsonl", _synthetic(writer, real))
        pairs = ({"d1": f"r{i}", "d2": f"r{i + 1}"} for i in range(0, total - 1)
                 if i // _TOPIC_DOCUMENTS == (i + 1) // _TOPIC_DOCUMENTS)  # fmt: skip
        _write(folder / "pairs.jsonl", pairs)
        num_bytes = (folder / "synthetic.jsonl").stat().st_size
        started, cpu_started = time.monotonic(), _cpu_seconds()
        measured = synboot.quality(
            folder / "synthetic.jsonl",
            folder / "quality.json",
            corpus=folder / "real.jsonl",
            pairs=folder / "pairs.jsonl",
            workers=workers,
        ).counts
        seconds, cpu_seconds = time.monotonic() - started, _cpu_seconds() - cpu_started
    rows = _rows(measured, dict(zip([*_PLANTED, "plain"], _counts(total), strict=True)), total)
    rows.append(
        {
            "figure": "seconds",
            "planted": None,
            "measured": seconds,
            "low": None,
            "high": None,
            "bound": f"at most {most_seconds:g}",
            "held": seconds <= most_seconds,
        }
    )
    return {
        "documents": total,
        "synthetic_bytes": num_bytes,
        "processors": len(os.sched_getaffinity(0)),
        "cpu_seconds": cpu_seconds,
        "peak_bytes": _peak_bytes(),
        "rows": rows,
        "quality": measured,
        "held": all(row["held"] for row in rows),
    }


def _cpu_seconds() -> float:
    """Of this process and of the workers that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in usage)


def _peak_bytes() -> int:
    """Resident memory of the largest process, of this one and of the workers that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(own.ru_maxrss for own in usage) * (1 if sys.platform == "darwin" else 1024)


def _rows(measured: Any, planted: dict[str, int], total: int) -> list[dict[str, Any]]:
    ours = measured["synthetic"]
    near_corpus = planted["copy"] + planted["near_seed"] + planted["near_corpus"]
    expected = {
        "repetition": (ours["repetition"], planted["repetitive"] / total),
        "pair_copying": (ours["pair_copying"], planted["copy"] / total),
        "duplicate of the seed": (
            ours["duplicates"]["seed"],
            (planted["copy"] + planted["near_seed"]) / total,
        ),
        "duplicate in the corpus": (ours["duplicates"]["corpus"], near_corpus / total),
        "duplicate among draws": (ours["duplicates"]["draws"], 2 * planted["near_draw"] / total),
        "duplicate among real": (measured["real"]["duplicates"]["draws"], 0.0),
        "repetition of real": (measured["real"]["repetition"], 0.0),
    }
    rows = [_row(name, figure, share, _RATE_BOUND) for name, (figure, share) in expected.items()]
    # Other topics are random pairs, of which 95% are below the quantile. What an encoder of 256
    # dimensions makes of them beside it depends on how many topics there are: it is no judge, and
    # no bound is stated.
    below = 0.95 * (planted["irrelevant"] + planted["near_corpus"] + planted["near_draw"]) / total
    figure = ours["relevance"]["below_random_quantile"]
    return [*rows, _row("below 95% of random pairs", figure, below, None)]


def _row(name: str, figure: Any, planted: float, bound: float | None) -> dict[str, Any]:
    return {
        "figure": name,
        "planted": planted,
        "measured": figure["rate"],
        "low": figure["low"],
        "high": figure["high"],
        "bound": "none" if bound is None else f"within {bound:g}",
        "held": bound is None or abs(figure["rate"] - planted) <= bound,
    }


def summary(outcome: dict[str, Any]) -> str:
    """A table for a terminal."""
    lines = [
        f"{outcome['documents']:,} synthetic documents ({outcome['synthetic_bytes'] / 1e6:.0f} MB) "
        f"beside as many real ones, {outcome['processors']} processors, "
        f"{outcome['cpu_seconds']:.0f} seconds of them in all, "
        f"{outcome['peak_bytes'] / 1e9:.2f} GB in the largest process",
        f"{'figure':28}{'planted':>10}{'measured':>10}  bound",
    ]
    for row in outcome["rows"]:
        planted = "" if row["planted"] is None else f"{row['planted']:.4f}"
        held = "" if row["held"] else "  DOES NOT HOLD"
        value = row["measured"]
        shown = f"{value:.1f}" if row["planted"] is None else f"{value:.4f}"
        lines.append(f"{row['figure']:28}{planted:>10}{shown:>10}  {row['bound']}{held}")
    return "\n".join(lines)
