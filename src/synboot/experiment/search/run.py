"""Runs a search: trials of every arm, the best of each on validation, and the frozen recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from synboot.core.errors import NotFinite, SynbootError
from synboot.core.events import Display, EventLog, ReportProgress, read_events
from synboot.core.storage import atomic_file, write_json
from synboot.experiment.arm_settings import REFERENCE, SAME_COST
from synboot.experiment.arms import arm_names
from synboot.experiment.plan import planned_cost
from synboot.experiment.recipe import Recipe
from synboot.experiment.run import RunPaths
from synboot.experiment.search.settings import SECTION, Settings, edges
from synboot.experiment.search.trials import Trial, Trials, with_ancestors
from synboot.experiment.stages.corpus import check_oracle
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import Artifact, Stage
from synboot.pipeline.stop import StopFlag

_LOSS_OF = {"best": "best_validation_loss", "last": "final_validation_loss"}

Found = dict[str, Any]


def search_recipe(
    recipe: Recipe,
    runs: Path,
    *,
    display: Display,
    stop_after: float | None = None,
    written: Mapping[str, Any] | None = None,
) -> Found:
    """Run the trials that are missing; what was found, as in search.json.

    Writes search.json and frozen.yaml (`frozen_recipe`) below `runs / recipe.name`, and events
    beside those of a run. `written` is what the recipe's file says. Raises SynbootError if no trial
    of an arm came to a finite loss, OutOfTime after `stop_after` seconds.
    """
    paths = RunPaths(runs, recipe.name)
    search = _Search(Trials(recipe, runs), paths, display, stop_after)
    found = search.run()
    write_json(paths.directory / "search.json", found)
    with atomic_file(paths.directory / "frozen.yaml", "w") as file:
        file.write(frozen_recipe(recipe, found, written))
    return found


class _Search:
    def __init__(
        self, trials: Trials, paths: RunPaths, display: Display, stop_after: float | None
    ) -> None:
        self.trials, self.display = trials, display
        recipe = trials.recipe
        self.runner = Runner(
            store=paths.store,
            workers=recipe.runtime.workers,
            events=EventLog(paths.events),
            display=display,
            stop=StopFlag(seconds=stop_after),
        )
        self.finished: dict[str, Artifact] = {}
        self.diverged: dict[str, str] = {}
        """Why, by the id of a trial."""
        self.num_trials = len(trials.arms) * len(trials.settings)
        self.num_done = 0

    def run(self) -> Found:
        trials, recipe = self.trials, self.trials.recipe
        plan, found, base = trials.plan, {}, None
        self.runner.events.emit("search_start", recipe=recipe.name, trials=self.num_trials)
        self._finish([plan.corpus["tokens"]])
        self._check_multiples(self.finished[plan.corpus["tokens"].id])
        for arm in trials.arms:
            found[arm] = self._arm(trials.of_arm(arm, plan))
            if arm == REFERENCE and trials.needs_base:
                plan = trials.of_base(found[arm]["settings"])
                base = {
                    "settings": found[arm]["settings"],
                    "training_tokens": recipe.budget.training_tokens,
                }
        self.runner.events.emit("search_done")
        return {"schema": 1, **_what_is_searched(trials), "base": base, "arms": found}

    def _check_multiples(self, tokens: Artifact) -> None:
        recipe = self.trials.recipe
        if "oracle" in recipe.experiment.arms:
            check_oracle(tokens, recipe.budget.oracle_multiple)
        for multiple in recipe.experiment.repetition_multiples:
            check_oracle(tokens, multiple, "experiment.repetition_multiples")

    def _finish(self, stages: Sequence[Stage]) -> None:
        left = [s for s in with_ancestors(stages) if s.id not in self.finished]
        self.finished = self.runner.run(left, known=self.finished)

    def _arm(self, trials: Sequence[Trial]) -> Found:
        """Train the trials of an arm; how they did."""
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
                    failed = next(s for s in left if self.runner.artifact(s) is None)
                    self.diverged[failed.id] = str(error)
                    self.runner.events.emit("diverged", stage=failed.name, id=failed.id)
                    self.display.message(f"{failed.label}: {error}")
                    self.num_done += 1
                    left = left[left.index(failed) + 1 :]
                finally:
                    self.runner.display = self.display
        return self._outcome(trials)

    def _tell(self, trials: Sequence[Trial]) -> Any:
        of_stage = {trial.stage.id: trial for trial in trials}
        rule = self.trials.recipe.evaluate.checkpoint

        def tell(stage: Stage, artifact: Artifact) -> None:
            self.finished[stage.id] = artifact  # a later one may diverge
            self.num_done += 1
            trial, loss = of_stage[stage.id], artifact.counts[_LOSS_OF[rule]]
            self.display.message(
                f"{self.num_done} of {self.num_trials}: {trial.arm}, {shown(trial.settings)}: "
                f"validation loss {loss:.4f}"
            )

        return tell

    def _outcome(self, trials: Sequence[Trial]) -> Found:
        rule = self.trials.recipe.evaluate.checkpoint
        rows = [self._row(trial, rule) for trial in trials]
        losses = {
            r["trial"]: r["validation_loss"] for r in rows if r["validation_loss"] is not None
        }
        if not losses:
            raise SynbootError(
                f"no trial of {trials[0].arm} came to a finite loss; search lower learning rates"
            )
        winner = _lowest(losses)
        settings = trials[winner].settings
        return {
            "winner": winner,
            "settings": dict(settings),
            "validation_loss": losses[winner],
            "gain_over_own_settings": losses[0] - losses[winner] if 0 in losses else None,
            "at_the_edge": edges(settings, self.trials.search, trials[0].settings),
            "trials": rows,
        }

    def _row(self, trial: Trial, rule: str) -> Found:
        row: Found = {
            "trial": trial.number,
            "settings": dict(trial.settings),
            "validation_loss": None,
            "stage": trial.stage.id,
            "trained_on": {name: stage.id for name, stage in sorted(trial.stage.inputs.items())},
        }
        if trial.stage.id in self.diverged:
            return row | {"diverged": self.diverged[trial.stage.id]}
        counts = self.finished[trial.stage.id].counts
        read = {"best": "best_step", "last": "steps"}[rule]
        return row | {
            "validation_loss": counts[_LOSS_OF[rule]],
            "step": counts[read],
            "steps": counts["steps"],
            "trained_tokens": counts["trained_tokens"],
        }


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


def frozen_recipe(
    recipe: Recipe, found: Mapping[str, Any], written: Mapping[str, Any] | None = None
) -> str:
    """The recipe as YAML, what was found laid over it: the winner of repetition as `pretrain`,
    which is the base model's, and every arm's in `experiment.overrides`.

    Where files lie and how the machine is used stand in it as they do in the recipe's file,
    `written`; what was given beside it is given again.
    """
    values = recipe.model_dump(mode="json", exclude_unset=True)
    if written is not None:
        for section, field in (("corpus", "path"), ("evaluate", "tasks")):
            _as_written(values, written, section, field)
        values.pop("runtime", None)
        values |= {"runtime": dict(written["runtime"])} if written.get("runtime") else {}
    arms = arm_names(recipe.experiment)
    winners: dict[str, Settings] = {arm: one["settings"] for arm, one in found["arms"].items()}
    winners |= {arm: winners[other] for arm, other in found["has_the_winner_of"].items()}
    of_pretrain = winners.get(REFERENCE, {})
    values["pretrain"] |= {name.removeprefix(SECTION): v for name, v in of_pretrain.items()}
    overrides = {arm: dict(winners[arm]) for arm in arms if arm in winners}
    values["experiment"] = values.get("experiment", {}) | {"overrides": overrides}
    note = (
        f"# Frozen by synboot search: the best of {found['trials_per_arm']} trials an arm on "
        f"validation text\n# (seed {found['seed']}, {found['training_tokens']:,} training tokens "
        "a trial); test text was not read.\n"
    )
    return note + yaml.safe_dump(values, sort_keys=False, width=100)


def _as_written(
    values: dict[str, Any], written: Mapping[str, Any], section: str, field: str
) -> None:
    before = written.get(section) or {}
    if field in before:
        values[section][field] = before[field]
    else:
        values.get(section, {}).pop(field, None)


def describe_search(recipe: Recipe, runs: Path) -> Found:
    """What a search would do: its trials with id and status (done, diverged or missing); the ids of
    those with synthetic text are known once repetition has a winner."""
    trials, paths = Trials(recipe, runs), RunPaths(runs, recipe.name)
    events = read_events(paths.events)
    diverged = {str(event.get("id")) for event in events if event["event"] == "diverged"}
    plan, decided = trials.plan, not trials.needs_base
    arms: Found = {}
    flops = 0
    for arm in trials.arms:
        known = decided or arm not in {own for own, _ in plan.chains}
        own = trials.of_arm(arm, plan)
        arms[arm] = [_described(trial, paths, recipe, diverged if known else None) for trial in own]
        flops += sum(
            planned_cost(trial.stage, recipe)["flops"] or 0
            for trial, row in zip(own, arms[arm], strict=True)
            if row["status"] == "missing"
        )
        losses = {
            row["trial"]: row["validation_loss"] for row in arms[arm] if row["status"] == "done"
        }
        missing = any(row["status"] == "missing" for row in arms[arm])
        if arm == REFERENCE and trials.needs_base and losses and not missing:
            plan, decided = trials.of_base(own[_lowest(losses)].settings), True
    return {
        **_what_is_searched(trials),
        "arms": arms,
        "missing": sum(row["status"] == "missing" for rows in arms.values() for row in rows),
        "known_flops_to_do": flops,
    }


def _described(trial: Trial, paths: RunPaths, recipe: Recipe, diverged: set[str] | None) -> Found:
    """A trial's id and status; without `diverged` its id is not known yet."""
    row: Found = {"trial": trial.number, "settings": dict(trial.settings), "stage": None}
    row |= {"status": "missing", "validation_loss": None}
    if diverged is None:
        return row
    stage = trial.stage
    if (artifact := Artifact.open(stage.directory(paths.store))) is not None:
        loss = artifact.counts[_LOSS_OF[recipe.evaluate.checkpoint]]
        row |= {"status": "done", "validation_loss": loss}
    elif stage.id in diverged:
        row["status"] = "diverged"
    return row | {"stage": stage.id}


def _lowest(losses: Mapping[int, float]) -> int:
    """The trial of lowest loss, the first of equal ones."""
    return min(losses, key=lambda number: (losses[number], number))


def shown(settings: Settings) -> str:
    """`learning_rate 0.004, weight_decay 1`."""
    return ", ".join(f"{name.removeprefix(SECTION)} {value:g}" for name, value in settings.items())
