"""What synthesizers take from their seed documents, as values of `result.json` and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synboot.experiment.findings import gain
from synboot.experiment.phrases import Write, ends, governing, is_number
from synboot.experiment.stages.seed_use import OTHER, OWN, read_seed_use
from synboot.experiment.statistics.losses import Losses
from synboot.pipeline.stage import Artifact


def seed_use_facts(artifact: Artifact, *, seed: int, num_resamples: int) -> dict[str, Any] | None:
    """Nats per token of d2 after its own d1 and after another document, and what the right one
    saves, with its interval over documents (`findings.gain`). None where nothing was scored."""
    scores = read_seed_use(artifact)
    if scores is None:
        return None
    losses = Losses(scores, "nats_per_token", seed=seed, num_resamples=num_resamples)
    return {
        "pairs": artifact.counts["pairs"],
        "documents": artifact.counts["documents"],
        "tokens": artifact.counts["tokens"],
        "nats_own_seed": losses.loss(OWN),
        "nats_other_seed": losses.loss(OTHER),
        "saved": gain(losses, OTHER, OWN),
    }


def seed_use_of(result: Mapping[str, Any], arm: str = "sbp") -> Mapping[str, Any]:
    """Of an arm of a `result.json`; empty where it has none."""
    facts = result if arm == "sbp" else (result.get("controls") or {}).get(arm) or {}
    return (facts.get("synthesizer") or {}).get("seed_use") or {}


def seed_use_line(result: Mapping[str, Any], write: Write, arm: str = "sbp") -> str:
    """What the seed document saves the synthesizer, in one sentence; nothing where unknown."""
    found = seed_use_of(result, arm)
    saved = found.get("saved") or {}
    if not is_number(saved.get("gain")):
        return ""
    interval = ends(governing(saved), write)
    return (
        f"Its seed document saves the synthesizer {write(saved['gain'])}"
        f"{f' {interval}' if interval else ''} nats a token of a related document, over another "
        f"document in its place ({found['documents']} documents)."
    )


def seed_use_caveat(result: Mapping[str, Any]) -> list[str]:
    """Where SBP's synthesizer is not seen to read its seed document."""
    saved = seed_use_of(result).get("saved") or {}
    if saved.get("verdict") in (None, "better"):
        return []
    return [
        "The synthesizer is not seen to use its seed document: a related document is no more "
        f"likely after it than after another one ({saved['gain']:+.4f} nats a token). What it "
        "writes is then little else than self-distillation, with which SBP should be compared."
    ]
