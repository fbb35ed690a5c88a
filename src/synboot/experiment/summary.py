"""What a run would do and what it found, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from synboot.experiment.ensembles import ensemble_lines
from synboot.experiment.phrases import (
    arm_label,
    but_same_cost,
    ends,
    rivals,
    times,
    times_ends,
)
from synboot.experiment.seed_use import seed_use_line
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
            f"{result['training_tokens']:,} training tokens for every arm{but_same_cost(result)}, "
            f"{result['unique']['tokens']:,} unique; {documents}"
        )
    statistics = result.get("statistics") or {}
    if groups := statistics.get("groups"):
        documents += f" in {groups} groups"
    seeds = max((len(facts.get("seeds") or {}) for facts in result["arms"].values()), default=0)
    if seeds > 1:
        documents += f"; {seeds} training seeds"
    several = seeds > 1
    header = "gain in bits/byte [95% over documents]" if several else "gain in bits/byte [95%]"
    width = max(20, *map(len, result["arms"]))
    lines = [
        documents,
        f"{'arm':{width}} {'bits/byte':>9} {'nats/token':>10} {'perplexity':>10}  {header:39}"
        + ("[over seeds]         [over both]" if several else ""),
    ]
    lines[1] = lines[1].rstrip()
    for arm, facts in result["arms"].items():
        test = facts["test"]
        gain = result["comparisons"].get(arm, {}).get("bits_per_byte")
        lines.append(
            f"{arm:{width}} {test['bits_per_byte']:9.4f} {test['nats_per_token']:10.4f} "
            f"{test['perplexity']:10.2f}  {_gain(gain, several) if gain else ''}".rstrip()
        )
    if result["recovered"]:
        share = result["recovered"]["bits_per_byte"]
        lines.append(
            f"recovered: refused, {share['refused']}"
            if share["value"] is None
            else f"recovered of the oracle's gain: {share['value']:.1%} "
            + _labelled(share, lambda bounds: ends(bounds, "{:.1%}".format))
        )
    lines += _efficiency_lines(result.get("data_efficiency"))
    if cost := result.get("cost_inclusive"):
        lines.append(
            f"{cost['arm']} trained on {cost['extra_tokens']:,} tokens more, what SBP's pairing, "
            "tuning, synthesis and base models that no arm has would buy"
        )
    if standing := rivals(result):
        lines.append(standing)
    if used := seed_use_line(result, "{:+.4f}".format):
        lines.append(used)
    lines += ensemble_lines(result)
    return "\n".join([*lines, *task_lines(result)])


def _gain(gain: Mapping[str, Any], several: bool) -> str:
    """The gain and its intervals; with several seeds all three, a dash where one is refused."""
    write = "{:+.4f}".format
    if not several:
        return f"{write(gain['gain'])} {ends(gain, write)}"
    shown = (ends(gain.get(kind, gain), write) or "-" for kind in ("documents", "seeds", "both"))
    return f"{write(gain['gain']):18}" + "".join(f"{text:21}" for text in shown)


def _labelled(figure: Mapping[str, Any], write: Callable[[Mapping[str, Any]], str]) -> str:
    """The intervals that there are, each with what it is over."""
    own = {"documents": figure.get("documents", figure), **figure}
    texts = {over: write(own[over] or {}) for over in ("documents", "seeds", "both") if over in own}
    return ", ".join(f"{text} over {over}" for over, text in texts.items() if text)


def _efficiency_lines(found: Mapping[str, Any] | None) -> list[str]:
    """What repetition would need of unique text to be as good as each arm."""
    if not found:
        return []
    runs = found["runs"]
    between = ", ".join(f"{run['multiple']:.3g}" for run in runs)
    return [
        f"{arm_label(arm)}: "
        + (
            f"worth {times(one, runs)} the unique text "
            + _labelled(one, lambda bounds: times_ends(bounds, runs))
            if one["value"] is not None or one["beyond"]
            else f"what unique text it is worth is not stated: {one['documents']['refused']}"
        )
        + f", by repetition of {between} times as much"
        for arm, one in found["arms"].items()
    ]
