"""From the scores of documents to the figures of a side, synthetic or real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synboot.eval.quality.documents import Columns
from synboot.eval.quality.figures import Figure, Floats, mean, pooled, rate
from synboot.eval.quality.novelty import RUNS
from synboot.eval.quality.relevance import relevance
from synboot.eval.quality.table import paper_table

_NO_ANSWER = ("unparsed", "failed", "budget")
"""Problems of a judgement that leave a question without an answer."""


def text_figures(columns: Columns, *, max_repetition: float) -> Figure:
    """Of texts alone: `repetition` (the rate of repetitive ones), `repeated_share` (of 4-word
    windows), `lengths`, `without_spaces`."""
    lengths = {
        name: mean(columns[name]) for name in ("words", "bytes", "tokens") if name in columns
    }
    return {
        "repetition": rate(columns["repetition"] > max_repetition),
        "repeated_share": mean(columns["repetition"]),
        "lengths": lengths,
        "without_spaces": rate(columns["without_spaces"]),
    }


def seed_figures(columns: Columns, *, duplicate_similarity: float) -> Figure:
    """Of texts beside their seeds: `pair_copying`, near duplicates of the seed, novelty to it,
    fragments."""
    return {
        "pair_copying": rate(columns["copy"]),
        "duplicates": {"seed": rate(columns["seed_similarity"] >= duplicate_similarity)},
        "novelty": {"seed": {str(n): pooled(columns[f"new_{n}"], columns[f"runs_{n}"])
                             for n in RUNS}},
        "fragments": {name: mean(columns[name]) for name in ("coverage", "density")},
    }  # fmt: skip


def relevance_figures(
    synthetic: Floats, real_pairs: Floats | None, random: Floats
) -> tuple[Figure, Figure]:
    """Of the synthetic and the real side: similarities of pairs beside those of random real ones,
    whose own similarity stands with the real side."""
    real: Figure = {"random": mean(random)}
    if real_pairs is not None and len(real_pairs):
        real |= relevance(real_pairs, random)
    return relevance(synthetic, random) if len(synthetic) else {}, real


def merged(*figures: Mapping[str, Any]) -> Figure:
    """Figures laid into one another, group by group."""
    result: Figure = {}
    for each in figures:
        for name, value in each.items():
            old = result.get(name)
            both = isinstance(old, dict) and isinstance(value, Mapping)
            result[name] = merged(old, value) if both and isinstance(old, dict) else value
    return result


def quality_of(
    documents: Mapping[str, int],
    settings: Mapping[str, Any],
    synthetic: Figure,
    real: Figure,
    judge: Mapping[str, Any] | None,
) -> Figure:
    """The whole: what was looked at, how, the figures of both sides, the paper's table, and what a
    reader must know."""
    return {
        "schema": 1,
        "documents": dict(documents),
        "settings": dict(settings),
        "judge": judge,
        "synthetic": synthetic,
        "real": real,
        "table": paper_table(synthetic, real),
        "caveats": _caveats(documents, synthetic, real, judge),
    }


def _caveats(
    documents: Mapping[str, int],
    synthetic: Mapping[str, Any],
    real: Mapping[str, Any],
    judge: Mapping[str, Any] | None,
) -> Sequence[str]:
    caveats = [
        "The paper's figures were measured with its own judge and thresholds among a million "
        "documents: they stand beside these for orientation, not for comparison."
    ]
    for name, side in (("synthetic", synthetic), ("real", real)):
        unspaced = side["without_spaces"]
        if unspaced["rate"] is not None and unspaced["rate"] >= 0.01:
            caveats.append(
                f"{unspaced['count']:,} of {unspaced['documents']:,} {name} documents are in "
                "scripts without spaces: a word is a whole clause there, so repetition, near "
                "duplicates, n-grams and fragments see only clauses that are wholly equal."
            )
    ours, beside = synthetic["duplicates"]["draws"], real["duplicates"]["draws"]
    if ours["documents"] != beside["documents"]:
        caveats.append(
            "duplicate@N grows with N, so the table has both sides at one N: among all that were "
            f"looked at the real text's is of {beside['documents']:,} documents, "
            f"the synthetic text's of {ours['documents']:,}."
        )
    if real.get("relevance") and documents["real_pairs"]:
        caveats.append(
            "Real pairs that were chosen by similarity are similar by construction, the more so to "
            "a like encoder: their relevance is an upper end."
        )
    if not documents["with_seed"]:
        caveats.append("No synthetic document names a seed: nothing is measured against seeds.")
    if judge is None:
        caveats.append("No judge was asked: what is false or beside the point was not measured.")
    return caveats + _judge_caveats(synthetic, real)


def _judge_caveats(*sides: Mapping[str, Any]) -> list[str]:
    caveats = []
    for name, side in zip(("synthetic", "real"), sides, strict=True):
        judged = side.get("judged") or {}
        for problem, count in (judged.get("problems") or {}).items():
            words = problem.replace("_", " ")
            if problem.startswith(_NO_ANSWER):
                words += ", in no rate"
            caveats.append(f"Of {judged['asked']:,} {name} documents judged: {count:,} {words}.")
        for share, figure in (judged.get("shares") or {}).items():
            what, _, words = share.partition("_")
            caveats.append(
                f"Of {figure['of']:,} {what} of {name} documents judged: {figure['count']:,} "
                f"{words.replace('_', ' ')}."
            )
    return caveats
