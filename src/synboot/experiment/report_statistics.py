"""What the page says of the intervals, of data efficiency and of cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synboot.experiment.phrases import (
    Write,
    ends,
    governing,
    is_number,
    methods_over,
    times,
    times_ends,
    verdict_of,
)

_KINDS = ("documents", "seeds", "both")


def statistics_section(
    result: Mapping[str, Any], *, signed: Write, percent: Write
) -> dict[str, Any]:
    """The values of `statistics.html.jinja`: rows of ready text, empty where nothing is known."""
    statistics = result.get("statistics") or {}
    gains = [("repetition", arm, of) for arm, of in (result.get("comparisons") or {}).items()]
    gains += [
        (arm, method, of)
        for method, over in methods_over(result).items()
        for arm, of in over.items()
    ]
    return {
        "covers": statistics.get("covers") or {},
        "gains": [
            {"arm": arm, "over": over, **_gain_row(of["bits_per_byte"], signed)}
            for over, arm, of in gains
            if is_number((of.get("bits_per_byte") or {}).get("gain"))
        ],
        "shares": [
            {
                "arm": arm,
                "value": percent(share["value"]) if is_number(share["value"]) else "",
                **_intervals(share, percent),
            }
            for arm, share in (statistics.get("recovered") or {}).items()
            if not share["refused"]
        ],
        "efficiency": _efficiency_rows(result.get("data_efficiency") or {}),
        "why_none": _why_none(result),
        "cost": _cost(result, signed),
    }


def _gain_row(gain: Mapping[str, Any], signed: Write) -> dict[str, Any]:
    single = gain.get("by_seed") or []
    return {
        "gain": signed(gain["gain"]),
        **_intervals(gain, signed),
        "each": ", ".join(map(signed, single)) if len(single) > 1 else "",
        "verdict": verdict_of(gain),
    }


def _intervals(figure: Mapping[str, Any], write: Write) -> dict[str, str]:
    own = {"documents": figure, "seeds": figure.get("seeds"), "both": figure.get("both")}
    return {kind: ends(own[kind], write) for kind in _KINDS}


def _efficiency_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    runs = found.get("runs") or []
    return [
        {"arm": arm, "value": times(one, runs)}
        | {kind: times_ends(one.get(kind), runs) for kind in _KINDS}
        for arm, one in (found.get("arms") or {}).items()
    ]


def _why_none(result: Mapping[str, Any]) -> list[str]:
    """The reasons why intervals are missing, each once."""
    statistics = result.get("statistics") or {}
    figures = [of["bits_per_byte"] for of in (result.get("comparisons") or {}).values()]
    figures += list((statistics.get("recovered") or {}).values())
    bounds = [figure.get(kind) or {} for figure in figures for kind in ("seeds", "both")]
    worth = ((result.get("data_efficiency") or {}).get("arms") or {}).values()
    bounds += [one.get("documents") or {} for one in worth]
    reasons = [b["refused"] for b in bounds if b.get("refused")]
    refused = [figure["refused"] for figure in figures if figure.get("refused")]
    return list(dict.fromkeys(reasons + refused))


def _cost(result: Mapping[str, Any], signed: Write) -> dict[str, Any] | None:
    """The line of what repetition does with SBP's FLOPs."""
    cost = result.get("cost_inclusive")
    if not cost:
        return None
    over = ((result.get("statistics") or {}).get("sbp_over") or {}).get(cost["arm"]) or {}
    gain = over.get("bits_per_byte") or {}
    known = is_number(gain.get("gain"))
    return {
        **cost,
        "gain": signed(gain["gain"]) if known else "",
        "ends": ends(governing(gain), signed),
        "verdict": verdict_of(gain),
    }
