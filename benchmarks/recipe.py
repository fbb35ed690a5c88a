"""A recipe from corpus to report with 1, 2, 4 and 8 times the text: seconds of every stage.

Corpus, unique budget, training tokens and so the synthetic corpus grow together, on documents that
are made here. The result of a stage is its time with the most text beside so many times its time
with the least: a ratio of 1 and more means that the stage grows no faster than its work. Exact
neighbours compare all documents with all, which grows with the square. What costs the same at every
size would hide such growth, so the last doubling stands beside it. recipe.svg shows all sizes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness import Result, Setting, compare, note
from benchmarks.texts import topics
from synboot.core.config import validate
from synboot.core.events import QuietDisplay, read_events
from synboot.experiment.recipe import Recipe
from synboot.experiment.run import RunPaths, run_recipe

SIZES = (1, 2, 4, 8)
_WARM = 0.3
_DOCUMENTS = 400
_MEAN_WORDS = 40
_UNIQUE_TOKENS = 12_000
_TRAINING_TOKENS = 36_000
_PEER = "linear growth"


def run(setting: Setting) -> list[Result]:
    """The whole recipe at every size, one after the other."""
    sizes, scale = (SIZES[:2], 0.4) if setting.quick else (SIZES, 1.0)
    stage_seconds(_WARM, setting.threads)  # what a process does once
    seconds: dict[str, list[float]] = defaultdict(list)
    for size in sizes:
        start = time.perf_counter()
        for stage, value in stage_seconds(size * scale, setting.threads).items():
            seconds[stage].append(value)
        note(f"recipe: {size}x in {time.perf_counter() - start:.0f} s")
    print(table(sizes, seconds), flush=True)
    if not setting.quick:
        save_plot(sizes, seconds, setting.out / "recipe.svg")
    return growth(sizes, seconds)


def growth(sizes: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> list[Result]:
    """Of every stage from the least to the most text, and from the last but one."""
    results = []
    for stage, values in seconds.items():
        title = f"{stage} (quadratic)" if stage == "neighbours" else stage
        for first in dict.fromkeys((0, len(sizes) - 2)):
            case = f"{title}, {sizes[first]}x to {sizes[-1]}x"
            medians = {"ours": values[-1], _PEER: values[first] * sizes[-1] / sizes[first]}
            results += compare("recipe", case, medians, unit="s")
    return results


def stage_seconds(scale: float, threads: int) -> dict[str, float]:
    """Seconds of each kind of stage, the arms together, in a run of `scale` times the text."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        texts = topics(round(_DOCUMENTS * scale), mean_words=_MEAN_WORDS)
        with (directory / "corpus.jsonl").open("w", encoding="utf-8") as file:
            for number, text in enumerate(texts):
                file.write(json.dumps({"id": str(number), "text": text}) + "\n")
        recipe = _recipe(directory / "corpus.jsonl", scale, threads)
        run_recipe(recipe, directory / "runs", display=QuietDisplay())
        seconds: dict[str, float] = defaultdict(float)
        for event in read_events(RunPaths(directory / "runs", recipe.name).events):
            if event["event"] == "stage_done":
                seconds[event["stage"]] += event["seconds"]
    return dict(seconds)


def _recipe(corpus: Path, scale: float, threads: int) -> Recipe:
    loop = {"learning_rate": 4e-3, "batch_rows": 8, "num_validations": 2}
    # Every text is kept: how many a model must draw would else depend on how well it was trained.
    filters = {"keep_unfinished": True, "min_tokens": 1} | dict.fromkeys(
        ("max_repetition", "max_seed_overlap", "max_corpus_overlap", "max_draw_overlap"), 1
    )
    values = {
        "name": "growing",
        "corpus": {"path": str(corpus)},
        "tokenizer": {"vocab_size": 1024},
        "budget": {
            "unique_tokens": round(_UNIQUE_TOKENS * scale),
            "training_tokens": round(_TRAINING_TOKENS * scale),
            "synthetic_share": 0.25,
        },
        "model": {"preset": "0.6m", "context": 128},
        "pretrain": loop,
        "pairs": {"dimensions": 64, "top_k": 10, "min_similarity": 0, "max_pairs_per_document": 2},
        "tune": loop | {"learning_rate": 1e-3, "passes": 1},
        "synthesize": {"filters": filters, "max_draws_per_seed": 200},
        "runtime": {"workers": threads, "threads": threads, "device": "cpu"},
    }
    return validate(Recipe, values, "benchmarks.recipe")


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The power of the size by which seconds grow, over all sizes; 1 is in proportion."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-3)), 1)[0])


def table(sizes: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> str:
    """Seconds by stage and size."""
    lines = ["| stage, seconds | " + " | ".join(f"{size}x" for size in sizes) + " | slope |"]
    lines.append("|---" * (len(sizes) + 2) + "|")
    rows = dict(seconds) | {
        "in all": [sum(column) for column in zip(*seconds.values(), strict=True)]
    }
    for stage, values in rows.items():
        cells = " | ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {stage} | {cells} | {slope(sizes, values):.2f} |")
    return "\n".join(lines)


def save_plot(sizes: Sequence[int], seconds: Mapping[str, Sequence[float]], path: Path) -> None:
    """Seconds by stage against size, both axes logarithmic, SVG."""
    mpl.rcParams["svg.hashsalt"] = "synboot"
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (stage, values) in enumerate(seconds.items()):
        style = ("-", "--")[number // 10]
        label = f"{stage}: {slope(sizes, values):.2f}"
        axes.loglog(sizes, values, style, marker="o", markersize=4, label=label)
    axes.set_xticks(sizes, [f"{size}x" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("size of corpus and budgets")
    axes.set_ylabel("seconds")
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.legend(title="stage: slope", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
