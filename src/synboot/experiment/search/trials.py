"""The trials of a search as stages: of every arm the same settings, on the same text.

The base model is repetition, so repetition is searched first. Its winner, with `base_model` above
its settings and trained on the recipe's whole budget, is the base of all synthetic text. Where
settings of tuning are tried, they come next: the synthesizer of lowest loss on validation pairs is
the one that writes. The text is written once, as the recipe's arms will have it, and shared by all
trials of arms: they differ in joint training alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synboot.core.errors import BadInput
from synboot.experiment.arm_settings import REFERENCE, arm_of_multiple
from synboot.experiment.numerics import numerics_of
from synboot.experiment.plan import Plan, make_plan, pretrain_stage
from synboot.experiment.recipe import CheckpointRule, Recipe
from synboot.experiment.search.settings import (
    PRETRAIN,
    TUNE,
    SearchConfig,
    Settings,
    tried_settings,
    with_settings,
)
from synboot.pipeline.stage import Stage

STAGES = (
    *("corpus", "tokenizer", "tokens", "embed", "neighbours", "pairs", "random_pairs"),
    *("validation_pairs", "random_validation_pairs"),
    *("pretrain", "tune", "synthesize", "pool", "megadocuments", "paired"),
)
"""What a search may run. None of these reads test text but to split it off and encode it."""

_TUNED = ("sbp", "random_pairs")
"""The arms that have a synthesizer; the first that a recipe has is tuned in the trials."""
_LOSS_OF = {"best": "best_validation_loss", "last": "final_validation_loss"}
_STEP_OF = {"best": "best_step", "last": "steps"}


@dataclass(frozen=True)
class Trial:
    """An arm trained with some settings, or the synthesizer tuned (then `arm` is tune); `number` 0
    has the recipe's own."""

    arm: str
    number: int
    settings: Settings
    stage: Stage
    checkpoint: CheckpointRule
    """Whose validation loss is that of the trial."""

    def loss(self, counts: Mapping[str, Any]) -> float:
        """Its validation loss, of what its stage counted."""
        return float(counts[_LOSS_OF[self.checkpoint]])

    def found(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial came to, of what its stage counted."""
        found = {"validation_loss": self.loss(counts), "step": counts[_STEP_OF[self.checkpoint]]}
        names = ["steps", "trained_tokens"]
        names += ["initial_validation_loss"] if self.arm == TUNE else []
        return found | {name: counts[name] for name in names}


class Trials:
    """The trials of a recipe's search, planned. Raises BadInput for a recipe without one."""

    def __init__(self, recipe: Recipe, runs: Path, content: str | None = None) -> None:
        """`content` is the digest of the corpus, where it is known and nothing will be run."""
        if recipe.search is None:
            raise BadInput("field search: expected a section that says what is searched")
        self.recipe = recipe
        self.search: SearchConfig = recipe.search
        self.settings = tried_settings(self.search, recipe.pretrain, recipe.seed)
        self.tune_settings = tried_settings(self.search, recipe.tune, recipe.seed, TUNE)
        """Empty, where nothing is tried of tuning."""
        if self.tune_settings and not set(recipe.experiment.arms) & set(_TUNED):
            raise BadInput(
                f"field search.tune_space: expected {' or '.join(_TUNED)} among experiment.arms; "
                "no other has a synthesizer"
            )
        self._runs = runs
        self.plan = make_plan(_bare(recipe), runs, content)
        for name in self.names:
            self.of(
                name, self.plan
            )  # what cannot be searched is refused before anything is trained

    @property
    def before_training(self) -> list[Stage]:
        """The stages of synthetic text that need no model, whose errors should come first. Tuning
        from scratch needs none, but it is for its trials to say which text it writes."""
        stages = with_ancestors(s for chain in self.plan.chains.values() for s in chain.values())
        trained = {PRETRAIN, TUNE}
        return [s for s in stages if trained.isdisjoint(a.name for a in with_ancestors([s]))]

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

    @property
    def tuned_arm(self) -> str:
        """Whose synthesizer is tuned in trials, where there are any: SBP's, if it is an arm."""
        return next(arm for arm in _TUNED if arm in self.recipe.experiment.arms)

    @property
    def names(self) -> list[str]:
        """What is searched, in the order in which it is: the arms, and tune after repetition."""
        return [*self.arms[:1], TUNE, *self.arms[1:]] if self.tune_settings else self.arms

    @property
    def num_trials(self) -> int:
        """In all."""
        return len(self.arms) * len(self.settings) + len(self.tune_settings)

    @property
    def deciding(self) -> list[str]:
        """Those whose winners the synthetic text is made with: the base model, the synthesizer."""
        return [*([REFERENCE] if self.needs_base else []), *([TUNE] if self.tune_settings else [])]

    def waits_for(self, name: str) -> list[str]:
        """Whose winners must be known before it is known what the trials of `name` are made of."""
        if name == TUNE:
            return [REFERENCE]
        return self.deciding if name in {arm for arm, _ in self.plan.chains} else []

    def of_base(self, settings: Settings) -> Plan:
        """The plan of the recipe whose base model, and synthesizer, have `settings`."""
        return self._planned(self.recipe, settings)

    def _planned(self, recipe: Recipe, settings: Settings) -> Plan:
        sections = {
            section: with_settings(getattr(recipe, section), settings, section)
            for section in (PRETRAIN, TUNE)
        }
        # The corpus is known by now: its files need not be read again for their digest.
        content = str(self.plan.corpus["corpus"].config["content"])
        return make_plan(_bare(recipe.model_copy(update=sections)), self._runs, content)

    def of(self, name: str, plan: Plan) -> list[Trial]:
        """The trials of an arm, with the corpus and the synthetic text of `plan`, or of tune, with
        its base model and pairs. Raises BadInput if an arm's own settings hide what is tried."""
        return self._of_tune(plan) if name == TUNE else self.of_arm(name, plan)

    def _of_tune(self, plan: Plan) -> list[Trial]:
        run = (self.tuned_arm, self.recipe.experiment.seeds[0])
        trials = []
        for number, settings in enumerate(self.tune_settings):
            stage = self._planned(plan.recipe, settings).chains[run]["tune"]
            stage.label = f"trial {number} of {TUNE}"
            trials.append(Trial(TUNE, number, settings, stage, "best"))  # what synthesis reads
        tuned = [arm for arm in _TUNED if arm in self.recipe.experiment.arms]
        return self._apart(trials, tuned, "tune_space")

    def of_arm(self, arm: str, plan: Plan) -> list[Trial]:
        """The trials of an arm, with the corpus and the synthetic text of `plan`. Raises BadInput
        if its own settings hide what is tried."""
        rule = self.recipe.evaluate.checkpoint
        trials = [
            Trial(arm, number, settings, self._stage(arm, number, settings, plan), rule)
            for number, settings in enumerate(self.settings)
        ]
        return self._apart(trials, [arm], "space")

    def _apart(self, trials: list[Trial], arms: Sequence[str], space: str) -> list[Trial]:
        tried, experiment = trials[0].settings.keys(), self.recipe.experiment
        hiding = [arm for arm in arms if experiment.settings_of(arm).keys() & tried]
        if not hiding and len({trial.stage.id for trial in trials}) < len(trials):
            hiding = list(arms)
        if hiding:
            raise BadInput(
                f"field search.{space}: {hiding[0]} has settings of its own that hide what would "
                "be tried; search the recipe without them"
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
