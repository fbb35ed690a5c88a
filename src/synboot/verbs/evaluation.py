"""evaluate: what a model is worth on held-out text."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from synboot.experiment.stages.evaluation import EvaluateStage
from synboot.verbs.inputs import (
    Corpus,
    Reading,
    documents_stage,
    given_model,
    machine,
    token_stages,
)
from synboot.verbs.work import Outcome, complete, output_path, publish_parquet


def evaluate(
    model: str | Path,
    corpus: Corpus,
    output: str | Path,
    *,
    context: int | None = None,
    workers: int | None = 1,
    threads: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **reading: Unpack[Reading],
) -> Outcome:
    """Score every document of `corpus` under the causal LM in `model`: its test files where it
    names splits, else all of it.

    Writes the Parquet file `output`: id, num_tokens, num_bytes, nats. Counts: documents, tokens,
    bits_per_byte, nats_per_token, flops. Documents are scored alone, in float32, long
    ones in windows that move by half a context. Raises BadInput.
    """
    path = output_path(output, ".parquet")
    own = machine(workers=workers, threads=threads, device=device)
    given = given_model(model, context)
    documents = documents_stage({"test": corpus}, reading, path, seed=0)
    inputs = token_stages(documents, own, model=given.directory)
    stage = EvaluateStage(
        {"split": "test", "model": given.settings},
        inputs,
        seed=0,
        numerics=own.numerics.scoring,
        model_directory=given.directory,
    )
    return complete(
        "evaluate",
        path,
        [*inputs.values(), stage],
        lambda made, stamp: publish_parquet(made[stage.id].file("scores.parquet"), path, stamp),
        workers=own.runtime.workers,
        overwrite=overwrite,
        quiet=quiet,
        facts={"model": {"id": given.name, "counts": (given.made_by() or {}).get("counts", {})}},
    )
