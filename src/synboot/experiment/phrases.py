"""Figures and their intervals in words, for the page and the terminal alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from synboot.core.storage import digest

Write = Callable[[float], str]

RIVAL_VERDICTS = {"better": "ahead of", "unclear": "not clearly ahead of", "worse": "behind"}


def governing(figure: Mapping[str, Any]) -> Mapping[str, Any]:
    """The interval that a claim answers to: over documents and seeds where there is one, else over
    documents."""
    both = figure.get("both") or {}
    return both if is_number(both.get("low")) and is_number(both.get("high")) else figure


def verdict_of(gain: Mapping[str, Any]) -> str:
    """better, worse or unclear: what the intervals of a gain allow."""
    intervals = (gain, governing(gain))
    if all(is_number(i.get("low")) and i["low"] > 0 for i in intervals):
        return "better"
    if all(is_number(i.get("high")) and i["high"] < 0 for i in intervals):
        return "worse"
    return "unclear"


def ends(interval: Mapping[str, Any] | None, write: Write) -> str:
    """`[low, high]`, or nothing."""
    low, high = (interval or {}).get("low"), (interval or {}).get("high")
    return f"[{write(low)}, {write(high)}]" if is_number(low) and is_number(high) else ""


def is_number(value: object) -> TypeGuard[float]:
    """Whether there is a finite number to show."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def times(found: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """How many times the unique text an arm is worth: `2.31x`, `more than 8.91x`, `below 1x`,
    `not stated`."""
    if is_number(found.get("value")):
        return f"{found['value']:.2f}x"
    if found.get("beyond") == "above":
        return f"more than {runs[-1]['multiple']:.3g}x"
    return f"below {runs[0]['multiple']:.3g}x" if found.get("beyond") else "not stated"


def times_ends(bounds: Mapping[str, Any] | None, runs: Sequence[Mapping[str, Any]]) -> str:
    """The interval of `times`; what lies outside of the runs is said to lie there."""
    if not bounds or "refused" in bounds:
        return ""
    first, last = runs[0]["multiple"], runs[-1]["multiple"]
    low, high = bounds["low"], bounds["high"]
    if low == last:
        return f"[above {last:.3g}]"
    if high == first:
        return f"[below {first:.3g}]"
    shown = (
        f"below {first:.3g}" if low is None else f"{low:.2f}",
        f"above {last:.3g}" if high is None else f"{high:.2f}",
    )
    return f"[{', '.join(shown)}]"


def rivals(result: Mapping[str, Any]) -> str:
    """Where SBP, and on test text each variant of it, stands beside the controls, in a sentence
    each; nothing where there are none."""
    of_variants = {} if result.get("split") == "valid" else variants_over(result)
    over = {"sbp": over_controls(result)} | of_variants
    return " ".join(filter(None, (_beside(method, of) for method, of in over.items())))


def _beside(method: str, over: Mapping[str, Any]) -> str:
    by_verdict: dict[str, list[str]] = {}
    for arm, gains in over.items():
        by_verdict.setdefault(verdict_of(gains["bits_per_byte"]), []).append(arm)
    parts = [
        f"{words} {_list(by_verdict[verdict])}"
        for verdict, words in RIVAL_VERDICTS.items()
        if verdict in by_verdict
    ]
    return f"{arm_label(method)} is {'; '.join(parts)}." if parts else ""


def which_bases(shared: int, bases: int) -> list[str]:
    """What is said of the base models that are arms anyway: `shared` of so many."""
    if not shared:
        return []
    if bases == 1:
        return ["the base model: it is an arm of the run"]
    return [f"{shared} of the {bases} base models: they are arms of the run"]


def but_same_cost(result: Mapping[str, Any]) -> str:
    """The arm, where there is one, that trains on more tokens than all others."""
    cost = result.get("cost_inclusive")
    return f" (but for {arm_label(cost['arm'])})" if cost else ""


def run_id(result: Mapping[str, Any]) -> str | None:
    """What tells a run from others wherever it runs: the digest of the ids of its stages."""
    stages = result.get("stages")
    return digest(sorted(stages.values())) if stages else None


def over_controls(result: Mapping[str, Any]) -> dict[str, Any]:
    """What SBP gains over its controls; a variant of an arm is none."""
    over = (result.get("statistics") or {}).get("sbp_over") or {}
    arms = result.get("arms") or {}
    return {arm: gains for arm, gains in over.items() if "of" not in (arms.get(arm) or {})}


def of_own_samples(result: Mapping[str, Any]) -> str:
    """Whether SBP's gain may be that of the model's own samples, as self-distillation has it."""
    gain = (over_controls(result).get("self_distillation") or {}).get("bits_per_byte")
    if not gain:
        return "The self-distillation control would tell."
    return f"SBP is {RIVAL_VERDICTS[verdict_of(gain)]} self-distillation here."


def variants_over(result: Mapping[str, Any]) -> dict[str, Any]:
    """What each variant of SBP gains over the controls."""
    return dict((result.get("statistics") or {}).get("variants_over") or {})


def methods_over(result: Mapping[str, Any]) -> dict[str, Any]:
    """What SBP gains over everything else that was scored, and each variant over the controls."""
    over = (result.get("statistics") or {}).get("sbp_over") or {}
    return {"sbp": over} | variants_over(result)


def variant_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Arms with settings of their own: which arm they are, if another one, and what they set."""
    rows = []
    for arm, facts in (result.get("arms") or {}).items():
        own = [f"{name} {_plain(value)}" for name, value in (facts.get("settings") or {}).items()]
        own += [f"{facts['rounds']} rounds"] if "rounds" in facts else []
        if own:
            rows.append({"arm": arm, "of": facts.get("of", ""), "settings": ", ".join(own)})
    return rows


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _list(arms: Sequence[str]) -> str:
    names = [arm_label(arm) for arm in arms]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


_LABELS = {
    "sbp": "SBP",
    "self_distillation": "self-distillation",
    "repetition_same_cost": "same-cost repetition",
}


def arm_label(arm: str) -> str:
    """The arm's name as people read it; a variant's may begin with the name of an arm."""
    for name in sorted(_LABELS, key=len, reverse=True):
        if arm == name or arm.startswith(f"{name}_"):
            return _LABELS[name] + arm.removeprefix(name).replace("_", " ")
    return arm.replace("_", " ")
