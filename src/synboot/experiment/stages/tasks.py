"""tasks: the items of evaluation tasks answered by one model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from synboot.data.tokenizer import TextTokenizer
from synboot.eval.choices import Request, encode_requests, score_requests
from synboot.eval.harness import harness_answers, require_readable
from synboot.eval.tasks import Item
from synboot.experiment.stages.contamination import read_contaminated
from synboot.experiment.stages.evaluation import ScoringStage
from synboot.experiment.stages.items import read_task_items
from synboot.experiment.stages.process import ranges
from synboot.experiment.task_scores import NORMALISATIONS, TaskScores, summary
from synboot.model.flops import forward_flops, known_cost
from synboot.pipeline.stage import Context, Counts, part_counts

_SCORES = pa.schema(
    {
        **{name: pa.string() for name in ("task", "id", "category")},
        "gold": pa.int64(),
        "nats": pa.list_(pa.float64()),
        "num_tokens": pa.list_(pa.int64()),
        "num_bytes": pa.list_(pa.int64()),
        "num_characters": pa.list_(pa.int64()),
        "greedy": pa.bool_(),
        **{f"prediction_{name}": pa.int64() for name in NORMALISATIONS},
    }
)


class TasksStage(ScoringStage):
    """Answers all items; through lm-evaluation-harness if the config names its version as
    `harness`. With an input `contamination` its counts also tell what is left without the
    contaminated items."""

    name = "tasks"
    version = 1

    def num_parts(self, context: Context) -> int:
        """Ranges of items; one for the harness, which loads the model anew for each."""
        return len(self._ranges(context))

    def _ranges(self, context: Context) -> list[tuple[int, int]]:
        total = sum(context.inputs["items"].counts["items"].values())
        return ranges(total, total if "harness" in self.config else self.numerics["part_documents"])

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        """The scores of a range of items."""
        start, stop = self._ranges(context)[index]
        items = read_task_items(context.inputs["items"], start, stop)
        names = pq.read_table(context.inputs["items"].file("items.parquet"), columns=["task"])
        tasks = names["task"][start:stop].to_pylist()
        given = self.model_directory
        tokenizer = TextTokenizer.load(given or context.inputs["tokenizer"].path)
        requests = encode_requests(tokenizer, [pair for item in items for pair in item.pairs])
        flops = None
        if "harness" in self.config and given is not None:
            require_readable(tokenizer, items, requests, self.config["model"]["context"])
            nats, greedy = self._by_harness(given, tasks, items)
        else:
            nats, greedy, flops = self._by_model(context, items, requests)
        bounds = itertools.pairwise(np.cumsum([0, *(len(item.choices) for item in items)]).tolist())
        num_tokens = np.array([len(request.continuation) for request in requests])
        rows = [
            _row(task, item, nats[a:b], num_tokens[a:b], greedy[a:b])
            for task, item, (a, b) in zip(tasks, items, bounds, strict=True)
        ]
        pq.write_table(pa.Table.from_pylist(rows, _SCORES), directory / "scores.parquet")
        return {"items": len(items), "tokens": int(num_tokens.sum()), "flops": flops}

    def _by_model(
        self, context: Context, items: Sequence[Item], requests: Sequence[Request]
    ) -> tuple[np.ndarray, np.ndarray, int | None]:
        (model,) = self._load(context)
        left = iter(requests)
        found = score_requests(
            model,
            [list(itertools.islice(left, len(item.choices))) for item in items],
            context=self.config["model"]["context"],
            device=torch.device(self.numerics["device"]),
            progress=context.advance,
        )
        cost = known_cost(model)
        flops = None if cost is None else sum(forward_flops(cost, *span) for span in found.spans)
        return found.nats, found.greedy, flops

    def _by_harness(
        self, directory: Path, tasks: Sequence[str], items: Sequence[Item]
    ) -> tuple[np.ndarray, np.ndarray]:
        by_task: dict[str, list[Item]] = {}
        for task, item in zip(tasks, items, strict=True):
            by_task.setdefault(task, []).append(item)
        context, device = self.config["model"]["context"], self.numerics["device"]
        found = harness_answers(directory, by_task, context=context, device=device)
        own = list(found.values())  # a task's items lie together
        return np.concatenate([a.nats for a in own]), np.concatenate([a.greedy for a in own])

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write tasks.parquet: for every item the nats of each choice and what is chosen by them,
        raw and over tokens, bytes and characters; from `contamination`, windows found."""
        self._models = []
        table = pa.concat_tables([pq.read_table(part / "scores.parquet") for part in parts])
        looked = context.inputs.get("contamination")
        if looked is not None:
            windows = pq.read_table(looked.file("contamination.parquet"))
            for name in windows.column_names[2:]:
                table = table.append_column(name, windows[name])
        pq.write_table(table, context.directory / "tasks.parquet")
        counted = [part_counts(part) for part in parts]
        flops = [counts["flops"] for counts in counted]
        scores = read_task_scores(context.directory / "tasks.parquet")
        counts: Counts = {
            "items": sum(counts["items"] for counts in counted),
            "tokens": sum(counts["tokens"] for counts in counted),
            "flops": None if None in flops else sum(flops),
            "tasks": {task: summary(own) for task, own in scores.items()},
        }
        if looked is not None:
            contaminated = read_contaminated(looked)
            counts["contamination"] = looked.counts["tasks"]
            counts["without_contaminated"] = {
                task: summary(own.chosen(~contaminated[task]))
                for task, own in scores.items()
                if not contaminated[task].all()
            }
        return counts


def _row(
    task: str, item: Item, nats: np.ndarray, num_tokens: np.ndarray, greedy: np.ndarray
) -> dict[str, Any]:
    sizes = {
        "raw": np.ones(len(nats)),
        "per_token": num_tokens,
        "per_byte": np.array([len(choice.encode()) for choice in item.choices]),
        "per_character": np.array([len(choice) for choice in item.choices]),
    }
    return {
        "task": task,
        "id": item.id,
        "category": item.category,
        "gold": item.gold,
        "nats": nats.tolist(),
        "num_tokens": num_tokens.tolist(),
        "num_bytes": sizes["per_byte"].tolist(),
        "num_characters": sizes["per_character"].tolist(),
        "greedy": bool(greedy[item.gold]),
        **{f"prediction_{name}": int(np.argmin(nats / sizes[name])) for name in NORMALISATIONS},
    }


def read_task_scores(file: Path) -> dict[str, TaskScores]:
    """What a TasksStage found, by task."""
    rows: dict[str, list[dict[str, Any]]] = {}
    unread = ("num_tokens", "num_characters")
    columns = [name for name in _SCORES.names if name not in unread]
    for row in pq.read_table(file, columns=columns).to_pylist():
        rows.setdefault(row["task"], []).append(row)
    return {task: TaskScores.of_rows(own) for task, own in rows.items()}
