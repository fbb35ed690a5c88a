"""The stages of a run's evaluation tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synboot.data.files import DataFile, bytes_digest, list_files
from synboot.experiment.arms import arm_names
from synboot.experiment.numerics import Numerics
from synboot.experiment.recipe import Recipe
from synboot.experiment.stages.contamination import SYNTHETIC, ContaminationStage
from synboot.experiment.stages.items import ITEM_SOURCES, ItemsStage
from synboot.experiment.stages.tasks import TasksStage
from synboot.experiment.task_recipe import TaskConfig
from synboot.pipeline.stage import Stage


def items_stage(
    tasks: Sequence[TaskConfig],
    inputs: Mapping[str, Stage],
    *,
    seed: int,
    content: Mapping[str, str] | None = None,
    world: str | None = None,
) -> ItemsStage | None:
    """The items of task files, and of a world that sets a task; None where there are none.

    Reads the files once, for the digests of their bytes, unless those are known as `content` by
    task and nothing will be run. `inputs` are those that a world's task needs. Raises BadInput.
    """
    files: dict[str, list[DataFile]] = {}
    config: dict[str, Any] = {"tasks": {}}
    for task in tasks:
        path = task.path if isinstance(task.path, str) else list(task.path)
        files[task.name] = list_files(path) if content is None else []
        own = bytes_digest({None: files[task.name]}) if content is None else content[task.name]
        config["tasks"][task.name] = {"content": own, "limit": task.limit, **task.form()}
    if world in ITEM_SOURCES:
        config["world"] = world
    elif not tasks:
        return None
    return ItemsStage(config, inputs if "world" in config else {}, seed=seed, files=files)


def contamination_stage(
    recipe: Recipe,
    items: Stage,
    corpus: Mapping[str, Stage],
    chains: Mapping[tuple[str, int], Mapping[str, Stage]],
    numerics: Numerics,
) -> ContaminationStage:
    """Looks for items in all that a run's arms train on: the unique budget, the most of real text
    that an arm has, and each synthetic text of `chains` (by arm and training seed)."""
    config: dict[str, Any] = {"sources": ["unique"]}
    inputs = {"items": items, **corpus}
    experiment = recipe.experiment
    multiples: list[float | str] = [*experiment.repetition_multiples]
    if "oracle" in map(experiment.kind_of, arm_names(experiment)):
        multiples.append(recipe.budget.oracle_multiple)
    if multiples:
        config["sources"].append("oracle")
        config["oracle_multiple"] = "max" if "max" in multiples else max(map(float, multiples))
    known: set[str] = set()
    for (arm, seed), chain in chains.items():
        text = chain.get("synthesize")  # paired real documents are none of their own
        if text is None or text.id in known:
            continue
        known.add(text.id)
        name = "" if arm == "sbp" else f" {arm}"
        name += "" if seed == experiment.seeds[0] else f", seed {seed}"
        config["sources"].append(f"{SYNTHETIC}{name}")
        inputs[f"synthesize{name}"] = text
    return ContaminationStage(config, inputs, seed=recipe.seed, numerics=numerics.parts)


def tasks_stage(
    recipe: Recipe,
    run: tuple[str, int],
    items: Stage,
    pretrain: Stage,
    corpus: Mapping[str, Stage],
    numerics: Numerics,
) -> TasksStage:
    """One arm's answers, read at the checkpoint rule of all arms."""
    return TasksStage(
        {
            "checkpoint": recipe.evaluate.checkpoint,
            "model": recipe.model.model_dump(mode="json"),
        },
        {"items": items, "tokenizer": corpus["tokenizer"], "pretrain": pretrain},
        seed=recipe.seed,
        numerics=numerics.scoring,
        label=f"tasks {run[0]}, seed {run[1]}",
    )
