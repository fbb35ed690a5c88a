"""The stage of a run that measures its synthetic text, and the encoder that it measures with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from synboot.core.judgement import Judge
from synboot.eval.quality.settings import QualityConfig
from synboot.experiment.judges import judge_of
from synboot.experiment.recipe import Recipe
from synboot.experiment.stages.pairing import EmbedStage
from synboot.experiment.stages.quality import QualityStage
from synboot.pairs.encoders.settings import EncoderConfig, encoder_settings
from synboot.pipeline.stage import Stage

_MEASURED = ("sample_documents", "max_repetition", "duplicate_similarity", "duplicate_words")


class _Plan(Protocol):
    """What is needed of a run's plan."""

    recipe: Recipe
    corpus: dict[str, Stage]
    bootstrap: dict[str, Stage]

    def add(self, stage: Stage) -> Stage:
        """Put a stage at the end unless an equal one is there."""


def plan_quality(
    plan: _Plan, numerics: Mapping[str, Any], answers: Path, finished: Judge | None = None
) -> Stage:
    """Add the stage to a plan whose synthetic text is planned. Relevance is measured with the
    run's own encoder where that is lsa, else with an lsa of the same text: not with the model that
    chose the pairs. `finished`: who judged, where nothing will be run."""
    recipe = plan.recipe
    inputs = {**plan.corpus, **{name: plan.bootstrap[name] for name in ("pairs", "synthesize")}}
    if recipe.quality.relevance:
        embed = plan.bootstrap["embed"]
        if recipe.pairs.encoder != "lsa":
            embed = plan.add(
                EmbedStage(
                    encoder_settings(EncoderConfig()),
                    {name: plan.corpus[name] for name in ("corpus", "tokenizer")},
                    seed=recipe.seed,
                    numerics=numerics,
                    settings=EncoderConfig(),
                    label="embed for quality",
                )
            )
        inputs["embed"] = embed
    judge = finished or judge_of(recipe, answers)
    return plan.add(
        QualityStage(
            quality_identity(recipe.quality, judge),
            inputs,
            seed=recipe.seed,
            numerics=numerics,
            judge=judge,
        )
    )


def quality_identity(config: QualityConfig, judge: Judge | None) -> dict[str, Any]:
    """What the measures depend on beside their inputs. How a judge is reached is no part of it."""
    values = config.model_dump(mode="json", include=set(_MEASURED))
    if judge is None:
        return values
    exact = config.judge is None  # a world's, which costs nothing
    documents = config.sample_documents if exact else config.judge_documents
    return values | {"judge": dict(judge.describe()), "judge_documents": documents}
