"""What results.md reads from finished runs beside their tables, on no test text but in `draw`.

python docs/experiment/readings.py context RUNS/NAME LABEL ...
    nats a token, by how many tokens before it the model is shown; LABEL as in `synboot status`
    ("pretrain sbp, seed 0")
python docs/experiment/readings.py early RUNS/NAME ...
    how a seed's validation loss on the way goes with its loss at the end, both less the mean of
    its arm's seeds
python docs/experiment/readings.py draw FOLDER RUNS/NAME ...
    the drawings of results.md: sizes.svg, and of each run NAME-curves.svg and NAME-efficiency.svg
python docs/experiment/readings.py unique RUNS/NAME FILE.parquet
    the documents of the unique budget
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from synboot.core.storage import read_json
from synboot.data.tokens import TokenStore
from synboot.experiment import figures, figures_statistics
from synboot.experiment.stages.corpus import unique_documents
from synboot.pipeline.stage import Artifact

CONTEXTS = (1, 2, 4, 8, 16, 64, 250)
TOKENS = 1500


def context(run: Path, labels: list[str]) -> None:
    """A Markdown table: a row a model, a column a context; the same tokens for all of them."""
    stages = _stages(run)
    store = TokenStore(stages["tokens"] / "valid")
    windows = _windows(store, max(CONTEXTS))
    print("| model | " + " | ".join(map(str, CONTEXTS)) + " |\n|" + "---|" * (len(CONTEXTS) + 1))
    for label in labels:
        model = AutoModelForCausalLM.from_pretrained(stages[label] / "best").eval()
        losses = [f"{_loss(model, windows[:, -1 - length :]):.3f}" for length in CONTEXTS]
        print(f"| {label} | " + " | ".join(losses) + " |", flush=True)


def early(runs: list[Path]) -> None:
    """A Markdown table: a row a twentieth of training, a column a run: Pearson's r."""
    columns = []
    for run in runs:
        stages, ways = _stages(run), []
        arms = read_json(run / "result.json")["arms"]
        for arm, facts in arms.items():
            own = [stages[f"pretrain {arm}, seed {seed}"] for seed in facts["seeds"]]
            losses = np.array(
                [[at["validation_loss"] for at in read_json(o / "history.json")] for o in own]
            )
            ways.append(losses - losses.mean(axis=0))
        apart = np.concatenate(ways)
        columns.append([np.corrcoef(way, apart[:, -1])[0, 1] for way in apart.T])
    print("| validation | " + " | ".join(run.name for run in runs) + " |")
    print("|" + "---|" * (len(runs) + 1))
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        print(f"| {number} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


def draw(folder: Path, runs: list[Path]) -> None:
    """Drawings as on the runs' pages, as files."""
    results = {run: read_json(run / "result.json") for run in runs}
    drawn = {"sizes": figures_statistics.sizes_figure(list(results.values()))}
    for run, result in results.items():
        stages = _stages(run)
        curves = [
            {
                "arm": arm,
                "points": read_json(stages[f"pretrain {arm}, seed {seed}"] / "history.json"),
            }
            for arm, facts in result["arms"].items()
            for seed in facts["seeds"]
        ]
        drawn[f"{run.name}-curves"] = figures.curves_figure(curves)
        drawn[f"{run.name}-efficiency"] = figures_statistics.efficiency_figure(result)
    for name, svg in drawn.items():
        if svg is not None:
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")


def unique(run: Path, file: Path) -> None:
    """The documents of the unique budget, as `synboot quality --corpus` takes them."""
    stages = _stages(run)
    opened = {name: Artifact.open(stages[name]) for name in ("corpus", "tokenizer")}
    inputs = {name: artifact for name, artifact in opened.items() if artifact is not None}
    rows = [{"id": each.id, "text": each.text} for each in unique_documents(inputs)]
    pq.write_table(pa.Table.from_pylist(rows), file)


def _stages(run: Path) -> dict[str, Path]:
    """Directories of a run's stages by label."""
    stages: list[dict[str, Any]] = read_json(run / "stages.json")
    return {stage["label"]: run.parent / stage["directory"] for stage in stages}


def _windows(store: TokenStore, length: int) -> torch.Tensor:
    """(TOKENS, length + 1): random places of documents that are longer than that."""
    draws = np.random.default_rng(0)
    long = np.flatnonzero(store.lengths() > length + 1)
    windows = []
    for document in draws.choice(long, TOKENS):
        ids = store[int(document)]
        end = int(draws.integers(length + 1, len(ids)))
        windows.append(ids[end - length - 1 : end].astype(np.int64))
    return torch.from_numpy(np.stack(windows))


@torch.inference_mode()
def _loss(model: Any, rows: torch.Tensor) -> float:
    """Mean loss of the last token of each row."""
    total = 0.0
    for some in rows.split(100):
        hidden = model.model(some[:, :-1]).last_hidden_state[:, -1]
        total += functional.cross_entropy(
            model.lm_head(hidden), some[:, -1], reduction="sum"
        ).item()
    return total / len(rows)


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["help"]
    if what == "context" and len(rest) > 1:
        context(Path(rest[0]), rest[1:])
    elif what == "draw" and len(rest) > 1:
        draw(Path(rest[0]), [Path(run) for run in rest[1:]])
    elif what == "unique" and len(rest) == 2:
        unique(Path(rest[0]), Path(rest[1]))
    elif what == "early" and rest:
        early([Path(run) for run in rest])
    else:
        sys.exit(__doc__)
