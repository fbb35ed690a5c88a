"""evaluate: the held-out likelihood of one trained model, document by document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import TokenStore
from synboot.eval.likelihood import score_documents, windows_of
from synboot.experiment.stages.corpus import heldout_documents
from synboot.experiment.stages.process import set_threads
from synboot.experiment.statistics import Scores
from synboot.model.architecture import load_model, shape_of
from synboot.model.flops import cost_of_shape, forward_flops
from synboot.pipeline.stage import Artifact, Context, Counts, Stage


class EvaluateStage(Stage):
    """Scores one checkpoint of one arm on a held-out split, in float32 wherever it was trained."""

    name = "evaluate"
    version = 1

    def enter(self) -> None:
        """As many threads as training has."""
        set_threads(self.numerics["threads"])

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write scores.parquet: id, num_tokens, num_bytes, nats."""
        split, length = self.config["split"], self.config["model"]["context"]
        documents = heldout_documents(context.inputs["corpus"], split)
        texts = documents.texts(0, len(documents))
        store = TokenStore(context.inputs["tokens"].file(split))
        tokenizer = TextTokenizer.load(context.inputs["tokenizer"].path)
        found = score_documents(
            load_model(context.inputs["pretrain"].file(self.config["checkpoint"])),
            [store[i][:-1] for i in range(len(store))],
            texts,
            context=length,
            end_id=tokenizer.end_id,
            device=torch.device(self.numerics["device"]),
            progress=context.advance,
        )
        table = pa.table(
            {
                "id": documents.ids(0, len(documents)),
                "num_tokens": found.num_tokens,
                "num_bytes": found.num_bytes,
                "nats": found.nats,
            }
        )
        pq.write_table(table, context.directory / "scores.parquet")
        cost = cost_of_shape(shape_of(self.config["model"]["preset"]), tokenizer.vocab_size)
        windows = (
            window.stop - window.start
            for document, num_tokens in enumerate(found.num_tokens.tolist())
            for window in windows_of(document, num_tokens, length)
        )
        return {
            "documents": len(documents),
            "tokens": int(found.num_tokens.sum()),
            "flops": sum(forward_flops(cost, 0, size) for size in windows),
            "bits_per_byte": found.bits_per_byte,
        }


def read_scores(evaluation: Artifact) -> Scores:
    """The per-document table of an evaluation."""
    table = pq.read_table(evaluation.file("scores.parquet"))
    return Scores(
        ids=table["id"].to_pylist(),
        num_tokens=table["num_tokens"].to_numpy(),
        num_bytes=table["num_bytes"].to_numpy(),
        nats=table["nats"].to_numpy(),
    )
