"""What the trials of tuning will cost, as far as it can be told before there are pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from synboot.experiment.costs.estimate import Estimator
from synboot.experiment.costs.text import text_of
from synboot.experiment.plan import Plan
from synboot.experiment.stages.corpus import CorpusStage
from synboot.pipeline.stage import Artifact, Stage


def tuning_flops(plan: Plan, stages: Sequence[Stage], store: Path) -> int:
    """FLOPs of training, validation apart, of the tune stages `stages`, estimated as `synboot plan`
    does it: from the artifacts of `plan` in `store`, else from a sample of its corpus' files."""
    corpus = plan.corpus["corpus"]
    if not stages or not isinstance(corpus, CorpusStage):
        return 0

    def artifact(stage: Stage) -> Artifact | None:
        return Artifact.open(stage.directory(store))

    built = {name: artifact(stage) for name, stage in plan.corpus.items()}
    known = {name: found for name, found in built.items() if found is not None}
    text = text_of(plan.recipe, known if len(known) == len(built) else {}, corpus.paths)
    estimator = Estimator(plan.recipe, text, artifact)
    return sum(estimator.of(stage).flops or 0 for stage in stages)
