"""Runs a recipe to its result and report; says beforehand what it would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synboot.core.events import Display, EventLog
from synboot.core.storage import atomic_file, write_json
from synboot.experiment.plan import Plan, make_plan, planned_cost
from synboot.experiment.recipe import Recipe
from synboot.experiment.result import build_report_data
from synboot.experiment.stages.corpus import check_oracle
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import SCRATCH, Artifact, Stage
from synboot.pipeline.stop import StopFlag
from synboot.synth.engines import why_torch
from synboot.train.compiled import why_eager
from synboot.train.device import release_memory


@dataclass(frozen=True)
class RunPaths:
    """Where a run's files lie below the runs directory."""

    runs: Path
    name: str

    @property
    def store(self) -> Path:
        """Artifacts of all recipes, by stage and id."""
        return self.runs / "artifacts"

    @property
    def directory(self) -> Path:
        """What belongs to this recipe."""
        return self.runs / self.name

    @property
    def result(self) -> Path:
        """The machine-readable outcome."""
        return self.directory / "result.json"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.directory / "report.html"

    @property
    def events(self) -> Path:
        """What happened, over all starts of the run."""
        return self.directory / "events.jsonl"


def run_recipe(
    recipe: Recipe,
    runs: Path,
    *,
    display: Display,
    until: str | None = None,
    stop_after: float | None = None,
    share: bool = False,
) -> dict[str, Any] | None:
    """Run what is missing, with `share` beside other processes; the result, or None with `until`.
    Raises OutOfTime after `stop_after` seconds, at the next checkpoint.

    Writes recipe.json, stages.json (label, id and directory of every stage), events.jsonl,
    result.json, report.html and comparison.svg below `runs / recipe.name`.
    """
    paths = RunPaths(runs, recipe.name)
    plan = make_plan(recipe, runs)
    stages = plan.until(until)
    runner = Runner(
        store=paths.store,
        workers=recipe.runtime.workers,
        events=EventLog(paths.events),
        display=display,
        stop=StopFlag(seconds=stop_after),
        share=share,
        on_wait=release_memory,
    )
    write_json(paths.directory / "recipe.json", recipe.dump())
    write_json(paths.directory / "stages.json", [_where(stage, paths) for stage in plan.stages])
    runner.events.emit("run_start", recipe=recipe.name, stages=len(stages))
    machine = recipe.runtime
    for notice in (
        why_eager(machine.compile, machine.device),
        why_torch(machine.engine, machine.device),
    ):
        if notice is not None:
            display.message(notice)
    artifacts = runner.run(stages, check=lambda stage, artifact: _check(plan, stage, artifact))
    if until is not None:
        runner.events.emit("run_done", until=until)
        return None
    from synboot.experiment.figures import comparison_figure  # slow to import: drawn at the end
    from synboot.experiment.report import write_report

    data = build_report_data(plan, artifacts)
    write_json(paths.result, data.result)
    write_report(data, paths.report)
    with atomic_file(paths.directory / "comparison.svg", "w") as file:
        file.write(comparison_figure(data.result))
    runner.events.emit("run_done")
    return data.result


def _check(plan: Plan, stage: Stage, artifact: Artifact) -> None:
    """Refuse what cannot be done as soon as it can be known, before anything is trained."""
    if stage.name != "tokens":
        return
    if "oracle" in map(plan.recipe.experiment.kind_of, plan.arms):
        check_oracle(artifact, plan.recipe.budget.oracle_multiple)
    for multiple in plan.recipe.experiment.repetition_multiples:
        check_oracle(artifact, multiple, "experiment.repetition_multiples")


def _where(stage: Stage, paths: RunPaths) -> dict[str, str]:
    directory = stage.directory(paths.store).relative_to(paths.runs).as_posix()
    return {"name": stage.name, "label": stage.label, "id": stage.id, "directory": directory}


def describe_run(recipe: Recipe, runs: Path, until: str | None = None) -> dict[str, Any]:
    """What a run would do: `{"stages": [{name, label, id, status, ...}], ...}`, status done or
    missing; an unfinished stage also says how far it is."""
    paths = RunPaths(runs, recipe.name)
    plan = make_plan(recipe, runs)
    stages = [_describe_stage(stage, recipe, paths) for stage in plan.until(until)]
    missing = [stage for stage in stages if stage["status"] == "missing"]
    known = [stage["flops"] for stage in missing if stage["flops"] is not None]
    return {
        "recipe": recipe.name,
        "stages": stages,
        "missing": len(missing),
        "known_flops_to_do": sum(known),
    }


def _describe_stage(stage: Stage, recipe: Recipe, paths: RunPaths) -> dict[str, Any]:
    directory = stage.directory(paths.store)
    artifact = Artifact.open(directory)
    scratch = directory / SCRATCH
    parts = list(scratch.glob("parts/[0-9]*"))
    checkpoints = sorted(scratch.glob("checkpoints/step-????????"))
    progress: dict[str, Any] = {}
    if artifact is None and parts:
        progress["parts_done"] = len(parts)
    if artifact is None and checkpoints:
        progress["checkpoint_step"] = int(checkpoints[-1].name.removeprefix("step-"))
    cost: Mapping[str, int | None] = planned_cost(stage, recipe)
    return {
        "name": stage.name,
        "label": stage.label,
        "id": stage.id,
        "status": "missing" if artifact is None else "done",
        **progress,
        **cost,
    }
