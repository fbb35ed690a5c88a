"""evaluate: the held-out likelihood of one trained model, document by document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import TokenStore
from synboot.eval.likelihood import score_documents, windows_of
from synboot.experiment.stages.corpus import heldout_documents
from synboot.experiment.stages.process import ranges, set_threads
from synboot.experiment.statistics.scores import Scores
from synboot.model.architecture import load_model
from synboot.model.flops import forward_flops, known_cost
from synboot.pipeline.stage import Context, Counts, Stage, part_counts


class ScoringStage(Stage):
    """Reads one checkpoint of one arm, or a user's model, in float32 wherever it was trained."""

    max_workers = 1  # one process with all threads

    def __init__(
        self, *arguments: Any, model_directory: Path | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.model_directory = model_directory
        """A user's model, in place of the run's; the config has the digest of its content."""
        self._models: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_models": []}

    def _directories(self, context: Context) -> list[Path]:
        """Of the models whose probabilities are scored, or their mean."""
        given = self.model_directory
        return [given or context.inputs["pretrain"].file(self.config["checkpoint"])]

    def _load(self, context: Context) -> list[Any]:
        """The models, once in a process."""
        self._models = self._models or [load_model(path) for path in self._directories(context)]
        return self._models

    def enter(self) -> None:
        """As many threads as training has."""
        set_threads(self.numerics["threads"])


class EvaluateStage(ScoringStage):
    """Scores the documents of a held-out split."""

    name = "evaluate"
    version = 3

    def num_parts(self, context: Context) -> int:
        """Ranges of documents."""
        return len(self._ranges(context))

    def _ranges(self, context: Context) -> list[tuple[int, int]]:
        documents = heldout_documents(context.inputs["corpus"], self.config["split"])
        return ranges(len(documents), self.numerics["part_documents"])

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        """The scores of a range of documents."""
        split, length = self.config["split"], self.config["model"]["context"]
        start, stop = self._ranges(context)[index]
        documents = heldout_documents(context.inputs["corpus"], split)
        store = TokenStore(context.inputs["tokens"].file(split))
        tokenizer = TextTokenizer.load(context.inputs["tokenizer"].path)
        models = self._load(context)
        found = score_documents(
            models,
            [store[i][:-1] for i in range(start, stop)],
            documents.texts(start, stop),
            context=length,
            end_id=tokenizer.end_id,
            start_id=tokenizer.start_id,
            device=torch.device(self.numerics["device"]),
            progress=context.advance,
        )
        table = pa.table(
            {
                "id": documents.ids(start, stop),
                "num_tokens": found.num_tokens,
                "num_bytes": found.num_bytes,
                "nats": found.nats,
                "group": pa.array(documents.groups(start, stop), pa.string()),
            }
        )
        pq.write_table(table, directory / "scores.parquet")
        windows = [
            window.stop - window.start
            for document, num_tokens in enumerate(found.num_tokens.tolist())
            for window in windows_of(document, num_tokens, length)
        ]
        costs = [known_cost(model) for model in models]
        flops = [sum(forward_flops(cost, 0, size) for size in windows) for cost in costs if cost]
        return {"documents": stop - start, "flops": None if None in costs else sum(flops)}

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write scores.parquet: id, num_tokens, num_bytes, nats, group (null where none)."""
        self._models = []
        table = pa.concat_tables([pq.read_table(part / "scores.parquet") for part in parts])
        pq.write_table(table, context.directory / "scores.parquet")
        flops = [part_counts(part)["flops"] for part in parts]
        scores = read_scores(context.directory / "scores.parquet")
        return {
            "documents": len(scores.ids),
            "tokens": int(scores.num_tokens.sum()),
            "flops": None if None in flops else sum(flops),
            "bits_per_byte": scores.bits_per_byte(),
            "nats_per_token": scores.nats_per_token(),
        }


class EnsembleStage(EvaluateStage):
    """Scores the mean probability of an arm's training seeds, inputs `pretrain_0`, `pretrain_1`,
    ...: a reference that costs as many times as much to train and to use."""

    name = "ensemble"
    version = 1

    def _directories(self, context: Context) -> list[Path]:
        seeds = [name for name in context.inputs if name.startswith("pretrain_")]
        return [context.inputs[name].file(self.config["checkpoint"]) for name in seeds]


def read_scores(file: Path) -> Scores:
    """The per-document table of an evaluation."""
    table = pq.read_table(file)
    groups = table["group"].to_pylist() if "group" in table.column_names else []
    return Scores(
        ids=table["id"].to_pylist(),
        num_tokens=table["num_tokens"].to_numpy(),
        num_bytes=table["num_bytes"].to_numpy(),
        nats=table["nats"].to_numpy(),
        groups=groups if any(group is not None for group in groups) else None,
    )
