"""Runs beside each other: SBP over its controls by size, and variants on validation text.

A claim about size is made from the smallest size on from which SBP is ahead at every larger one
that was run, and reaches no further than these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from synboot.experiment.arm_settings import REFERENCE
from synboot.experiment.phrases import (
    Write,
    arm_label,
    ends,
    governing,
    is_number,
    over_controls,
    variant_rows,
    verdict_of,
)
from synboot.experiment.seed_use import seed_use_of

Results = Sequence[Mapping[str, Any]]
"""Values of `result.json`."""


def by_size(results: Results) -> list[Mapping[str, Any]]:
    """The results that compare SBP with repetition on test text, smallest unique budget first."""
    found = [r for r in results if r.get("split") != "valid" and advantages(r)]
    return sorted(found, key=lambda r: (unique_tokens(r), r["model"]["parameters"]))


def unique_tokens(result: Mapping[str, Any]) -> int:
    """The unique budget that was asked for, in tokens."""
    return int(result["unique"]["requested_tokens"])


def advantages(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What SBP gains over repetition and over each control, in bits per byte."""
    sbp = ((result.get("comparisons") or {}).get("sbp") or {}).get("bits_per_byte") or {}
    if not is_number(sbp.get("gain")):
        return {}
    controls = over_controls(result)
    return {REFERENCE: sbp} | {arm: of["bits_per_byte"] for arm, of in controls.items()}


def sizes_section(results: Results, *, signed: Write, percent: Write) -> dict[str, Any]:
    """The values of `sizes.html.jinja`: a row a size, and a sentence for each control; empty with
    less than two sizes."""
    sized = by_size(results)
    if len(sized) < 2:
        return {}
    rivals = list(dict.fromkeys(arm for result in sized for arm in advantages(result)))
    return {
        "rivals": rivals,
        "rows": [_row(result, rivals, signed, percent) for result in sized],
        "standing": [_standing(sized, rival, signed) for rival in rivals],
        "same_test": len({_test_text(result) for result in sized}) == 1,
    }


def _row(
    result: Mapping[str, Any], rivals: Sequence[str], signed: Write, percent: Write
) -> dict[str, Any]:
    over = advantages(result)
    share = (result.get("recovered") or {}).get("bits_per_byte") or {}
    known = is_number(share.get("value"))
    saved = seed_use_of(result).get("saved") or {}
    return {
        "recipe": result["recipe"],
        "unique_tokens": unique_tokens(result),
        "parameters": result["model"]["parameters"],
        "seeds": len(result["arms"]["sbp"]["seeds"]),
        "over": [
            {
                "gain": signed(over[rival]["gain"]),
                "ends": ends(governing(over[rival]), signed),
                "verdict": verdict_of(over[rival]),
            }
            if rival in over
            else {}
            for rival in rivals
        ],
        "recovered": percent(share["value"]) if known else "",
        "recovered_ends": ends(governing(share), percent) if known else "",
        "saved": signed(saved["gain"]) if is_number(saved.get("gain")) else "",
        "saved_ends": ends(governing(saved), signed),
    }


def _standing(sized: Results, rival: str, signed: Write) -> str:
    """From which size on SBP is ahead of a control, in one sentence."""
    met = [result for result in sized if rival in advantages(result)]
    gains = [advantages(result)[rival] for result in met]
    verdicts = [verdict_of(gain) for gain in gains]
    name = arm_label(rival)
    first = len(verdicts)
    while first and verdicts[first - 1] == "better":
        first -= 1
    if first < len(verdicts):
        tokens = unique_tokens(met[first])
        since = "at every size that was run" if not first else f"from {tokens:,} unique tokens on"
        return f"SBP is ahead of {name} {since}."
    where = "at smaller sizes, not at the largest" if "better" in verdicts else "at no size"
    values = ", ".join(signed(gain["gain"]) for gain in gains)
    return f"SBP is ahead of {name} {where}; its gain by size {_trend(gains)}: {values}."


def _trend(gains: Results) -> str:
    steps = [later["gain"] - before["gain"] for before, later in pairwise(gains)]
    if steps and all(step > 0 for step in steps):
        return "rises"
    return "falls" if steps and all(step < 0 for step in steps) else "has no one direction"


def _test_text(result: Mapping[str, Any]) -> tuple[int, int]:
    """Documents and bytes of the test split, which tell other test text apart."""
    return result["corpus"]["documents"]["test"], result["corpus"]["bytes"]["test"]


def variants_section(results: Results, *, signed: Write) -> list[dict[str, Any]]:
    """Of each run that compares variants on validation text, a row an arm beside plain SBP."""
    return [
        {"recipe": result["recipe"], "rows": _variants(result, signed)}
        for result in results
        if result.get("split") == "valid" and "sbp" in result["arms"]
    ]


def _variants(result: Mapping[str, Any], signed: Write) -> list[dict[str, str]]:
    settings = {row["arm"]: row["settings"] for row in variant_rows(result)}
    sbp_over = advantages(result) | {
        arm: of["bits_per_byte"]
        for arm, of in ((result.get("statistics") or {}).get("sbp_over") or {}).items()
    }
    rows = []
    for arm, facts in result["arms"].items():
        gain = _turned(sbp_over.get(arm) or {})
        saved = seed_use_of(result, arm).get("saved") or {}
        rows.append(
            {
                "arm": arm,
                "of": facts.get("of", ""),
                "settings": settings.get(arm, ""),
                "bits_per_byte": f"{facts['test']['bits_per_byte']:.4f}",
                "over_sbp": signed(gain["gain"]) if gain else "",
                "ends": ends(gain, signed),
                "saved": signed(saved["gain"]) if is_number(saved.get("gain")) else "",
            }
        )
    return rows


def _turned(over: Mapping[str, Any]) -> dict[str, float]:
    """What an arm gains over SBP, from what SBP gains over it."""
    if not is_number(over.get("gain")):
        return {}
    gain, bounds = {"gain": -over["gain"]}, governing(over)
    low, high = bounds.get("low"), bounds.get("high")
    if is_number(low) and is_number(high):
        gain |= {"low": -high, "high": -low}
    return gain
