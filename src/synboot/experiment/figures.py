"""The report's figures as SVG text, drawn from plain values.

Colours are mid-tones that read on white and on near-black alike, so a figure can stand alone on
any page; `inline` turns them into the report's CSS variables (`--sbp`, `--ink`, ...), which follow
its light or dark theme. Equal values give equal bytes with the same version of matplotlib.
"""

from __future__ import annotations

import html
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from synboot.experiment.phrases import arm_label, governing

WIDE, MEDIUM, NARROW = 720, 520, 360  # CSS pixels a figure is drawn for
_NAME = 20  # characters of a name on one line
_SPOKEN = 100  # and of one that is heard

# Blue, orange and grey stay apart for every common kind of colour blindness; no two roles share a
# value, because `inline` tells them by it.
PALETTE = {
    "repetition": "#6f7782",
    "sbp": "#1a78c8",
    "oracle": "#b8670f",
    "self-distillation": "#a25cb0",
    "random-pairs": "#14867f",
    "real-context": "#c2556c",
    "other": "#8a7340",
    "ink": "#747a84",
    "rule": "#8b919a",
    "paper": "#fefefe",
}
ARM_ROLES = tuple(name for name in PALETTE if name not in ("ink", "rule", "paper"))
_FONTS = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.edgecolor": PALETTE["rule"],
    "axes.labelcolor": PALETTE["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": PALETTE["ink"],
    "xtick.color": PALETTE["rule"],
    "ytick.color": PALETTE["rule"],
    "xtick.labelcolor": PALETTE["ink"],
    "ytick.labelcolor": PALETTE["ink"],
    "legend.frameon": False,
    "axes.unicode_minus": True,
}
_LINES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)), (0, (2, 4)))
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def arm_role(arm: str) -> str:
    """The name in `PALETTE`, and of the CSS variable, of the arm that a name begins with."""
    name = arm.replace("_", "-")
    return next((role for role in ARM_ROLES if f"{name}-".startswith(f"{role}-")), "other")


def scored_split(result: Mapping[str, Any]) -> str:
    """Which documents the arms are scored on, `test` or `validation`."""
    return "validation" if result.get("split") == "valid" else "test"


def scientific(value: float) -> str:
    """3.1e12 as `3.10 x 10¹²`, with the sign of multiplication."""
    mantissa, exponent = f"{value:.2e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    return f"{mantissa} \N{MULTIPLICATION SIGN} 10{power}" if value else "0"


def inline(svg: str) -> str:
    """`svg` for use inside the report: colours by CSS variable, no namespaces, no style sheet."""
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    for role, colour in PALETTE.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg


def comparison_figure(result: Mapping[str, Any], width: int = WIDE) -> str:
    """Bits per byte of the arms of a `result.json`, one row per arm, fewer to the right.

    A bar through a dot is the 95% interval of the arm's gain over repetition, over documents; a
    thin line that over documents and seeds. The scale on top goes from repetition (0%) to the
    oracle (100%) and is left out where the result refuses it.
    Raises ValueError if no arm has test bits per byte.
    """
    values = {
        arm: facts["test"]["bits_per_byte"]
        for arm, facts in result["arms"].items()
        if _number((facts.get("test") or {}).get("bits_per_byte"))
    }
    if not values:
        raise ValueError("no arm has test bits per byte")
    share = ((result.get("recovered") or {}).get("bits_per_byte") or {}).get("value")
    split = scored_split(result)
    reference, best = values.get("repetition"), values.get("oracle")
    scaled = _number(share) and reference != best and None not in (reference, best)

    def draw(axes: Axes) -> None:
        spread: list[float] = []
        for row, (arm, value) in enumerate(values.items()):
            colour = PALETTE[arm_role(arm)]
            seeds = result["arms"][arm].get("seeds") or {}
            single = _numbers((s.get("test") or {}).get("bits_per_byte") for s in seeds.values())
            single = single if len(single) > 1 else []
            gain = ((result.get("comparisons") or {}).get(arm) or {}).get("bits_per_byte") or {}
            ends = _ends_of_gain(gain, reference)
            both = _ends_of_gain(governing(gain), reference)
            spread += [value, *single, *ends, *both]
            if arm == "repetition" or (arm == "oracle" and scaled):
                axes.axvline(value, color=PALETTE["rule"], linewidth=1, dashes=(2, 3), zorder=0)
            axes.plot(both, [row] * len(both), color=colour, linewidth=1.5)
            axes.plot(ends, [row] * len(ends), color=colour, linewidth=5, alpha=0.45)
            axes.plot(single, [row] * len(single), "|", color=colour, markersize=11)
            axes.plot([value], [row], "o", color=colour, markersize=10)
            edge = axes.get_yaxis_transform()
            write_label(
                axes, (1, row), f"{value:.4f}", (6, 0), color=colour, va="center", xycoords=edge
            )
        margin = 0.06 * (max(spread) - min(spread)) or 0.01 * abs(spread[0]) or 0.01
        axes.set_xlim(max(spread) + margin, min(spread) - margin)
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_yticks(range(len(values)), [row_name(arm) for arm in values])
        for tick, arm in zip(axes.get_yticklabels(), values, strict=True):
            tick.set_color(PALETTE[arm_role(arm)])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(3 if width <= NARROW else 6))
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.set_xlabel(f"{split} bits per byte (fewer is better →)")
        if scaled:
            _draw_share_scale(axes, values["repetition"], values["oracle"])

    described = ", ".join(f"{spoken_name(arm)} {value:.4f}" for arm, value in values.items())
    height = 56 + 42 * len(values) + (44 if scaled else 0)
    return draw_svg(
        "comparison", f"Bits per byte on {split} documents: {described}", width, height, draw
    )


def _ends_of_gain(gain: Mapping[str, Any], reference: float | None) -> list[float]:
    """The ends of the interval of an arm's gain, as bits per byte; none where there is none."""
    ends = _numbers([gain.get("low"), gain.get("high")])
    return [reference - end for end in ends] if reference is not None and len(ends) == 2 else []


def _draw_share_scale(axes: Axes, start: float, end: float) -> None:
    def share(bits: Any) -> Any:
        return (start - bits) / (start - end) * 100

    def bits_at(share: Any) -> Any:
        return start - share / 100 * (start - end)

    scale = axes.secondary_xaxis("top", functions=(share, bits_at))
    scale.set_xticks([0, 50, 100], ["0%", "50%", "100%"])
    scale.set_xlabel("share of the oracle's gain", labelpad=6)
    scale.spines["top"].set_bounds(0, 100)


def curves_figure(curves: Sequence[Mapping[str, Any]], width: int = WIDE) -> str | None:
    """Validation loss over trained tokens, a line per arm and seed, a dot at each line's best.

    The frame leaves out the steep beginning: its top is the highest loss that any line has after a
    fifth of the tokens. None if no point has a validation loss.
    """
    lines: list[tuple[str, list[float], list[float]]] = []
    for curve in curves:
        points = [p for p in curve["points"] if _number(p.get("validation_loss"))]
        if points:
            tokens, losses = [p["tokens"] for p in points], [p["validation_loss"] for p in points]
            lines.append((curve["arm"], tokens, losses))
    if not lines:
        return None
    last = max(tokens[-1] for _, tokens, _ in lines)
    late = [y for _, x, ys in lines for t, y in zip(x, ys, strict=True) if t >= last / 5]
    low, high = min(late), max(late)
    pad = 0.06 * (high - low) or 0.05
    arms = list(dict.fromkeys(arm for arm, _, _ in lines))
    dashes = dashes_of(arms)
    height = max(300 if width <= NARROW else 360, 100 + 19 * len(arms))

    def draw(axes: Axes) -> None:
        ends: dict[str, list[float]] = {}
        for arm, tokens, losses in lines:
            colour = PALETTE[arm_role(arm)]
            alone = sum(arm == other for other, _, _ in lines) == 1
            style = {"linewidth": 2, "alpha": 1 if alone else 0.65, "linestyle": dashes[arm]}
            axes.plot(tokens, losses, color=colour, **style)
            best = losses.index(min(losses))
            axes.plot(tokens[best], losses[best], "o", color=colour, markersize=6, clip_on=False)
            ends.setdefault(arm, []).append(losses[-1])
        axes.set_xlim(0, last)
        axes.set_ylim(low - pad, high + pad)
        row = 17 / (0.78 * height) * (high - low + 2 * pad)
        centres = {arm: sum(own) / len(own) for arm, own in ends.items()}
        for arm, place in spread(centres, row, low, high).items():
            style = {"color": PALETTE[arm_role(arm)], "va": "center"}
            write_label(axes, (last, place), short_name(arm), (8, 0), **style)
        axes.xaxis.set_major_locator(MaxNLocator(3 if width <= NARROW else 5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        axes.set_xlabel("trained tokens")
        axes.set_ylabel("validation loss, nats per token")
        axes.grid(axis="y", color=PALETTE["rule"], alpha=0.25, linewidth=0.8)

    described = ", ".join(f"{spoken_name(arm)} ends at {y[-1]:.4f}" for arm, _, y in lines)
    return draw_svg("curves", f"Validation loss: {described}", width, height, draw)


def dashes_of(arms: Sequence[str]) -> dict[str, Any]:
    """Line styles that tell arms of one colour apart; the first of each is solid."""
    seen: dict[str, int] = {}
    found: dict[str, Any] = {}
    for arm in arms:
        place = seen[arm_role(arm)] = seen.get(arm_role(arm), -1) + 1
        found[arm] = _LINES[place % len(_LINES)]
    return found


def spread(places: Mapping[str, float], gap: float, low: float, high: float) -> dict[str, float]:
    """`places` moved apart to at least `gap`, in their order, inside [low, high] where it can."""
    names = sorted(places, key=lambda name: places[name])
    wanted = [places[name] for name in names]
    raised = _at_least(wanted, gap)
    lowered = [-place for place in _at_least([-place for place in reversed(wanted)], gap)][::-1]
    middle = [(up + down) / 2 for up, down in zip(raised, lowered, strict=True)]
    inside = _at_least([max(low, place) for place in middle], gap)
    inside = _at_least([-min(high, place) for place in reversed(inside)], gap)
    return {name: -place for name, place in zip(names, reversed(inside), strict=True)}


def _at_least(places: Sequence[float], gap: float) -> list[float]:
    """Rising `places`, each raised to `gap` above the one before it where it is not."""
    raised: list[float] = []
    for place in places:
        raised.append(max(place, raised[-1] + gap) if raised else place)
    return raised


def flops_figure(
    ledger: Sequence[Mapping[str, Any]], arms: Sequence[str], width: int = WIDE
) -> str | None:
    """A bar of FLOPs per arm, a segment per ledger entry, paler by stage. None if none are known.

    An entry that several arms share counts in full for each of them. Entries below 1% of the
    largest count in the totals but get no segment: it would be too thin to see.
    """
    entries = [entry for entry in ledger if _number(entry.get("flops")) and entry["flops"] > 0]
    totals = {arm: sum(e["flops"] for e in entries if arm in e["arms"]) for arm in arms}
    largest = max((entry["flops"] for entry in entries), default=0)
    entries = [entry for entry in entries if entry["flops"] >= 0.01 * largest]
    totals = {arm: total for arm, total in totals.items() if total > 0}
    if not totals:
        return None
    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    alphas = {s: 1 - 0.75 * i / max(1, len(stages) - 1) for i, s in enumerate(stages)}
    longest = max(totals.values())

    def draw(axes: Axes) -> None:
        for row, (arm, total) in enumerate(totals.items()):
            left = 0.0
            own = [e for e in entries if arm in e["arms"]]
            for entry in sorted(own, key=lambda e: stages.index(e["stage"])):
                axes.barh(
                    row, entry["flops"], 0.5, left, color=PALETTE[arm_role(arm)],
                    alpha=alphas[entry["stage"]], edgecolor=PALETTE["paper"], linewidth=1,
                )  # fmt: skip
                left += entry["flops"]
            write_label(axes, (left, row), scientific(total), (6, 0), va="center")
        axes.set_xlim(0, longest * (1.5 if width <= NARROW else 1.2))
        axes.set_ylim(len(totals) - 0.5, -0.5)
        axes.set_yticks(range(len(totals)), [short_name(arm) for arm in totals])
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", length=0, labelbottom=False)
        axes.spines["bottom"].set_visible(False)
        swatches = [
            axes.barh(0, 0, color=PALETTE["ink"], alpha=alphas[s], label=short_name(s))
            for s in stages
        ]
        axes.legend(
            handles=swatches, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.4,
            ncols=3 if width <= NARROW else 6, handlelength=1, columnspacing=1.2,
        )  # fmt: skip

    described = ", ".join(f"{spoken_name(arm)} {scientific(t)}" for arm, t in totals.items())
    return draw_svg("flops", f"FLOPs: {described}", width, 56 + 44 * len(totals), draw)


def similarity_figure(
    edges: Sequence[float], every: Sequence[int], kept: Sequence[int], width: int = MEDIUM
) -> str | None:
    """Histogram of pair similarity: `every` candidate and the `kept` ones, bins between `edges`.

    The count axis turns logarithmic where the kept pairs would vanish on a linear one. None if
    there is nothing to count. Raises ValueError if the lengths do not fit.
    """
    if not len(edges) == len(every) + 1 == len(kept) + 1:
        raise ValueError(f"{len(edges)} edges for {len(every)} and {len(kept)} bins")
    if not sum(every):
        return None
    logarithmic = 0 < max(kept) < max(every) / 20

    def draw(axes: Axes) -> None:
        floor = 0.5 if logarithmic else 0
        axes.stairs(every, edges, baseline=floor, fill=True, color=PALETTE["ink"], alpha=0.35,
                    label="all candidates")  # fmt: skip
        axes.stairs(kept, edges, baseline=floor, fill=True, color=PALETTE["sbp"], label="kept")
        if logarithmic:
            axes.set_yscale("log")
            axes.set_ylim(floor)
        axes.set_xlabel("similarity (cosine)")
        axes.set_ylabel("pairs, log scale" if logarithmic else "pairs")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)

    label = f"Similarity of {sum(every):,} candidate pairs, {sum(kept):,} kept"
    return draw_svg("similarity", label, width, 250, draw)


def degree_figure(degree: Mapping[str, int], width: int = MEDIUM) -> str | None:
    """Documents by their number of kept pairs. None if there are no documents."""
    counts = {int(pairs): documents for pairs, documents in degree.items()}
    if not sum(counts.values()):
        return None

    def draw(axes: Axes) -> None:
        axes.bar(list(counts), list(counts.values()), 0.8, color=PALETTE["sbp"])
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        axes.set_xlim(-0.7, max(counts) + 0.7)
        axes.set_xlabel("kept pairs of a document")
        axes.set_ylabel("documents")

    label = f"Kept pairs per document, {counts.get(0, 0):,} documents with none"
    return draw_svg("degree", label, width, 250, draw)


def short_name(name: str, length: int = _NAME) -> str:
    """The name of an arm or a stage, short enough for a figure, without what cannot be drawn."""
    label = arm_label(name)
    drawable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in label)
    half = length // 2  # many names begin alike
    middle = f"{drawable[:half]}\N{HORIZONTAL ELLIPSIS}{drawable[half + 1 - length :]}"
    return drawable if len(drawable) <= length else middle


def spoken_name(name: str) -> str:
    """The same for those who hear what a figure shows, and see no room that is too small."""
    return short_name(name, _SPOKEN)


def row_name(name: str) -> str:
    """The same for a row of its own: on two lines where one is too short."""
    return textwrap.fill(short_name(name, 2 * _NAME), _NAME)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _numbers(values: Iterable[Any]) -> list[float]:
    return [value for value in values if _number(value)]


def short_number(value: float) -> str:
    """1,500,000 as `1.5M`."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def write_label(
    axes: Axes, place: tuple[float, float], text: str, shift: tuple[float, float], **style: Any
) -> None:
    axes.annotate(text, place, shift, textcoords="offset points", annotation_clip=False, **style)


def draw_svg(name: str, label: str, width: int, height: int, draw: Callable[[Axes], None]) -> str:
    """What `draw` draws, `width` x `height` CSS pixels; ids are unique to `name` and `width`."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        size = 11 if width <= NARROW else 12.5
        matplotlib.rcParams.update(_STYLE)
        matplotlib.rcParams.update({"svg.hashsalt": f"{name} {width}", "font.size": size})
        matplotlib.rcParams.update(dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), size))
        matplotlib.rcParams.update({"axes.labelsize": size, "legend.fontsize": size})
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    referenced = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in referenced else "", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", _FONTS, svg)
    svg = re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)
