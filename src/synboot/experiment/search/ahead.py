"""What a search has before it: its trials and all that they are made from, as far as winners decide
it already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from synboot.core.events import read_events
from synboot.experiment.run import RunPaths
from synboot.experiment.search.trials import Trial, Trials, with_ancestors
from synboot.pipeline.stage import Artifact, Stage

Status = Literal["done", "diverged", "missing"]


@dataclass(frozen=True)
class TrialAhead:
    """A trial and how far it is."""

    trial: Trial
    status: Status
    loss: float | None
    """Of one that is done."""


@dataclass(frozen=True)
class Searched:
    """An arm, or tune: its trials."""

    name: str
    decided: bool
    """Whether all winners are known that the trials are made with. Where they are not, the trials
    are made as if the recipe's own settings won, and none is done."""
    trials: list[TrialAhead]


@dataclass(frozen=True)
class StageAhead:
    """A stage that a search brings about."""

    stage: Stage
    status: Status
    decided: bool
    """Whether it is this very stage; else it is one like it, with a winner's settings."""
    trial: bool
    shared: bool
    """Whether a run with the winners has it too."""


class Ahead:
    """What the search of `trials` has done below `paths`, and what it has before it."""

    def __init__(self, trials: Trials, paths: RunPaths) -> None:
        self._trials, self._store = trials, paths.store
        events = read_events(paths.events)
        self._diverged = {str(e.get("id")) for e in events if e["event"] == "diverged"}
        plan, winners, won = trials.plan, dict[str, float](), set[str]()
        self.searched: list[Searched] = []
        """In the order of the search."""
        for name in trials.names:
            decided = won.issuperset(trials.waits_for(name))
            own = [self._looked_at(trial, decided) for trial in trials.of(name, plan)]
            self.searched.append(Searched(name, decided, own))
            losses = {one.trial.number: one.loss for one in own if one.loss is not None}
            missing = any(one.status == "missing" for one in own)
            if name in trials.deciding and losses and not missing:
                winners |= own[lowest(losses)].trial.settings
                plan = trials.of_base(winners)
                won.add(name)
        self._plan = plan

    @property
    def stages(self) -> list[StageAhead]:
        """All that the search brings about, inputs first, each once."""
        trials, found = self._trials, dict[str, StageAhead]()
        of_trials = {one.trial.stage.id for own in self.searched for one in own.trials}
        shared = {stage.id for stage in self._plan.stages}
        before = [trials.plan.corpus["tokens"], *trials.before_training]
        groups = [(before, True)] + [
            ([one.trial.stage for one in own.trials], own.decided) for own in self.searched
        ]
        for stages, decided in groups:
            for stage in with_ancestors(stages):
                if stage.id not in found:
                    status = self._status(stage, decided)
                    is_trial, is_shared = stage.id in of_trials, stage.id in shared
                    found[stage.id] = StageAhead(stage, status, decided, is_trial, is_shared)
        return list(found.values())

    def _looked_at(self, trial: Trial, decided: bool) -> TrialAhead:
        artifact = Artifact.open(trial.stage.directory(self._store)) if decided else None
        loss = None if artifact is None else trial.loss(artifact.counts)
        return TrialAhead(trial, self._status(trial.stage, decided), loss)

    def _status(self, stage: Stage, decided: bool) -> Status:
        if not decided:
            return "missing"
        if Artifact.open(stage.directory(self._store)) is not None:
            return "done"
        return "diverged" if stage.id in self._diverged else "missing"


def lowest(losses: Mapping[int, float]) -> int:
    """The trial of lowest loss, the first of equal ones."""
    return min(losses, key=lambda number: (losses[number], number))
