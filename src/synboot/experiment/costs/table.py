"""What a recipe will cost, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synboot.core.events import format_seconds


def outlook_table(outlook: Mapping[str, Any]) -> str:
    """A line for each kind of stage, then what is left to do in all, and what it rests on."""
    lines = [_head(outlook)]
    lines.append(f"{'stage':14} {'done':>9} {'tokens to do':>14} {'FLOPs':>9} {'time':>9}")
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for stage in outlook["stages"]:
        by_name.setdefault(stage["name"], []).append(stage)
    for name, stages in by_name.items():
        lines.append(_line(name, stages))
    todo, speed = outlook["to_do"], outlook["speed"]
    flops = todo["flops"] + todo["validation_flops"]
    lines.append(
        f"{todo['stages']} stages to do: {todo['trained_tokens']:,} tokens to train, "
        f"{flops:.2e} FLOPs, {todo['validation_flops']:.1e} of them validation"
    )
    if speed is not None and todo["hours"] is not None:
        lines.append(
            f"{_time(3600 * todo['hours'])} on this machine as busy as it was when measured: "
            f"training {speed['training_flops_per_second']:.2e} FLOPs a second, sampling "
            f"{speed['sampled_tokens_per_second_of_a_process']:,.0f} tokens a second and process"
        )
    memory = outlook["peak_memory_bytes"]
    lines.append(
        f"disk {outlook['disk_bytes'] / 1e6:,.0f} MB"
        + (f", peak memory about {memory / 1e9:.1f} GB" if memory else "")
    )
    lines.append("~ estimated; time is that of computing: reading and comparing texts come on top")
    if outlook["not_estimated"]:
        lines.append(f"not estimated: {', '.join(outlook['not_estimated'])}")
    return "\n".join(lines)


def _head(outlook: Mapping[str, Any]) -> str:
    text = outlook["text"]
    source = "counted" if text["counted"] else "from a sample"
    return (
        f"{outlook['recipe']}: {outlook['parameters']:,} parameters; {text['tokens']:,} tokens, "
        f"{text['unique_tokens']:,} unique, {text['oracle_tokens']:,} of the oracle ({source})"
    )


def _line(name: str, stages: list[Mapping[str, Any]]) -> str:
    left = [stage for stage in stages if stage["status"] == "missing"]
    tokens = sum(stage["tokens"] or 0 for stage in left)
    flops = sum((stage["flops"] or 0) + stage["validation_flops"] for stage in left)
    seconds = [stage["seconds"] for stage in left if stage["seconds"]]
    mark = "" if all(stage["basis"] == "exact" for stage in left) else "~"
    unknown = any(stage["basis"] == "unknown" for stage in left)
    shown_flops = "?" if unknown and not flops else f"{mark}{flops:.1e}" if flops else ""
    return (
        f"{name:14} {len(stages) - len(left):>3} of {len(stages):<2} "
        f"{f'{mark}{tokens:,}' if tokens else '':>14} {shown_flops:>9} "
        f"{_time(sum(seconds)) if seconds else '':>9}"
    ).rstrip()


def _time(seconds: float) -> str:
    return format_seconds(seconds) if seconds >= 1 else "<0:01"
