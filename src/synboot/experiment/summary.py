"""What a run would do and what it found, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synboot.experiment.task_section import task_lines


def stage_table(described: Mapping[str, Any]) -> str:
    """What a run would do, a line for each stage."""
    lines = []
    width = max(len(stage["label"]) for stage in described["stages"])
    for stage in described["stages"]:
        notes = [
            f"{stage['parts_done']} parts" if "parts_done" in stage else "",
            f"step {stage['checkpoint_step']}" if "checkpoint_step" in stage else "",
            f"{stage['tokens']:,} tokens" if stage["tokens"] else "",
            f"{stage['flops']:.2e} FLOPs" if stage["flops"] else "",
        ]
        note = ", ".join(note for note in notes if note)
        lines.append(
            f"{stage['status']:8} {stage['label']:{width}}  {stage['id'][:12]}  {note}".rstrip()
        )
    flops = described["known_flops_to_do"]
    lines.append(f"{described['missing']} of {len(described['stages'])} stages are missing")
    if flops:
        lines.append(f"training them takes {flops:.2e} FLOPs; tuning and synthesis come on top")
    return "\n".join(lines)


def comparison_table(result: Mapping[str, Any]) -> str:
    """The comparison of the arms for a terminal."""
    documents = (
        f"{result['split']} text of {result['corpus']['documents'][result['split']]} documents"
    )
    if "training_tokens" in result:  # not where models were trained one by one
        documents = (
            f"{result['training_tokens']:,} training tokens for every arm, "
            f"{result['unique']['tokens']:,} unique; {documents}"
        )
    lines = [
        documents,
        f"{'arm':12} {'bits/byte':>9} {'nats/token':>10} {'perplexity':>10}  "
        "gain in bits/byte [95%]",
    ]
    for arm, facts in result["arms"].items():
        test = facts["test"]
        gain = result["comparisons"].get(arm, {}).get("bits_per_byte")
        shown = f"{gain['gain']:+.4f}" if gain else ""
        if gain and gain["low"] is not None:
            shown += f" [{gain['low']:+.4f}, {gain['high']:+.4f}]"
        lines.append(
            f"{arm:12} {test['bits_per_byte']:9.4f} {test['nats_per_token']:10.4f} "
            f"{test['perplexity']:10.2f}  {shown}".rstrip()
        )
    if result["recovered"]:
        share = result["recovered"]["bits_per_byte"]
        lines.append(
            f"recovered: refused, {share['refused']}"
            if share["value"] is None
            else f"recovered of the oracle's gain: {share['value']:.1%} "
            f"[{share['low']:.1%}, {share['high']:.1%}]"
        )
    return "\n".join([*lines, *task_lines(result)])
