"""items: evaluation tasks read from files, or set by a world."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.errors import BadInput
from synboot.data.documents import Documents
from synboot.data.files import DataFile, bytes_digest
from synboot.eval.tasks import Form, Item, items_of, read_items, subset
from synboot.experiment.stages.corpus import training_documents, unique_documents
from synboot.experiment.stages.process import ranges
from synboot.experiment.task_recipe import PROBES
from synboot.pipeline.stage import Artifact, Context, Counts, Stage
from synboot.worlds.facts.probes import attribute_probes

ItemSource = Callable[
    [Iterable[str], Iterable[str], int], Mapping[str, Sequence[Mapping[str, Any]]]
]
ITEM_SOURCES: dict[str, ItemSource] = {"facts": attribute_probes}
"""Tasks that a world sets itself, by the world's name: `source(texts of the unique budget, all
training texts, seed)` gives records as in a task file, by task. Their prompt is the plain query."""

_DOCUMENTS_AT_ONCE = 1024
_ITEMS = pa.schema(
    {
        "task": pa.string(),
        "id": pa.string(),
        "category": pa.string(),
        "context": pa.string(),
        "delimiter": pa.string(),
        "choices": pa.list_(pa.string()),
        "gold": pa.int64(),
        "text": pa.string(),
    }
)


class ItemsStage(Stage):
    """Reads task files, and asks a world for its own task.

    Config: `tasks` ({name: content (digest of its files' bytes), limit, and the fields of Form});
    `world`, if it sets tasks (ITEM_SOURCES), which are called `probes_NAME`.
    """

    name = "items"
    version = 1

    def __init__(
        self,
        config: Mapping[str, Any],
        inputs: Mapping[str, Stage],
        *,
        seed: int,
        files: Mapping[str, Sequence[DataFile]],
    ) -> None:
        super().__init__(config, inputs, seed=seed)
        self.files = dict(files)

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write items.parquet: task, id, category, context, delimiter, choices, gold, text."""
        found: dict[str, list[Item]] = {}
        for task, settings in sorted(self.config["tasks"].items()):
            form = {k: v for k, v in settings.items() if k not in ("content", "limit")}
            items = read_items(self.files[task], Form(**form))
            if bytes_digest({None: self.files[task]}) != settings["content"]:
                shown = ", ".join(file.path for file in self.files[task])
                raise BadInput(f"{shown}: changed while it was read; begin again")
            found[task] = subset(items, settings["limit"], self.seed, "task items")
        if "world" in self.config:
            found |= self._of_world(context)
        rows = [
            {"task": task, **{name: getattr(item, name) for name in _ITEMS.names[1:]}}
            for task, items in found.items()
            for item in items
        ]
        pq.write_table(pa.Table.from_pylist(rows, _ITEMS), context.directory / "items.parquet")
        return {"items": {task: len(items) for task, items in found.items()}, "flops": 0}

    def _of_world(self, context: Context) -> dict[str, list[Item]]:
        inputs = context.inputs
        unique, everything = unique_documents(inputs), training_documents(inputs)
        source = ITEM_SOURCES[self.config["world"]]
        set_by_it = source(_texts(unique), _texts(everything), self.seed)
        return {
            f"{PROBES}_{name}": items_of(
                (
                    (f"{name}, item {number}", f"{name}:{number}", functools.partial(dict, record))
                    for number, record in enumerate(records, 1)
                ),
                Form(prompt="plain"),
            )
            for name, records in sorted(set_by_it.items())
            if records
        }


def read_task_items(artifact: Artifact, start: int = 0, stop: int | None = None) -> list[Item]:
    """The items [start, stop) of an ItemsStage."""
    table = pq.read_table(artifact.file("items.parquet"))[start:stop].drop_columns(["task"])
    return [Item(**row | {"choices": tuple(row["choices"])}) for row in table.to_pylist()]


def _texts(documents: Documents) -> Iterator[str]:
    for start, stop in ranges(len(documents), _DOCUMENTS_AT_ONCE):
        yield from documents.texts(start, stop)
