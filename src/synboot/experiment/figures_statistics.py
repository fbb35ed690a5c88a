"""The figures of what the intervals say, as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from synboot.experiment.figures import (
    NARROW,
    PALETTE,
    WIDE,
    arm_role,
    dashes_of,
    draw_svg,
    scored_split,
    short_name,
    short_number,
    spoken_name,
    spread,
    write_label,
)
from synboot.experiment.phrases import ends, governing, is_number, over_controls
from synboot.experiment.search.found import losses_by_arm
from synboot.experiment.sizes import (
    OTHER_TEST,
    advantages,
    by_size,
    has_one_test,
    rivals_of,
    several_models,
    unique_tokens,
)

_KINDS = (("documents", 5.0, 0.45), ("seeds", 1.5, 0.7), ("both", 3.0, 0.9))
"""Of an interval: over what, its width in points, its opacity."""


def gains_figure(result: Mapping[str, Any], width: int = WIDE) -> str | None:
    """What arms gain over repetition, and SBP over its controls, each with its intervals: over
    documents, over seeds, over both, from above; a tick is one seed. Arms of more real text are
    left out: their gain would be the scale of all others. None if no gain is known."""
    rows = _gain_rows(result)
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        spread = [0.0]
        for row, (_, arm, gain) in enumerate(rows):
            colour = PALETTE[arm_role(arm)]
            intervals = {"documents": gain, **{k: gain.get(k) or {} for k in ("seeds", "both")}}
            known = [kind for kind in _KINDS if is_number(intervals[kind[0]].get("low"))]
            for place, (over, line, alpha) in enumerate(known):
                at = row + 0.2 * (place - (len(known) - 1) / 2)
                x = [intervals[over]["low"], intervals[over]["high"]]
                axes.plot(x, [at, at], color=colour, linewidth=line, alpha=alpha)
                spread += x
            single = gain.get("by_seed") or []
            if len(single) > 1:
                axes.plot(single, [row] * len(single), "|", color=colour, markersize=10)
            axes.plot([gain["gain"]], [row], "o", color=colour, markersize=7)
            spread += [gain["gain"], *single]
            edge = axes.get_yaxis_transform()
            text = f"{gain['gain']:+.4f}".replace("-", "\N{MINUS SIGN}")
            write_label(axes, (1, row), text, (6, 0), color=colour, va="center", xycoords=edge)
        margin = 0.06 * (max(spread) - min(spread)) or 0.01
        axes.axvline(0, color=PALETTE["rule"], linewidth=1, dashes=(2, 3), zorder=0)
        axes.set_xlim(min(spread) - margin, max(spread) + margin)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(3 if width <= NARROW else 6))
        axes.set_xlabel(f"gain, {scored_split(result)} bits per byte (more is better →)")

    described = ", ".join(f"{name} {gain['gain']:+.4f}" for name, _, gain in rows)
    return draw_svg("gains", f"Gains: {described}", width, 60 + 46 * len(rows), draw)


def _gain_rows(result: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Name of a row, arm whose colour it has, and gain."""
    runs = {run["arm"] for run in (result.get("data_efficiency") or {}).get("runs") or []}
    gains, arms = result.get("comparisons") or {}, result.get("arms") or {}
    rows = [
        (short_name(arm), arm, of_arm.get("bits_per_byte") or {})
        for arm, of_arm in gains.items()
        if arm not in runs and "oracle" not in (arm, (arms.get(arm) or {}).get("of"))
    ]
    rows += [
        (f"SBP over\n{short_name(arm)}", "sbp", of_arm.get("bits_per_byte") or {})
        for arm, of_arm in over_controls(result).items()
    ]
    return [row for row in rows if is_number(row[2].get("gain"))]


def efficiency_figure(result: Mapping[str, Any], width: int = WIDE) -> str | None:
    """Repetition's loss over how much unique text it has, and what of it each arm is worth: where
    the level line of its loss meets the curve, with the interval. None without two runs."""
    found = result.get("data_efficiency") or {}
    runs = found.get("runs") or []
    if len(runs) < 2:
        return None
    metric = found["metric"]
    multiples = [run["multiple"] for run in runs]
    first, last = multiples[0], multiples[-1]
    height = max(320 if width <= NARROW else 360, 100 + 19 * len(found["arms"]))

    def draw(axes: Axes) -> None:
        colour = PALETTE["repetition"]
        axes.plot(multiples, [run[metric] for run in runs], "o-", color=colour, markersize=6)
        levels: dict[str, float] = {}
        for arm, one in found["arms"].items():
            loss = result["arms"][arm]["test"][metric]
            role = PALETTE[arm_role(arm)]
            bounds = next(
                (b for b in (one.get("both"), one.get("documents")) if b and "refused" not in b),
                None,
            )
            levels[arm] = loss
            if one["value"] is None and one["beyond"] is None:
                continue
            value = one["value"] or (last if one["beyond"] == "above" else first)
            axes.plot([first, value], [loss, loss], color=role, linewidth=1, dashes=(2, 3))
            if bounds is not None:
                low, high = bounds["low"] or first, bounds["high"] or last
                axes.plot([low, high], [loss, loss], color=role, linewidth=5, alpha=0.45)
            marker = {"above": ">", "below": "<"}.get(one["beyond"], "o")
            axes.plot([value], [loss], marker, color=role, markersize=8)
        low, high = axes.get_ylim()
        gap = 17 / (0.72 * height) * (high - low)
        for arm, place in spread(levels, gap, low, high).items():
            style = {"color": PALETTE[arm_role(arm)], "va": "center"}
            write_label(axes, (last, place), short_name(arm), (10, 0), **style)
        axes.set_xscale("log")
        axes.set_xticks(multiples, [f"{multiple:.3g}" for multiple in multiples])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("unique text of repetition, times the budget")
        axes.set_ylabel(metric.replace("_", " "))
        axes.grid(axis="y", color=PALETTE["rule"], alpha=0.25, linewidth=0.8)

    described = ", ".join(f"{run['multiple']:.3g} times {run[metric]:.4f}" for run in runs)
    return draw_svg("efficiency", f"Repetition of more text: {described}", width, height, draw)


def sizes_figure(results: Sequence[Mapping[str, Any]], width: int = WIDE) -> str | None:
    """SBP's gain over repetition and each control by unique tokens, with the interval that a claim
    answers to. None with less than two sizes."""
    sized = by_size(results)
    if len(sized) < 2:
        return None
    rivals = rivals_of(sized)
    dashes, one_test, several = dashes_of(rivals), has_one_test(sized), several_models(sized)
    labelled = next(
        (
            arm
            for arm in reversed(rivals)
            if several_models([r for r in sized if arm in advantages(r)])
        ),
        None,
    )
    height = max(320 if width <= NARROW else 380, 110 + 19 * len(rivals))

    def draw(axes: Axes) -> None:
        last: dict[str, float] = {}
        for place, rival in enumerate(rivals):
            colour = PALETTE[arm_role(rival)]
            beside = 1.03 ** (place - (len(rivals) - 1) / 2)  # or their intervals hide each other
            met = [result for result in sized if rival in advantages(result)]
            tokens = [unique_tokens(result) * beside for result in met]
            gains = [advantages(result)[rival] for result in met]
            # Runs of one budget, such as of several models, are no line; nor are other test texts.
            line = dashes[rival] if one_test and not several_models(met) else "none"
            axes.plot(
                tokens, [gain["gain"] for gain in gains], marker="o", color=colour, markersize=6,
                linestyle=line,
            )  # fmt: skip
            if several_models(met) and rival == labelled:
                for x, result, gain in zip(tokens, met, gains, strict=True):
                    size = _parameters(result)
                    write_label(axes, (x, gain["gain"]), size, (8, 0), color=colour, va="center")
            for x, bounds in zip(tokens, map(governing, gains), strict=True):
                if is_number(bounds.get("low")) and is_number(bounds.get("high")):
                    axes.plot(
                        [x, x], [bounds["low"], bounds["high"]], color=colour, linewidth=4,
                        alpha=0.45,
                    )  # fmt: skip
            last[rival] = gains[-1]["gain"]
        axes.axhline(0, color=PALETTE["rule"], linewidth=1, dashes=(2, 3), zorder=0)
        low, high = axes.get_ylim()
        gap = 17 / (0.72 * height) * (high - low)
        for rival, y in spread(last, gap, low, high).items():
            colour, edge = PALETTE[arm_role(rival)], axes.get_yaxis_transform()
            text = f"over {short_name(rival)}"
            write_label(axes, (1, y), text, (8, 0), color=colour, va="center", xycoords=edge)
        ticks = {
            unique_tokens(result): short_number(float(f"{unique_tokens(result):.3g}"))
            + ("" if several else f"\n{_parameters(result)}")
            for result in sized
        }
        axes.set_xscale("log")
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.08)
        axes.set_xlabel(
            "unique tokens" if several else "unique tokens, and parameters of the model"
        )
        axes.set_ylabel("SBP's gain, test bits per byte")
        axes.grid(axis="y", color=PALETTE["rule"], alpha=0.25, linewidth=0.8)

    def described(arm: str, gain: Mapping[str, Any]) -> str:
        bounds = ends(governing(gain), "{:+.4f}".format)
        return f"{spoken_name(arm)} {gain['gain']:+.4f} {bounds}".strip()

    text = "; ".join(
        f"{unique_tokens(result):,} tokens, {result['model']['parameters']:,} parameters: "
        + ", ".join(described(arm, gain) for arm, gain in advantages(result).items())
        for result in sized
    )
    text += "" if one_test else f". {OTHER_TEST}"
    return draw_svg("sizes", f"SBP's gain by unique tokens: {text}", width, height, draw)


def _parameters(result: Mapping[str, Any]) -> str:
    return short_number(float(f"{result['model']['parameters']:.2g}"))


def trials_figure(found: Mapping[str, Any], name: str, width: int = WIDE) -> str:
    """The validation losses of every arm's trials in a search, the best one large, lower ones to
    the right. `name` is the figure's own on its page."""
    losses = losses_by_arm(found)

    def draw(axes: Axes) -> None:
        for row, (arm, own) in enumerate(losses.items()):
            colour = PALETTE[arm_role(arm)]
            axes.plot(own, [row] * len(own), "o", color=colour, markersize=5, alpha=0.45)
            axes.plot(own[:1], [row] * len(own[:1]), "o", color=colour, markersize=9)
            edge = axes.get_yaxis_transform()
            text = f"{own[0]:.4f}" if own else ""
            write_label(axes, (1, row), text, (6, 0), color=colour, va="center", xycoords=edge)
        axes.set_ylim(len(losses) - 0.5, -0.5)
        axes.set_yticks(range(len(losses)), [short_name(arm) for arm in losses])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_inverted(True)
        axes.xaxis.set_major_locator(MaxNLocator(3 if width <= NARROW else 6))
        axes.set_xlabel("validation loss, nats per token (lower is better →)")

    described = ", ".join(f"{spoken_name(arm)} {own[0]:.4f}" for arm, own in losses.items() if own)
    return draw_svg(name, f"Best trials: {described}", width, 60 + 30 * len(losses), draw)
