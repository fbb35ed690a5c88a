"""What synthesizers take from their seed documents, as values of `result.json` and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from synboot.experiment.phrases import Write, ends, governing, is_number, verdict_of
from synboot.experiment.stages.seed_use import MODELS, OTHER, OWN
from synboot.experiment.statistics.dyads import ratio_over_pairs
from synboot.experiment.statistics.losses import Refused
from synboot.pipeline.stage import Artifact

FEW_DOCUMENTS = 100
"""Or groups. Of fewer an interval over pairs holds the truth less often than it says: in simulation
83% to 89% of times for 12 to 20 of them, 86% to 92% for 40, 88% for 80 (92% for 140)."""
LITTLE_NATS = 0.02
"""A token; who saves less writes nearly as if nothing had been given."""


def seed_use_facts(artifact: Artifact) -> dict[str, Any] | None:
    """Nats per token of d2 after its own d1 and after another document, and what the right one
    saves, with its interval over the documents (or groups) of the pairs; the same of the base model
    under `base`. None where nothing was scored."""
    table: dict[str, Any] = pq.read_table(artifact.file("seed_use.parquet")).to_pydict()
    if not table["d1"]:
        return None
    first, second = (
        [
            ("document", name) if group is None else ("group", group)
            for name, group in zip(table[f"d{side}"], table[f"group{side}"], strict=True)
        ]
        for side in (1, 2)
    )
    members = list(zip(first, second, strict=True))
    tokens = np.array(table["num_tokens"], dtype=np.float64)
    found: dict[str, dict[str, Any]] = {}
    for model in MODELS:
        if f"{model}_{OWN}" not in table:
            continue
        own, other = (np.array(table[f"{model}_{side}"]) for side in (OWN, OTHER))
        saved, bounds = ratio_over_pairs(other - own, tokens, members)
        values: dict[str, Any] = {"gain": saved, "low": None, "high": None}
        if not isinstance(bounds, Refused):
            values |= {"low": bounds.low, "high": bounds.high}
        found[model] = {
            "nats_own_seed": float(own.sum() / tokens.sum()),
            "nats_other_seed": float(other.sum() / tokens.sum()),
            "saved": values | {"verdict": verdict_of(values)},
        }
    names = ("pairs", "pairs_without_another", "documents", "tokens")
    counts = {name: artifact.counts[name] for name in names}
    counts["independent"] = len({member for sides in members for member in sides})
    base = {"base": found["base"]} if "base" in found else {}
    return {**counts, **found["synthesizer"], **base}


def seed_use_of(result: Mapping[str, Any], arm: str = "sbp") -> Mapping[str, Any]:
    """Of an arm of a `result.json`; empty where it has none."""
    facts = result if arm == "sbp" else (result.get("controls") or {}).get(arm) or {}
    return (facts.get("synthesizer") or {}).get("seed_use") or {}


def saved_by_seed(result: Mapping[str, Any], write: Write, arm: str = "sbp") -> tuple[str, str]:
    """(nats a token that the seed document saves, the interval); empty where they are unknown."""
    saved = seed_use_of(result, arm).get("saved") or {}
    if not is_number(saved.get("gain")):
        return "", ""
    return write(saved["gain"]), ends(governing(saved), write)


def seed_use_line(result: Mapping[str, Any], write: Write) -> str:
    """What the seed document saves SBP's synthesizer, in one sentence; nothing where unknown."""
    found, (saved, interval) = seed_use_of(result), saved_by_seed(result, write)
    if not saved:
        return ""
    base = (found.get("base") or {}).get("saved") or {}
    untuned = f", the base model {write(base['gain'])}" if is_number(base.get("gain")) else ""
    return (
        f"Its seed document, in place of another one, saves SBP's synthesizer {saved}"
        f"{f' {interval}' if interval else ''}{untuned} nats a token of a related document "
        f"({found['pairs']} pairs of {found['documents']} documents)."
    )


def seed_use_caveat(result: Mapping[str, Any]) -> list[str]:
    """Where SBP's synthesizer is not seen to use its seed document, and how surely it does not."""
    found = seed_use_of(result)
    saved = found.get("saved") or {}
    if saved.get("verdict") in (None, "better"):
        return _few_documents(found, saved)
    known = (
        ""
        if (result.get("synthesizer") or {}).get("validated_on") == "validation_text"
        else ", of documents that the base model knows from pretraining"
    )
    bounds = governing(saved)
    interval = ends(bounds, "{:+.4f}".format)
    if not interval:
        return [
            "Too few independent documents tell whether the synthesizer uses its seed document: "
            f"it saves {saved['gain']:+.4f} nats a token{known}, without an interval."
        ]
    said = (
        "It is not clear that the synthesizer uses its seed document: it saves "
        f"{saved['gain']:+.4f} {interval} nats a token{known}."
    )
    if bounds["high"] < LITTLE_NATS and not known:
        said += " What it writes is then little else than self-distillation: compare with it."
    return [said, *_few_documents(found, saved)]


def _few_documents(found: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    count = found.get("independent", FEW_DOCUMENTS)
    if count >= FEW_DOCUMENTS or not is_number(saved.get("low")):
        return []
    return [
        f"What the seed document saves is measured on pairs of {count} documents or groups: its "
        "interval may be too narrow."
    ]
