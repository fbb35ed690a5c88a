"""evaluate: what a model is worth on held-out text, or on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from synboot.core.errors import BadInput
from synboot.experiment.stages.evaluation import EvaluateStage
from synboot.verbs.answering import Files, answer
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
    corpus: Corpus | None,
    output: str | Path,
    *,
    task: Files | None = None,
    kind: str | None = None,
    prompt: str | None = None,
    delimiter: str = " ",
    remove_prefix: str = "",
    category_field: str | None = None,
    limit: int | None = None,
    against: Files | None = None,
    harness: bool = False,
    seed: int = 0,
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

    Writes the Parquet file `output`: id, num_tokens, num_bytes, nats, group (of `group_field`: then
    `report` counts whole groups, not documents). Counts: documents, tokens, bits_per_byte,
    nats_per_token, flops. Documents are scored alone, in float32, long ones in windows that move by
    half a context.

    With `task` and no corpus, the items of task files (NAME=FILE, or named as the file) are
    answered instead. `kind`, `prompt`, `delimiter`, `remove_prefix` and `category_field` say how
    they are read and put to the model (`experiment.task_recipe.TaskConfig`); `limit` takes a subset
    keyed by `seed`; with `harness`, lm-evaluation-harness reads the likelihoods. `output` has a row
    an item: nats of every choice, its tokens, bytes and characters, and the choice by each score;
    with `against`, training texts (NAME=CORPUS), how many of the item's windows of 13 words stand
    in each. Counts: tasks, contamination, without_contaminated. Raises BadInput.
    """
    form = {
        "kind": kind,
        "prompt": prompt,
        "delimiter": delimiter,
        "remove_prefix": remove_prefix,
        "category_field": category_field,
    }
    if task is not None and task != []:
        if corpus:
            raise BadInput("expected either a corpus or task, got both")
        return answer(
            model,
            task,
            output,
            form=form,
            limit=limit,
            against=against,
            harness=harness,
            seed=seed,
            context=context,
            workers=workers,
            threads=threads,
            device=device,
            overwrite=overwrite,
            quiet=quiet,
            **reading,
        )
    if not corpus:
        raise BadInput("expected a corpus, or task (--task FILE)")
    more = {"limit": limit, "against": against or None, "harness": harness, "seed": seed}
    unset = {"delimiter": " ", "remove_prefix": "", "harness": False, "seed": 0}
    if given_of_tasks := [
        name for name, value in {**form, **more}.items() if value != unset.get(name)
    ]:
        raise BadInput(f"{', '.join(given_of_tasks)}: only with task")
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
