"""out/results.svg: how many times better than each peer, and where the machine ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.harness import more_is_better

Row = Mapping[str, Any]

_OURS, _WORSE, _LIMIT = "#1f77b4", "#d62728", "#7f7f7f"


def save_plot(rows: Sequence[Row], path: Path) -> None:
    """Write `path`, SVG: a line for every case and peer of `rows` (as in results.json), by
    benchmark."""
    rows = sorted(
        rows, key=lambda row: (row["name"], row["threads"], row["quick"])
    )  # cases stay in their order
    mpl.rcParams["svg.hashsalt"] = "synboot"
    height = 1.4 + 0.24 * len(rows) + 0.3 * len({row["name"] for row in rows})
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1, color="black", linewidth=1)
    labels: list[tuple[float, str]] = []
    place, before = 0.0, None
    for row in rows:
        if row["name"] != before:
            place += 1.3
            labels.append((place, row["name"].replace("_", " ").upper()))
            before = row["name"]
        place += 1
        labels.append((place, _label(row)))
        ratio, ceiling = row["ratio"], ceiling_ratio(row)
        color = _OURS if ratio >= 1 else _WORSE
        axes.hlines(place, min(1, ratio), max(1, ratio), color=color, linewidth=1.2)
        axes.plot(ratio, place, "o", color=color, markersize=5)
        axes.annotate(
            f"{ratio:.2g}x", (ratio, place), (0, 3), textcoords="offset points",
            va="bottom", ha="center", fontsize=7, color=color,
        )  # fmt: skip
        if ceiling is not None:
            axes.plot(ceiling, place, "|", color=_LIMIT, markersize=11, markeredgewidth=2)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.5) / 1.3, max(high, 2) * 1.3)
    axes.set_yticks([at for at, _ in labels], [text for _, text in labels], fontsize=8)
    for text, (_, label) in zip(axes.get_yticklabels(), labels, strict=True):
        text.set_fontweight("bold" if label.isupper() else "normal")
    axes.set_ylim(place + 1, 0.3)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", which="both", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("times better than the peer (right of 1: synboot is)")
    axes.legend(
        handles=[
            Line2D([], [], color=_OURS, marker="o", markersize=5, label="better than the peer"),
            Line2D([], [], color=_WORSE, marker="o", markersize=5, label="worse"),
            Line2D([], [], color=_LIMIT, marker="|", markersize=11, markeredgewidth=2,
                   linestyle="none", label="limit of the machine"),
        ],
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=8,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})


def ceiling_ratio(row: Row) -> float | None:
    """The ratio that the limit of the machine would have; None where it was not measured."""
    if row["limit"] is None:
        return None
    more = more_is_better(row["unit"])
    return float(row["limit"] / row["peer"] if more else row["peer"] / row["limit"])


def _label(row: Row) -> str:
    threads = f", {row['threads']} threads" if row["threads"] > 1 else ""
    quick = ", quick" if row["quick"] else ""
    return f"{row['case']}{threads}{quick}: {row['peer_name']}"
