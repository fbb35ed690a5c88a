"""Evaluation tasks on the page of a run and at the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = ("raw", "per_character")
"""The scores that page and terminal show; result.json has all."""


def task_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the page's table: a task and an arm, each score with its gain."""
    return [
        {
            "task": task,
            "first": place == 0,
            "arm": arm,
            "items": own["items"],
            "chance": own["chance"],
            "gold_bits_per_byte": facts["gold_bits_per_byte"],
            "perplexity": facts.get("perplexity"),
            "scores": [
                {"accuracy": facts["accuracy"].get(name), "gain": facts.get("gain", {}).get(name)}
                for name in SHOWN
            ],
        }
        for task, own in (result.get("tasks") or {}).items()
        for place, (arm, facts) in enumerate(own["arms"].items())
    ]


def contamination_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the page's other table: a task, what of it each text has, and what is left."""
    rows = []
    for task, own in ((result.get("contamination") or {}).get("tasks") or {}).items():
        accuracy, clean = own["accuracy"]["all"], own["accuracy"]["without_contaminated"] or {}
        rows.append(
            {
                "task": task,
                "sources": list(own["sources"].items()),
                "arms": [
                    {
                        "name": arm,
                        "all": accuracy[arm]["raw"],
                        "clean": clean[arm]["raw"] if clean else None,
                    }
                    for arm in accuracy
                ],
                **{name: own[name] for name in ("items", "too_short", "contaminated_in_any")},
            }
        )
    return rows


def task_lines(result: Mapping[str, Any]) -> list[str]:
    """A line for a terminal for every task."""
    lines = []
    for task, own in (result.get("tasks") or {}).items():
        shown = []
        for arm, facts in own["arms"].items():
            gain = (facts.get("gain") or {}).get("raw")
            shown.append(f"{arm} {facts['accuracy']['raw']['value']:.1%}{_gain(gain)}")
        guess = "" if own["chance"] is None else f", chance {own['chance']:.1%}"
        lines.append(f"{task}, {own['items']:,} items{guess}: {'; '.join(shown)}")
    return lines


def _gain(gain: Mapping[str, Any] | None) -> str:
    if gain is None:
        return ""
    ends = "" if gain["low"] is None else f" [{gain['low']:+.1%}, {gain['high']:+.1%}]"
    return f" ({gain['gain']:+.1%}{ends})"


def answer_lines(counts: Mapping[str, Any]) -> str:
    """What one model does with tasks, for a terminal."""
    width = max(map(len, counts["tasks"]))
    lines = []
    for task, own in counts["tasks"].items():
        guess = "" if own["chance"] is None else f", chance {own['chance']:.1%}"
        lines.append(f"{task:{width}}  {own['items']:,} items{guess}: {_shares(own)}")
        clean = counts.get("without_contaminated", {}).get(task)
        if "contamination" in counts:
            found = counts["contamination"][task]
            listed = ", ".join(f"{n:,} in {name}" for name, n in found["contaminated"].items())
            lines.append(
                f"{'':{width}}  contaminated: {listed}; {found['too_short']:,} too short to judge"
                + (f"; without them: {_shares(clean)}" if clean else "")
            )
    return "\n".join(lines)


def _shares(own: Mapping[str, Any]) -> str:
    shares = [
        f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}] {name.replace('_', ' ')}"
        for name, share in own["accuracy"].items()
        if name in SHOWN
    ]
    if own.get("perplexity") is not None:
        shares.append(f"perplexity {own['perplexity']:,.1f}")
    return ", ".join(shares)
