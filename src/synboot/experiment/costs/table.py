"""What a recipe and its search will cost, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synboot.core.events import format_seconds


def outlook_table(outlook: Mapping[str, Any]) -> str:
    """A line for each kind of stage, then what is left to do in all, and what it rests on; the same
    of the recipe's search."""
    search, speed = outlook["search"], outlook["speed"]
    lines = [_head(outlook), *_stages_and_totals(outlook)]
    if search is not None and search["refused"] is not None:
        lines.append(f"no search: {search['refused']}")
    elif search is not None:
        lines += [_head_of_search(search), *_stages_and_totals(search), *_shared(search)]
    if speed is not None:
        lines.append(
            "times are for this machine as busy as it was when measured: "
            f"training {speed['training_flops_per_second']:.2e} FLOPs a second, sampling "
            f"{speed['sampled_tokens_per_second_of_a_process']:,.0f} tokens a second and process"
        )
    lines.append("~ estimated; time is that of computing: reading and comparing texts come on top")
    return "\n".join(lines)


def _stages_and_totals(part: Mapping[str, Any]) -> list[str]:
    """Of the run, or of the search."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for stage in part["stages"]:
        by_name.setdefault(stage["name"], []).append(stage)
    width = max(map(len, by_name))
    lines = [f"{'stage':{width}} {'done':>9} {'tokens to do':>14} {'FLOPs':>9} {'time':>9}"]
    lines += [_line(name.ljust(width), stages) for name, stages in by_name.items()]
    todo, memory = part["to_do"], part["peak_memory_bytes"]
    lines.append(
        f"{todo['stages']} stages to do: {todo['trained_tokens']:,} tokens to train, "
        f"{_flops(todo):.2e} FLOPs, {todo['validation_flops']:.1e} of them validation"
    )
    lines.append(
        (f"{_time(3600 * todo['hours'])} on this machine, " if todo["hours"] else "")
        + f"disk {part['disk_bytes'] / 1e6:,.0f} MB"
        + (f", peak memory about {memory / 1e9:.1f} GB" if memory else "")
    )
    if part["not_estimated"]:
        lines.append(f"not estimated: {', '.join(part['not_estimated'])}")
    return lines


def _head_of_search(search: Mapping[str, Any]) -> str:
    trials, of_tune = search["trials_by_status"], search["trials_of_tune"]
    diverged = f", {trials['diverged']} diverged" if trials["diverged"] else ""
    return (
        f"search: {search['trials_per_arm']} trials of each of {len(search['arms'])} arms, of "
        f"{search['training_tokens']:,} training tokens"
        + (f", and {of_tune} of tune" if of_tune else "")
        + f"; of all {search['trials']} trials {trials['missing']} are to do{diverged}"
    )


def _shared(search: Mapping[str, Any]) -> list[str]:
    """What is not to be added to the cost of a run, and what is not known yet."""
    both, lines = search["shared_to_do"], []
    if both["stages"]:
        time = f", {_time(3600 * both['hours'])}" if both["hours"] else ""
        lines.append(
            f"{both['stages']} of these stages the run of the frozen recipe has too, and finds "
            f"done: {_flops(both):.2e} FLOPs{time}"
        )
    if not all(stage["decided"] for stage in search["stages"]):
        lines.append("what winners decide is counted as if the recipe's own settings won")
    return lines


def _flops(total: Mapping[str, Any]) -> int:
    return int(total["flops"] + total["validation_flops"])


def _head(outlook: Mapping[str, Any]) -> str:
    text = outlook["text"]
    source = "counted" if text["counted"] else "from a sample"
    return (
        f"{outlook['recipe']}: {outlook['parameters']:,} parameters; {text['tokens']:,} tokens, "
        f"{text['unique_tokens']:,} unique, {text['oracle_tokens']:,} of the oracle ({source})"
    )


def _line(name: str, stages: list[Mapping[str, Any]]) -> str:
    left = [stage for stage in stages if stage["status"] == "missing"]
    done = sum(stage["status"] == "done" for stage in stages)
    tokens = sum(stage["tokens"] or 0 for stage in left)
    flops = sum((stage["flops"] or 0) + stage["validation_flops"] for stage in left)
    seconds = [stage["seconds"] for stage in left if stage["seconds"]]
    mark = "" if all(stage["basis"] == "exact" for stage in left) else "~"
    unknown = any(stage["basis"] == "unknown" for stage in left)
    shown_flops = "?" if unknown and not flops else f"{mark}{flops:.1e}" if flops else ""
    return (
        f"{name} {done:>3} of {len(stages):<2} "
        f"{f'{mark}{tokens:,}' if tokens else '':>14} {shown_flops:>9} "
        f"{_time(sum(seconds)) if seconds else '':>9}"
    ).rstrip()


def _time(seconds: float) -> str:
    return format_seconds(seconds) if seconds >= 1 else "<0:01"
