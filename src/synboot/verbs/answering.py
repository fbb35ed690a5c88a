"""evaluate --task: what a model does with choices, minimal pairs and last words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from synboot.core.config import validate
from synboot.core.errors import BadInput
from synboot.eval.harness import harness_version
from synboot.experiment.stages.contamination import ContaminationStage
from synboot.experiment.stages.tasks import TasksStage
from synboot.experiment.task_plan import items_stage
from synboot.experiment.task_recipe import NAME, TaskConfig
from synboot.experiment.task_section import answer_lines
from synboot.pipeline.stage import Stage
from synboot.verbs.inputs import Reading, documents_stage, given_model, machine
from synboot.verbs.work import Outcome, complete, output_path, publish_parquet

Files = str | Path | Sequence[str | Path]
"""Files, each NAME=FILE or named by itself."""


def answer(
    model: str | Path,
    tasks: Files,
    output: str | Path,
    *,
    form: Mapping[str, Any],
    limit: int | None,
    against: Files | None,
    harness: bool,
    seed: int,
    context: int | None,
    workers: int | None,
    threads: int | None,
    device: str | None,
    overwrite: bool,
    quiet: bool,
    **reading: Unpack[Reading],
) -> Outcome:
    """The items of task files answered by the causal LM in `model`, and looked for in the text of
    `against`; see `synboot.evaluate`. `form`: fields of TaskConfig. Raises BadInput."""
    path = output_path(output, ".parquet")
    own = machine(workers=workers, threads=threads, device=device)
    given = given_model(model, context)
    configs = [
        validate(TaskConfig, {"name": name, "path": file, "limit": limit, **form}, "task")
        for name, file in _named("task", tasks).items()
    ]
    items = items_stage(configs, {}, seed=seed)
    if items is None:
        raise BadInput("task: expected a file of items at least")
    stages: list[Stage] = [items]
    inputs: dict[str, Stage] = {"items": items}
    if against:
        texts: dict[str, Stage] = {
            name: documents_stage({"train": file}, reading, path, seed=seed)
            for name, file in _named("against", against).items()
        }
        looked = ContaminationStage(
            {"sources": list(texts)},
            {"items": items, **{f"text {name}": stage for name, stage in texts.items()}},
            seed=seed,
            numerics=own.numerics.parts,
        )
        stages += [*texts.values(), looked]
        inputs["contamination"] = looked
    stage = TasksStage(
        {"model": given.settings, **({"harness": harness_version()} if harness else {})},
        inputs,
        seed=seed,
        numerics=own.numerics.scoring,
        model_directory=given.directory,
    )
    outcome = complete(
        "evaluate",
        path,
        [*stages, stage],
        lambda made, stamp: publish_parquet(made[stage.id].file("tasks.parquet"), path, stamp),
        workers=own.runtime.workers,
        overwrite=overwrite,
        quiet=quiet,
        facts={"model": {"id": given.name, "counts": (given.made_by() or {}).get("counts", {})}},
    )
    return replace(outcome, text=answer_lines(outcome.counts))


def _named(option: str, files: Files) -> dict[str, str]:
    """Files by name: NAME=FILE, or the file's own name before its first dot, of `*` its folder's.

    What stands before an equals sign is a name if it can be one, and no file or folder is there
    with that sign."""
    named: dict[str, str] = {}
    for given in map(str, [files] if isinstance(files, (str, Path)) else files):
        name, equals, file = given.partition("=")
        path = Path(given)
        there = path.exists() or ("=" in str(path.parent) and path.parent.exists())
        if not equals or there or not re.fullmatch(NAME, name):
            own = path.parent.name if "*" in path.name else path.name
            name, file = own.split(".")[0], given
        if not name:
            raise BadInput(f"{option} {given}: its name says nothing; say NAME=FILE")
        if name in named:
            raise BadInput(f"{option} {given}: the name {name!r} is taken; say NAME=FILE")
        named[name] = file
    return named
