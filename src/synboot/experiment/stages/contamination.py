"""contamination: which items of evaluation tasks stand in training text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synboot.data.documents import Documents
from synboot.eval.contamination import ItemWindows, find_windows, item_windows
from synboot.experiment.stages.corpus import (
    oracle_documents,
    training_documents,
    unique_documents,
)
from synboot.experiment.stages.items import read_task_items
from synboot.experiment.stages.process import ranges, set_threads
from synboot.pipeline.stage import Artifact, Context, Counts, Stage

SYNTHETIC = "synthetic"
"""How names of a run's synthetic texts begin."""


class ContaminationStage(Stage):
    """Looks for the items of tasks in training text; nothing is removed by what it finds.

    Config: `sources`, which texts of a run are looked through: unique; oracle, which is
    `oracle_multiple` times as much real text; synthetic, and synthetic of other arms and seeds,
    whose inputs are `synthesize` with the same rest of the name. Or names of a user's texts, whose
    documents are the inputs `text NAME`.
    """

    name = "contamination"
    version = 1

    def enter(self) -> None:
        """One thread a process."""
        set_threads(1)

    def prepare(self, context: Context, directory: Path) -> None:
        """The windows of all items."""
        found = item_windows([item.text for item in read_task_items(context.inputs["items"])])
        for name in ("hashes", "num_words", "items"):
            np.save(directory / f"{name}.npy", getattr(found, name))

    def _windows(self, context: Context) -> ItemWindows:
        total = sum(context.inputs["items"].counts["items"].values())
        arrays = (
            np.load(context.prepared / f"{name}.npy", allow_pickle=False)
            for name in ("hashes", "num_words", "items")
        )
        return ItemWindows(total, *arrays)

    def num_parts(self, context: Context) -> int:
        """Ranges of texts of one source each."""
        return len(self._ranges(context))

    def _ranges(self, context: Context) -> list[tuple[str, int, int]]:
        size = self.numerics["part_documents"]
        return [
            (text, first + start, first + stop)
            for text, first, last in self._texts(context)
            for start, stop in ranges(last - first, size)
        ]

    def _texts(self, context: Context) -> list[tuple[str, int, int]]:
        """(text, first document, document after the last); the oracle's text begins with the unique
        budget, which is read once."""
        sources, inputs = self.config["sources"], context.inputs
        if "corpus" not in inputs:
            return [(name, 0, len(_given(context, name))) for name in sources]
        unique = len(unique_documents(inputs))
        texts = [("unique", 0, unique)]
        if "oracle" in sources:
            last = oracle_documents(inputs["tokens"], self.config["oracle_multiple"])
            texts.append(("oracle", unique, max(unique, last)))
        synthetic = [name for name in sources if name.startswith(SYNTHETIC)]
        return texts + [(n, 0, _synthetic(context, n).metadata.num_rows) for n in synthetic]

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        """Which windows stand in a range of texts."""
        text, start, stop = self._ranges(context)[index]
        found = find_windows(self._windows(context), self._read(context, text, start, stop))
        np.save(directory / "found.npy", found)
        return {"source": text, "documents": stop - start, "found": int(found.sum())}

    def _read(self, context: Context, text: str, start: int, stop: int) -> Iterator[str]:
        if "corpus" not in context.inputs or not text.startswith(SYNTHETIC):
            given = "corpus" not in context.inputs
            documents = _given(context, text) if given else training_documents(context.inputs)
            yield from documents.texts(start, stop)
            return
        place = 0
        for batch in _synthetic(context, text).iter_batches(columns=["text"]):
            first, last = max(start - place, 0), max(stop - place, 0)
            yield from batch["text"][first:last].to_pylist()
            place += batch.num_rows

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write contamination.parquet: task, id, windows (0 where an item is too short), and how
        many of them each source has."""
        windows = self._windows(context)
        masks = {name: np.zeros(len(windows.hashes), dtype=bool) for name in self.config["sources"]}
        for (text, _, _), part in zip(self._ranges(context), parts, strict=True):
            found = np.load(part / "found.npy", allow_pickle=False)
            for name in masks:
                if name == text or (
                    name == "oracle" and text == "unique" and "corpus" in context.inputs
                ):
                    masks[name] |= found
        items = pq.read_table(context.inputs["items"].file("items.parquet"), columns=["task", "id"])
        own = {name: windows.per_item(mask) for name, mask in masks.items()}
        total = windows.per_item(np.ones(len(windows.items), dtype=bool))
        columns = {"windows": total, **{f"found_{name}": count for name, count in own.items()}}
        for name, values in columns.items():
            items = items.append_column(name, pa.array(values))
        pq.write_table(items, context.directory / "contamination.parquet")
        task_of = np.array(items["task"].to_pylist(), dtype=object)
        counts = {
            task: {
                "items": int((task_of == task).sum()),
                "too_short": int(((task_of == task) & (total == 0)).sum()),
                "contaminated": {
                    name: int(((task_of == task) & (count > 0)).sum())
                    for name, count in own.items()
                },
            }
            for task in dict.fromkeys(task_of.tolist())
        }
        return {"tasks": counts, "flops": 0}


def _synthetic(context: Context, name: str) -> pq.ParquetFile:
    """A synthetic text of a run."""
    made = context.inputs[name.replace(SYNTHETIC, "synthesize", 1)]
    return pq.ParquetFile(made.file("synthetic.parquet"))


def _given(context: Context, name: str) -> Documents:
    """The documents of one of a user's texts."""
    return Documents(context.inputs[f"text {name}"].file("train.arrow"))


def read_contaminated(artifact: Artifact, source: str | None = None) -> dict[str, np.ndarray]:
    """Which items of each task have a window in `source`, by default in any, bool [items]."""
    table = pq.read_table(artifact.file("contamination.parquet"))
    names = [name for name in table.column_names if name.startswith("found_")]
    if source is not None:
        names = [f"found_{source}"]
    found = np.any([table[name].to_numpy() > 0 for name in names], axis=0)
    task_of = np.array(table["task"].to_pylist(), dtype=object)
    return {task: found[task_of == task] for task in dict.fromkeys(task_of.tolist())}
