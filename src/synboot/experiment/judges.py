"""Who judges a run's synthetic text: the judge that a recipe names, or its world's exact one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synboot.core.judgement import Judge, Judgement
from synboot.eval.endpoint import Endpoint, EndpointJudge
from synboot.eval.judge import ModelJudge
from synboot.eval.quality.settings import ENDPOINT, LOCAL, JudgeConfig
from synboot.experiment.recipe import Recipe
from synboot.train.device import resolve_device
from synboot.train.settings import DeviceName
from synboot.worlds.facts.judge import FactsJudge
from synboot.worlds.facts.world import FactsWorld


class FinishedJudge:
    """What judged a run that is finished, by its description alone: it judges nothing more, and the
    model that did may be elsewhere by now."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._description = description

    def describe(self) -> Mapping[str, Any]:
        """As the judge described itself."""
        return self._description

    def judge(self, texts: Sequence[str], seeds: Sequence[str | None]) -> list[Judgement]:
        """Raises RuntimeError."""
        raise RuntimeError(f"{len(texts)} texts and {len(seeds)} seeds for a judge that is done")


def judge_of(recipe: Recipe, answers: Path) -> Judge | None:
    """The judge of a run: the one that it names, else its world's, else none. What a judge that
    reads answers is kept below `answers`."""
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
        return ModelJudge(directory, answers=answers, device=resolve_device(device).type)
    settings = config.model_dump(exclude={"name"})
    return EndpointJudge(Endpoint(model=config.name.removeprefix(ENDPOINT), **settings), answers)
