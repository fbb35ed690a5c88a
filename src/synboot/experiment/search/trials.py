"""The trials of a search as stages: of every arm the same settings, on the same text.

The base model is repetition, so repetition is searched first. Its winner, trained on the recipe's
whole budget, is the base of all synthetic text, which is written once, as the recipe's arms will
have it, and shared by all trials: they differ in joint training alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from synboot.core.errors import BadInput
from synboot.experiment.arm_settings import REFERENCE, arm_of_multiple
from synboot.experiment.numerics import numerics_of
from synboot.experiment.plan import Plan, make_plan, pretrain_stage
from synboot.experiment.recipe import Recipe
from synboot.experiment.search.settings import (
    SearchConfig,
    Settings,
    tried_settings,
    with_settings,
)
from synboot.pipeline.stage import Stage

STAGES = (
    *("corpus", "tokenizer", "tokens", "embed", "neighbours", "pairs", "random_pairs"),
    *("validation_pairs", "random_validation_pairs"),
    *("pretrain", "tune", "synthesize", "megadocuments", "paired"),
)
"""What a search may run. None of these reads test text but to split it off and encode it."""


@dataclass(frozen=True)
class Trial:
    """An arm trained with some settings; `number` 0 has the recipe's own."""

    arm: str
    number: int
    settings: Settings
    stage: Stage


class Trials:
    """The trials of a recipe's search, planned. Raises BadInput for a recipe without one."""

    def __init__(self, recipe: Recipe, runs: Path, content: str | None = None) -> None:
        """`content` is the digest of the corpus, where it is known and nothing will be run."""
        if recipe.search is None:
            raise BadInput("field search: expected a section that says what is searched")
        self.recipe = recipe
        self.search: SearchConfig = recipe.search
        self.settings = tried_settings(self.search, recipe.pretrain, recipe.seed)
        self._runs = runs
        self.plan = make_plan(_bare(recipe), runs, content)

    @property
    def training_tokens(self) -> int:
        """Of a trial."""
        return self.search.training_tokens or self.recipe.budget.training_tokens

    @property
    def needs_base(self) -> bool:
        """Whether an arm has text of its own, which begins with the base model."""
        return bool(self.plan.chains)

    @property
    def arms(self) -> list[str]:
        """The arms that are searched, repetition first; it is searched for the base alone too.
        Repetition at the same cost is not: it is repetition for longer, and has its winner."""
        experiment = self.recipe.experiment
        named = [*experiment.arms, *map(arm_of_multiple, experiment.repetition_multiples)]
        first = [REFERENCE] if self.needs_base or REFERENCE in named else []
        return list(dict.fromkeys([*first, *named]))

    def of_base(self, settings: Settings) -> Plan:
        """The plan of the recipe whose base model has `settings`."""
        pretrain = with_settings(self.recipe.pretrain, settings)
        recipe = self.recipe.model_copy(update={"pretrain": pretrain})
        # The corpus is built by now: its files need not be read again for their digest.
        return make_plan(
            _bare(recipe), self._runs, str(self.plan.corpus["corpus"].config["content"])
        )

    def of_arm(self, arm: str, plan: Plan) -> list[Trial]:
        """The trials of an arm, with the corpus and the synthetic text of `plan`. Raises BadInput
        if they would all be alike."""
        trials = [
            Trial(arm, number, settings, self._stage(arm, number, settings, plan))
            for number, settings in enumerate(self.settings)
        ]
        if len({trial.stage.id for trial in trials}) < len(trials):
            raise BadInput(
                f"field search.space: {arm} has settings of its own that hide what would be tried; "
                "search the recipe without them"
            )
        return trials

    def _stage(self, arm: str, number: int, settings: Settings, plan: Plan) -> Stage:
        recipe, search = self.recipe, self.search
        budget = recipe.budget.model_copy(update={"training_tokens": self.training_tokens})
        trial = recipe.model_copy(
            update={"pretrain": with_settings(recipe.pretrain, settings), "budget": budget}
        )
        first = recipe.experiment.seeds[0]
        chains = {
            (arm, search.seed): chain for (arm, seed), chain in plan.chains.items() if seed == first
        }
        own = Plan(trial, corpus=plan.corpus, chains=chains)
        stage = pretrain_stage(own, arm, search.seed, numerics_of(recipe.runtime))
        stage.label = f"trial {number} of {arm}"
        return stage


def with_ancestors(stages: Iterable[Stage]) -> list[Stage]:
    """`stages` and all that they are made from, inputs first, each once. Raises AssertionError for
    one that a search may not run: test text stays unread."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.id in found:
            return
        if stage.name not in STAGES:
            raise AssertionError(f"a search may not run {stage.label}")
        for source in stage.inputs.values():
            visit(source)
        found[stage.id] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())


def _bare(recipe: Recipe) -> Recipe:
    """The recipe without what reads test text or costs time, but no part of a search."""
    evaluate = recipe.evaluate.model_copy(update={"tasks": (), "split": "valid"})
    return recipe.model_copy(update={"evaluate": evaluate})
