"""Runs beside each other: SBP over its controls by size, and variants on validation text.

A claim about size is made from the smallest unique budget on from which SBP is ahead in every run
of it and of all larger ones, and reaches no further than these runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from synboot.experiment.arm_settings import REFERENCE
from synboot.experiment.phrases import (
    RIVAL_VERDICTS,
    Write,
    arm_label,
    ends,
    governing,
    is_number,
    over_controls,
    variant_rows,
    variants_over,
    verdict_of,
)
from synboot.experiment.seed_use import saved_by_seed

OTHER_TEST = "The sizes were not scored on the same test text: their gains are not of one scale."
_ON_ONE_SEED = " (on one seed)"
Results = Sequence[Mapping[str, Any]]
"""Values of `result.json`."""


def by_size(results: Results) -> list[Mapping[str, Any]]:
    """The results of recipes that compare SBP with repetition on test text, smallest unique budget
    first, smallest model first of equal ones. Those of the same models of SBP, beside other
    controls, are one."""
    found = [
        r for r in results if r.get("split") != "valid" and advantages(r) and is_number(_size(r)[0])
    ]
    sizes: list[list[Mapping[str, Any]]] = []
    for result in sorted(found, key=_size):
        same = next((runs for runs in sizes if _same_models(runs[0], result)), None)
        if same is None:
            sizes.append([result])
        else:
            same.append(result)
    return [_joined(runs) for runs in sizes]


def _same_models(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs are of one size and one test text, and have the models of SBP and of all
    other arms of theirs in common."""
    if (_size(one), _test_text(one)) != (_size(other), _test_text(other)):
        return False
    shared = one["arms"].keys() & other["arms"].keys()
    return all(
        one["arms"][arm].get("seeds") and one["arms"][arm]["seeds"] == other["arms"][arm]["seeds"]
        for arm in shared
    )


def _joined(runs: Results) -> Mapping[str, Any]:
    """The run that has most controls, the first of equal ones, and what the others have beside;
    `recipes` has the recipes of arms that are theirs."""
    whole = max(runs, key=lambda run: len(advantages(run)))
    for run in runs:
        beside = {arm: run["recipe"] for arm in run["arms"] if arm not in whole["arms"]}
        if beside:
            statistics = [each.get("statistics") or {} for each in (run, whole)]
            parts = {
                name: [of.get(name) or {} for of in statistics]
                for name in ("sbp_over", "variants_over")
            }
            whole = {
                **whole,
                **{n: {**run[n], **whole[n]} for n in ("arms", "comparisons")},
                "statistics": {**statistics[1], **{n: {**o, **w} for n, (o, w) in parts.items()}},
                "recovered": whole.get("recovered") or run.get("recovered"),
                "recipes": {**beside, **whole.get("recipes", {})},
            }
    return whole


def _size(result: Mapping[str, Any]) -> tuple[Any, Any]:
    unique, model = result.get("unique") or {}, result.get("model") or {}
    return unique.get("tokens"), model.get("parameters")


def unique_tokens(result: Mapping[str, Any]) -> int:
    """The unique budget, in tokens."""
    return int(result["unique"]["tokens"])


def rivals_of(results: Results, method: str = "sbp") -> list[str]:
    """Repetition and the controls of a method that any of the results has."""
    return list(dict.fromkeys(arm for result in results for arm in advantages(result, method)))


def advantages(result: Mapping[str, Any], method: str = "sbp") -> dict[str, Mapping[str, Any]]:
    """What SBP, or a variant of it, gains over repetition and each control, in bits per byte."""
    own = ((result.get("comparisons") or {}).get(method) or {}).get("bits_per_byte") or {}
    if not is_number(own.get("gain")):
        return {}
    of_sbp, of_variants = over_controls(result), variants_over(result)
    controls = of_sbp if method == "sbp" else of_variants.get(method, {})
    return {REFERENCE: own} | {arm: of["bits_per_byte"] for arm, of in controls.items()}


def _compared(sized: Results) -> list[tuple[str, str]]:
    """Methods and rivals that are shown by size: of SBP all, of variants those that are the same in
    several runs, but for their pretraining, which each size has of its own."""
    variants = dict.fromkeys(name for result in sized for name in variants_over(result))
    several = []
    for name in variants:
        own = [run["arms"][name] for run in sized if advantages(run, name)]
        if len(own) > 1 and all(_made_by(one) == _made_by(own[0]) for one in own):
            several.append(name)
    return [(method, rival) for method in ("sbp", *several) for rival in rivals_of(sized, method)]


def sizes_section(results: Results, *, signed: Write, percent: Write) -> dict[str, Any]:
    """The values of `sizes.html.jinja`: rows by size and control, rows by size, a sentence for
    each control; empty with less than two sizes."""
    sized = by_size(results)
    if len(sized) < 2:
        return {}
    compared = _compared(sized)
    return {
        "rivals": [
            {
                **_row(result),
                "recipe": _recipe_of(result, method, rival),
                "method": method,
                "over": rival,
                "gain": signed(gain["gain"]),
                "ends": ends(governing(gain), signed),
                "verdict": verdict_of(gain),
            }
            for method, rival in compared
            for result in sized
            if (gain := advantages(result, method).get(rival))
        ],
        "rows": [_facts(result, signed, percent) for result in sized],
        "standing": [standing(sized, rival, signed, method) for method, rival in compared],
        "warning": "" if has_one_test(sized) else OTHER_TEST,
    }


def _recipe_of(result: Mapping[str, Any], *arms: str) -> str:
    """That of the run which a size has one of the arms from."""
    beside = result.get("recipes", {})
    return str(next((beside[arm] for arm in arms if arm in beside), result["recipe"]))


def standing_lines(results: Results) -> list[str]:
    """The sentences of `sizes_section`, for a terminal."""
    sized = by_size(results)
    compared = _compared(sized) if len(sized) > 1 else []
    lines = [standing(sized, rival, "{:+.4f}".format, method) for method, rival in compared]
    return lines + ([] if not lines or has_one_test(sized) else [OTHER_TEST])


def has_one_test(sized: Results) -> bool:
    """Whether all were scored on the same test text, as far as its size tells."""
    return len({_test_text(result) for result in sized}) == 1


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "recipe": result["recipe"],
        "unique_tokens": unique_tokens(result),
        "parameters": result["model"]["parameters"],
        "seeds": len(result["arms"]["sbp"].get("seeds") or {}),
    }


def _facts(result: Mapping[str, Any], signed: Write, percent: Write) -> dict[str, Any]:
    share = (result.get("recovered") or {}).get("bits_per_byte") or {}
    known = is_number(share.get("value"))
    saved, saved_ends = saved_by_seed(result, signed)
    return {
        **_row(result),
        "training_tokens": result.get("training_tokens"),
        "recovered": percent(share["value"]) if known else "",
        "recovered_ends": ends(governing(share), percent) if known else "",
        "saved": saved,
        "saved_ends": saved_ends,
    }


def _made_by(variant: Mapping[str, Any]) -> tuple[Any, ...]:
    settings = variant.get("settings") or {}
    own = {name: value for name, value in settings.items() if not name.startswith("pretrain.")}
    return variant.get("of"), variant.get("rounds"), own


def standing(sized: Results, rival: str, signed: Write, method: str = "sbp") -> str:
    """From which size on SBP, or a variant of it, is ahead of a control, in one sentence."""
    met = [result for result in sized if rival in advantages(result, method)]
    budgets = [list(runs) for _, runs in groupby(met, unique_tokens)]
    ahead = [
        all(verdict_of(advantages(run, method)[rival]) == "better" for run in runs)
        for runs in budgets
    ]
    first = len(ahead)
    while first and ahead[first - 1]:
        first -= 1
    with_it = "" if len(met) == len(sized) else f" with it ({len(met)} of {len(sized)})"
    if first == len(ahead):
        trend = has_one_test(sized)
        return _not_at_the_largest(method, rival, met, any(ahead), with_it, signed, trend=trend)
    carrying = [run for runs in budgets[first:] for run in runs]
    where = f"from {unique_tokens(carrying[0]):,} unique tokens on"
    if len(carrying) == len(met):
        where = f"in every run{with_it or ' that was made'}"
    elif len(carrying) == 1:
        size = unique_tokens(carrying[0])
        where = f"in the largest run{with_it}, of {size:,} unique tokens, alone"
    elif with_it:
        where += f", in the runs{with_it}"
    seeds = _ON_ONE_SEED if any(_row(run)["seeds"] < 2 for run in carrying) else ""
    return f"{arm_label(method)} is ahead of {arm_label(rival)} {where}{seeds}."


def _not_at_the_largest(
    method: str,
    rival: str,
    met: Results,
    somewhere: bool,
    with_it: str,
    signed: Write,
    *,
    trend: bool,
) -> str:
    """Every run with its gain and what it allows, and where the gains go."""
    gains = [advantages(run, method)[rival] for run in met]
    where = f"in smaller runs, not in the largest{with_it}" if somewhere else f"in no run{with_it}"
    several = several_models(met)
    told = "; ".join(
        f"at {unique_tokens(run):,} unique tokens"
        + (f" and {run['model']['parameters']:,} parameters" if several else "")
        + f" {RIVAL_VERDICTS[verdict_of(gain)].removesuffix(' of')}, {signed(gain['gain'])}"
        + f" {ends(governing(gain), signed)}".rstrip()
        + (_ON_ONE_SEED if _row(run)["seeds"] < 2 else "")
        for run, gain in zip(met, gains, strict=True)
    )
    going = _trend(gains) if trend and not several else ""
    return f"{arm_label(method)} is ahead of {arm_label(rival)} {where}: {told}.{going}"


def several_models(results: Results) -> bool:
    """Whether a unique budget has more than one run, such as of models of several sizes."""
    return len({unique_tokens(run) for run in results}) < len(results)


def _trend(gains: Results) -> str:
    steps = [later["gain"] - before["gain"] for before, later in pairwise(gains)]
    if steps and all(step > 0 for step in steps):
        return " The gain itself, without its interval, rises with size."
    if steps and all(step < 0 for step in steps):
        return " The gain itself, without its interval, falls with size."
    return ""


def _test_text(result: Mapping[str, Any]) -> tuple[int, int]:
    """Documents and bytes of the test split, which tell other test text apart."""
    return result["corpus"]["documents"]["test"], result["corpus"]["bytes"]["test"]


def variants_section(results: Results, *, signed: Write) -> list[dict[str, Any]]:
    """Of each run that compares variants on validation text, a row an arm beside plain SBP where
    it is among them, lowest bits per byte first."""
    return [
        {
            "recipe": result["recipe"],
            "rows": _variants(result, signed),
            "beside_sbp": "sbp" in result["arms"],
        }
        for result in results
        if result.get("split") == "valid"
    ]


def _variants(result: Mapping[str, Any], signed: Write) -> list[dict[str, str]]:
    settings = {row["arm"]: row["settings"] for row in variant_rows(result)}
    sbp_over = advantages(result) | {
        arm: of["bits_per_byte"]
        for arm, of in ((result.get("statistics") or {}).get("sbp_over") or {}).items()
    }
    rows = []
    by_loss = sorted(result["arms"].items(), key=lambda arm: arm[1]["test"]["bits_per_byte"])
    for arm, facts in by_loss:
        gain = _turned(sbp_over.get(arm) or {})
        saved, saved_ends = saved_by_seed(result, signed, arm)
        rows.append(
            {
                "arm": arm,
                "of": facts.get("of", ""),
                "settings": settings.get(arm, ""),
                "bits_per_byte": f"{facts['test']['bits_per_byte']:.4f}",
                "over_sbp": signed(gain["gain"]) if gain else "",
                "ends": ends(gain, signed),
                "verdict": _beside_sbp(sbp_over.get(arm) or {}),
                "saved": saved,
                "saved_ends": saved_ends,
            }
        )
    return rows


def _beside_sbp(over: Mapping[str, Any]) -> str:
    """What SBP gains over an arm, in a sentence on the arm; nothing where nothing is known."""
    if not is_number(over.get("gain")):
        return ""
    kind = "documents" if governing(over) is over else "documents and seeds"
    return {
        "worse": f"Better than plain SBP, over {kind}.",
        "better": f"Worse than plain SBP, over {kind}.",
        "unclear": "Not to be told from plain SBP.",
    }[verdict_of(over)]


def _turned(over: Mapping[str, Any]) -> dict[str, float]:
    """What an arm gains over SBP, from what SBP gains over it."""
    if not is_number(over.get("gain")):
        return {}
    gain, bounds = {"gain": -over["gain"]}, governing(over)
    low, high = bounds.get("low"), bounds.get("high")
    if is_number(low) and is_number(high):
        gain |= {"low": -high, "high": -low}
    return gain
