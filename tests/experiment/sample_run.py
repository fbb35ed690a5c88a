"""Data of the shape that a run leaves behind, and a parser of the page that they make."""

from __future__ import annotations

import itertools
import math
from html.parser import HTMLParser
from typing import Any

import numpy as np

from synboot.eval.quality.figures import rate_of
from synboot.eval.quality.summary import quality_of
from synboot.experiment.report_data import ReportData

HOSTILE = [
    "<script>alert(1)</script>",
    "</p></main><img src=x onerror=alert(1)>",
    "{{ 7*7 }}{% raw %}",
    "<!-- ]]> <style>*{display:none}</style>",
    "\"' onmouseover='alert(1)",
    "\u202eright to left override \u05e9\u05dc\u05d5\u05dd",
    "W" * 5000,
    "\x00\x1b[31m \ud800 \uffff",
]


def words(seed: int, count: int) -> str:
    """Prose of made-up words, the same for the same seed."""
    generator = np.random.Generator(np.random.Philox(seed))
    syllables = ["ka", "ri", "mo", "ten", "sul", "ba", "vi", "no", "lar", "pe", "du", "ash"]
    text = ["".join(generator.choice(syllables, generator.integers(1, 4))) for _ in range(count)]
    return " ".join(text).capitalize() + "."


def sample_arm(bits: float, mixture: list[dict[str, Any]], seeds: int) -> dict[str, Any]:
    def test(shift: float) -> dict[str, float]:
        nats = (bits + shift) * 2.1
        return {"nats_per_token": nats, "perplexity": math.exp(nats), "bits_per_byte": bits + shift}

    shifts = [0.004 * (i - (seeds - 1) / 2) for i in range(seeds)]
    return {
        "trained_tokens": 1_000_000,
        "flops": 3.1e12,
        "mixture": mixture,
        "seeds": {
            str(i): {"test": test(s), "best_step": 120 + i, "final_validation_loss": 4.4 + s}
            for i, s in enumerate(shifts)
        },
        "test": test(0.0),
    }


def sample_result(seeds: int = 1) -> dict[str, Any]:
    """A `result.json` in which SBP recovers 23% of the oracle's gain."""

    def gain(estimate: float, margin: float) -> dict[str, Any]:
        return {
            metric: {
                "gain": k * estimate,
                "low": k * (estimate - margin),
                "high": k * (estimate + margin),
            }
            for metric, k in (("bits_per_byte", 1.0), ("nats_per_token", 2.1))
        }

    share = {"value": 0.2327, "low": 0.0512, "high": 0.4019, "refused": None}
    ledger = [
        ("pretrain", "pretrain repetition, seed 0", ["repetition", "sbp"], 1_000_000, 3.1e12),
        ("pretrain", "pretrain sbp, seed 0", ["sbp"], 1_000_000, 3.1e12),
        ("pretrain", "pretrain oracle, seed 0", ["oracle"], 1_000_000, 3.1e12),
        ("tune", "tune the synthesizer", ["sbp"], 260_000, 8.2e11),
        ("synthesize", "sample", ["sbp"], 510_000, 1.2e12),
    ]
    return {
        "schema": 1,
        "recipe": "demo",
        "seed": 0,
        "corpus": {
            "documents": {"train": 2611, "valid": 140, "test": 149},
            "bytes": {"train": 1_600_123, "valid": 91_200, "test": 98_311},
            "exact_duplicates": {"train": 10, "valid": 1, "test": 1},
            "near_heldout": 5,
            "bad": {"no text": 2},
        },
        "unique": {
            "requested_tokens": 50_000,
            "tokens": 49_871,
            "documents": 283,
            "bytes": 171_234,
        },
        "oracle": {
            "requested_multiple": "max",
            "multiple": 8.9,
            "tokens": 443_852,
            "documents": 2611,
        },
        "model": {
            "preset": "0.6m",
            "parameters": 590_944,
            "non_embedding_parameters": 394_336,
            "vocab_size": 2048,
            "context": 256,
        },
        "training_tokens": 1_000_000,
        "checkpoint": "last",
        "pairs": {"kept": 812, "dropped_low_similarity": 4000},
        "synthesizer": {
            "initial_weights": "base, checkpoint best at step 120",
            "validation_loss_start": 4.61,
            "validation_loss_best": 4.21,
            "validation_loss_last": 4.32,
            "validated_on": "validation_text",
            "best_step": 90,
            "steps": 120,
        },
        "synthetic": {
            "requested_tokens": 400_000,
            "tokens": 400_000,
            "documents": 3120,
            "candidates": 3900,
            "draws_per_seed": 14,
            "share_requested": 0.4,
            "share": 0.4,
        },
        "arms": {
            "repetition": sample_arm(
                2.3123, [{"source": "real", "tokens": 1_000_000, "passes": 20.05}], seeds
            ),
            "sbp": sample_arm(
                2.2851,
                [
                    {"source": "real", "tokens": 600_000, "passes": 12.03},
                    {"source": "synthetic", "tokens": 400_000, "passes": 1.0},
                ],
                seeds,
            ),
            "oracle": sample_arm(
                2.1954, [{"source": "real", "tokens": 1_000_000, "passes": 2.25}], seeds
            ),
        },
        "comparisons": {"sbp": gain(0.0272, 0.0189), "oracle": gain(0.1169, 0.0151)},
        "recovered": {"bits_per_byte": share, "nats_per_token": share},
        "ledger": [
            {"stage": stage, "label": label, "arms": arms, "tokens": tokens, "flops": flops}
            for stage, label, arms, tokens, flops in ledger
        ],
        "caveats": ["One small corpus and one small model."],
        "quality": sample_quality(),
    }


def sample_quality() -> dict[str, Any]:
    """Of synthetic text of which a quarter is beside the point."""

    def side(rates: dict[str, int]) -> dict[str, Any]:
        found = {name: rate_of(count, 3120) for name, count in rates.items()}
        return {
            "repetition": found["repetition"],
            "pair_copying": found["copying"],
            "duplicates": dict.fromkeys(("seed", "corpus", "draws"), found["repetition"]),
            "novelty": {"seed": {"4": found["new"]}, "corpus": {"8": found["new"]}},
            "without_spaces": rate_of(0, 3120),
            "relevance": {"auc": {"auc": 0.71, "low": 0.69, "high": 0.73}},
            "judged": {
                "asked": 500,
                "non_factual": rate_of(75, 490),
                "irrelevant": rate_of(125, 490),
                "problems": {"unparsed_non_factual": 10},
            },
        }

    documents = {"synthetic": 3120, "real": 283, "real_pairs": 812, "synthetic_looked_at": 3120,
                 "with_seed": 3120, "real_looked_at": 283, "pairs_looked_at": 812}  # fmt: skip
    judge = {"judge": "endpoint", "model": "reader", "prompts": {"non_factual": "Is it?\n{text}"}}
    ours, real = ({"repetition": n, "copying": n // 9, "new": 2400} for n in (134, 20))
    return quality_of(documents, {}, side(ours), side(real), judge)


def sample_curves(seeds: int = 1) -> list[dict[str, Any]]:
    shapes = {"repetition": (3.2, 0.25), "sbp": (3.18, 0.02), "oracle": (2.9, 0.0)}
    return [
        {
            "arm": name,
            "seed": seed,
            "points": [
                {
                    "step": step,
                    "tokens": step * 4096,
                    "train_loss": 3.0,
                    "validation_loss": None
                    if step % 10
                    else 4.4 * math.exp(-step / 25) + floor + rise * step / 244 + 0.02 * seed,
                }
                for step in range(245)
            ],
        }
        for name, (floor, rise) in shapes.items()
        for seed in range(seeds)
    ]


def sample_pairs() -> dict[str, Any]:
    edges = [i / 20 for i in range(21)]
    every = [int(4000 * math.exp(-(((edge - 0.35) / 0.15) ** 2))) for edge in edges[:-1]]
    kept = [n if edge >= 0.45 else 0 for n, edge in zip(every, edges, strict=False)]
    numbers = itertools.count()

    def pair() -> dict[str, Any]:
        n = next(numbers)
        return {
            "d1": f"module.{n}",
            "d2": f"module.{n + 1}",
            "similarity": 0.45 + n / 100,
            "text1": words(n, 60 + 9 * n),
            "text2": words(n + 100, 90),
        }

    return {
        "counts": {"kept": sum(kept), "dropped_min_similarity": sum(every) - sum(kept)},
        "similarity_edges": edges,
        "similarity_all": every,
        "similarity_kept": kept,
        "degree": {str(i): int(60 * math.exp(-i / 5)) for i in range(16)},
        "kept_samples": [pair() for _ in range(12)],
        "dropped_samples": [
            pair() | {"reason": reason, "score": 0.3}
            for reason in ("min_similarity", "near_duplicate")
            for _ in range(5)
        ],
    }


def sample_synthetic() -> dict[str, Any]:
    return {
        "counts": {"kept": 3120, "dropped_too_short": 300, "dropped_copy_of_seed": 480},
        "samples": [
            {
                "id": f"synthetic-{n}",
                "seed_id": f"module.{n}",
                "draw": n,
                "seed_text": words(n, 80),
                "text": words(n + 200, 70),
                "num_tokens": 140 + n,
                "finish_reason": "end_token",
            }
            for n in range(10)
        ],
        "dropped_samples": [
            {
                "reason": "too_short",
                "score": 3.0,
                "seed_id": "module.1",
                "seed_text": words(1, 80),
                "text": "Ka.",
            }
        ],
    }


def report_data(seeds: int = 1) -> ReportData:
    return ReportData(
        sample_result(seeds), sample_curves(seeds), sample_pairs(), sample_synthetic()
    )


def light_data(seeds: int = 1) -> ReportData:
    """Sample data without the figures that are slow to draw."""
    data = report_data(seeds)
    return ReportData(
        data.result, [], data.pairs | {"similarity_edges": [], "degree": {}}, data.synthetic
    )


class Page(HTMLParser):
    """Tags, attributes and visible text of a page, and whether its elements nest."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def signed(value: float) -> str:
    return f"{value:+.2f}"


def gain(value: float, margin: float) -> dict[str, Any]:
    return {"bits_per_byte": {"gain": value, "low": value - margin, "high": value + margin}}


def size(
    tokens: int, over: dict[str, float], margin: float = 0.1, seeds: int = 2
) -> dict[str, Any]:
    """A run in which SBP gains `over[arm]`, certain to `margin`."""
    result = sample_result(seeds)
    result["recipe"], result["split"] = f"run-{tokens}", "test"
    result["unique"]["tokens"] = tokens
    result["comparisons"]["sbp"] = gain(over["repetition"], margin)
    controls = {arm: value for arm, value in over.items() if arm != "repetition"}
    result["arms"] |= {arm: sample_arm(2.3, [], 1) for arm in controls}
    result["statistics"] = {"sbp_over": {arm: gain(v, margin) for arm, v in controls.items()}}
    return result
