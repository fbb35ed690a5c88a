"""What the trials of tuning will cost, as far as it can be told before there are pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from synboot.experiment.costs.estimate import Estimator
from synboot.experiment.costs.text import corpus_artifacts, text_of
from synboot.experiment.plan import Plan
from synboot.pipeline.stage import Artifact, Stage


def tuning_flops(plan: Plan, stages: Sequence[Stage], store: Path) -> int:
    """FLOPs of training, validation apart, of the tune stages `stages`, estimated as `synboot plan`
    does it: from the artifacts of `plan` in `store`, else from a sample of its corpus' files."""
    if not stages:
        return 0

    def artifact(stage: Stage) -> Artifact | None:
        return Artifact.open(stage.directory(store))

    estimator = Estimator(plan.recipe, text_of(plan, corpus_artifacts(plan, artifact)), artifact)
    return sum(estimator.of(stage).flops or 0 for stage in stages)
