"""Who judges a run's synthetic text: the judge that a recipe names, or its world's exact one."""

from __future__ import annotations

from pathlib import Path

from synboot.core.judgement import Judge
from synboot.eval.endpoint import Endpoint, EndpointJudge
from synboot.eval.judge import ModelJudge
from synboot.eval.quality.settings import ENDPOINT, LOCAL, JudgeConfig
from synboot.experiment.recipe import Recipe
from synboot.train.device import DeviceName, resolve_device
from synboot.worlds.facts.judge import FactsJudge
from synboot.worlds.facts.world import FactsWorld


def judge_of(recipe: Recipe, answers: Path) -> Judge | None:
    """The judge of a run: the one that it names, else its world's, else none. What an endpoint
    answers is kept below `answers`."""
    if recipe.quality.judge is not None:
        return open_judge(recipe.quality.judge, answers, device=recipe.runtime.device)
    return world_judge(recipe)


def world_judge(recipe: Recipe) -> Judge | None:
    """The exact judge of a world that has one."""
    if recipe.corpus.world == "facts":
        return FactsJudge(FactsWorld(recipe.corpus.facts))
    return None


def open_judge(config: JudgeConfig, answers: Path, *, device: DeviceName = "auto") -> Judge:
    """The judge that is named. Raises BadInput if a local model cannot be used."""
    if config.name.startswith(LOCAL):
        directory = Path(config.name.removeprefix(LOCAL))
        return ModelJudge(directory, device=resolve_device(device).type)
    settings = config.model_dump(exclude={"name"})
    return EndpointJudge(Endpoint(model=config.name.removeprefix(ENDPOINT), **settings), answers)
