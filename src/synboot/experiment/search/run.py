"""Runs a search: its trials, the best of each arm and of tuning, and the frozen recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synboot.core.errors import NotFinite, SynbootError
from synboot.core.events import Display, EventLog, ReportProgress
from synboot.core.storage import atomic_file, write_json
from synboot.experiment.arm_settings import REFERENCE, SAME_COST
from synboot.experiment.arms import arm_names
from synboot.experiment.plan import planned_cost
from synboot.experiment.recipe import Recipe
from synboot.experiment.run import RunPaths
from synboot.experiment.search.ahead import Ahead, TrialAhead, lowest
from synboot.experiment.search.cost import tuning_flops
from synboot.experiment.search.frozen import frozen_recipe
from synboot.experiment.search.settings import TUNE, Settings, edges, field_of
from synboot.experiment.search.trials import Trial, Trials, with_ancestors
from synboot.experiment.stages.corpus import check_oracle
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import Artifact, Stage
from synboot.pipeline.stop import StopFlag
from synboot.train.device import release_memory

Found = dict[str, Any]


def search_recipe(
    recipe: Recipe,
    runs: Path,
    *,
    display: Display,
    stop_after: float | None = None,
    share: bool = False,
    written: Mapping[str, Any] | None = None,
) -> Found:
    """Run the trials that are missing; what was found, as in search.json.

    With `share`, trials that other processes are at are left to them. Writes search.json and
    frozen.yaml (`frozen_recipe`) below `runs / recipe.name`, and events beside those of a run.
    `written` is what the recipe's file says. Raises SynbootError if no trial of an arm, or of
    tuning, came to a finite loss, OutOfTime after `stop_after` seconds.
    """
    paths = RunPaths(runs, recipe.name)
    search = _Search(Trials(recipe, runs), paths, display, stop_after, share)
    found = search.run()
    write_json(paths.directory / "search.json", found)
    with atomic_file(paths.directory / "frozen.yaml", "w") as file:
        file.write(frozen_recipe(recipe, found, written))
    return found


class _Search:
    def __init__(
        self,
        trials: Trials,
        paths: RunPaths,
        display: Display,
        stop_after: float | None,
        share: bool,
    ) -> None:
        self.trials, self.display = trials, display
        recipe = trials.recipe
        self.runner = Runner(
            store=paths.store,
            workers=recipe.runtime.workers,
            events=EventLog(paths.events),
            display=display,
            stop=StopFlag(seconds=stop_after),
            share=share,
            on_wait=release_memory,
        )
        self.finished: dict[str, Artifact] = {}
        self.diverged: dict[str, str] = {}
        """Why, by the id of a trial."""
        self.num_trials = trials.num_trials
        self.num_done = 0

    def run(self) -> Found:
        trials, recipe = self.trials, self.trials.recipe
        plan, found, winners = trials.plan, Found(), dict[str, float]()
        self.runner.events.emit("search_start", recipe=recipe.name, trials=self.num_trials)
        self._finish([plan.corpus["tokens"]])
        self._check_multiples(self.finished[plan.corpus["tokens"].id])
        self._finish(trials.before_training)
        for name in trials.names:
            found[name] = self._searched(trials.of(name, plan))
            if name in trials.deciding:
                winners |= found[name]["settings"]
                plan = trials.of_base(winners)
        base = None
        if trials.needs_base:
            own = {arm: recipe.of_arm(arm).base_model.settings() for arm in recipe.experiment.arms}
            base = {
                "settings": found[REFERENCE]["settings"],
                "training_tokens": recipe.budget.training_tokens,
                **{f"above_them_for_{arm}": settings for arm, settings in own.items() if settings},
            }
        self.runner.events.emit("search_done")
        tune = {TUNE: _what_of_tune(trials) | found.pop(TUNE)} if trials.tune_settings else {}
        return {"schema": 1, **_what_is_searched(trials), "base": base, **tune, "arms": found}

    def _check_multiples(self, tokens: Artifact) -> None:
        recipe = self.trials.recipe
        if "oracle" in recipe.experiment.arms:
            check_oracle(tokens, recipe.budget.oracle_multiple)
        for multiple in recipe.experiment.repetition_multiples:
            check_oracle(tokens, multiple, "experiment.repetition_multiples")

    def _finish(self, stages: Sequence[Stage]) -> None:
        left = [s for s in with_ancestors(stages) if s.id not in self.finished]
        self.finished = self.runner.run(left, known=self.finished)

    def _searched(self, trials: Sequence[Trial]) -> Found:
        """Train the trials of an arm, or of tuning; how they did."""
        arm, stages = trials[0].arm, [trial.stage for trial in trials]
        self._finish([source for stage in stages for source in stage.inputs.values()])
        for stage in stages:
            if (artifact := self.runner.artifact(stage)) is not None:
                self.finished[stage.id] = artifact
        left = [stage for stage in stages if stage.id not in self.finished]
        if len(left) < len(stages):
            self.display.message(f"{arm}: {len(stages) - len(left)} trials done before")
        self.num_done += len(stages) - len(left)
        with self.display.task(f"{self.num_trials} trials") as report:
            while left:
                self.runner.display = _OneBar(self.display, report, self)
                try:
                    self.runner.run(left, self._tell(trials), self.finished)
                    break
                except NotFinite as error:
                    failed = next(stage for stage in left if stage.id == error.stage_id)
                    self.diverged[failed.id] = str(error)
                    self.runner.events.emit("diverged", stage=failed.name, id=failed.id)
                    self.display.message(f"{failed.label}: {error}")
                    self.num_done += 1
                    known = {failed.id, *self.finished}  # others may have been at those before
                    left = [stage for stage in left if stage.id not in known]
                finally:
                    self.runner.display = self.display
        return self._outcome(trials)

    def _tell(self, trials: Sequence[Trial]) -> Any:
        of_stage = {trial.stage.id: trial for trial in trials}

        def tell(stage: Stage, artifact: Artifact) -> None:
            self.finished[stage.id] = artifact  # a later one may diverge
            self.num_done += 1
            trial = of_stage[stage.id]
            self.display.message(
                f"{self.num_done} of {self.num_trials}: {trial.arm}, {shown(trial.settings)}: "
                f"validation loss {trial.loss(artifact.counts):.4f}"
            )

        return tell

    def _outcome(self, trials: Sequence[Trial]) -> Found:
        rows = [self._row(trial) for trial in trials]
        losses = {
            r["trial"]: r["validation_loss"] for r in rows if r["validation_loss"] is not None
        }
        if not losses:
            raise SynbootError(
                f"no trial of {trials[0].arm} came to a finite loss; search lower learning rates"
            )
        winner = lowest(losses)
        settings = trials[winner].settings
        return {
            "winner": winner,
            "settings": dict(settings),
            "validation_loss": losses[winner],
            "gain_over_own_settings": losses[0] - losses[winner] if 0 in losses else None,
            "at_the_edge": edges(settings, self.trials.search, trials[0].settings),
            "trials": rows,
        }

    def _row(self, trial: Trial) -> Found:
        row: Found = {
            "trial": trial.number,
            "settings": dict(trial.settings),
            "validation_loss": None,
            "stage": trial.stage.id,
            "trained_on": {name: stage.id for name, stage in sorted(trial.stage.inputs.items())},
        }
        if trial.stage.id in self.diverged:
            return row | {"diverged": self.diverged[trial.stage.id]}
        return row | trial.found(self.finished[trial.stage.id].counts)


class _OneBar:
    """Shows trials as steps of one task, so that its time left is that of all of them."""

    def __init__(self, display: Display, report: ReportProgress, search: _Search) -> None:
        self._display, self._report, self._search = display, report, search
        self._show(0, "")

    def message(self, text: str) -> None:
        """Nothing: the search says what a trial came to."""

    @contextmanager
    def task(self, name: str) -> Iterator[ReportProgress]:
        """A trial: its share is that of the search."""
        label = name.split("] ")[-1]

        def report(done: float, total: float, note: str) -> None:
            self._show(done / total if total else 0.0, f"{label}  {note}")

        yield report

    def _show(self, share: float, note: str) -> None:
        self._report(self._search.num_done + share, self._search.num_trials, note)


def _what_is_searched(trials: Trials) -> Found:
    recipe, search = trials.recipe, trials.search
    same_cost = SAME_COST in arm_names(recipe.experiment)
    return {
        "recipe": recipe.name,
        "seed": search.seed,
        "split": "valid",
        "checkpoint": recipe.evaluate.checkpoint,
        "training_tokens": trials.training_tokens,
        "space": {name: list(values) for name, values in sorted(search.space.items())},
        "trials_per_arm": len(trials.settings),
        "has_the_winner_of": {SAME_COST: REFERENCE} if same_cost else {},
    }


def _what_of_tune(trials: Trials) -> Found:
    tune = trials.plan.chains[trials.tuned_arm, trials.recipe.experiment.seeds[0]]["tune"]
    return {
        "on_the_pairs_of": trials.tuned_arm,
        "seed": tune.seed,
        "space": {name: list(v) for name, v in sorted(trials.search.values_of(TUNE).items())},
    }


def describe_search(recipe: Recipe, runs: Path) -> Found:
    """What a search would do: its trials with id and status (done, diverged or missing). The ids of
    those of tune are known once repetition has a winner, of those with synthetic text once all that
    it is made with has."""
    trials, paths = Trials(recipe, runs), RunPaths(runs, recipe.name)
    rows: dict[str, list[Found]] = {}
    left: dict[str, list[Stage]] = {}
    for own in Ahead(trials, paths).searched:
        rows[own.name] = [_described(one, own.decided) for one in own.trials]
        left[own.name] = [one.trial.stage for one in own.trials if one.status == "missing"]
    missing = sum(map(len, left.values()))
    of_tune, stages = rows.pop(TUNE, None), left.pop(TUNE, [])
    tune = {} if of_tune is None else {TUNE: _what_of_tune(trials) | {"trials": of_tune}}
    if of_tune is not None:
        tune[TUNE]["estimated_flops_to_do"] = tuning_flops(trials.plan, stages, paths.store)
    costs = [planned_cost(stage, recipe)["flops"] or 0 for some in left.values() for stage in some]
    return {
        **_what_is_searched(trials),
        **tune,
        "arms": rows,
        "missing": missing,
        "known_flops_to_do": sum(costs),
    }


def _described(one: TrialAhead, decided: bool) -> Found:
    """A trial's id and status; the id is not known until winners have decided it."""
    return {
        "trial": one.trial.number,
        "settings": dict(one.trial.settings),
        "stage": one.trial.stage.id if decided else None,
        "status": one.status,
        "validation_loss": one.loss,
    }


def shown(settings: Settings) -> str:
    """`learning_rate 0.004, weight_decay 1`."""
    return ", ".join(f"{field_of(name)} {value:g}" for name, value in settings.items())
