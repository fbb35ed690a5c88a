"""What writes the synthetic text of an arm: the stages from pairs to text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from synboot.experiment.arms import WITH_PAIRED
from synboot.experiment.numerics import Numerics
from synboot.experiment.recipe import Recipe
from synboot.experiment.stages.megadocuments import MegadocumentsStage
from synboot.experiment.stages.paired import PairedStage
from synboot.experiment.stages.pairing import (
    EmbedStage,
    NeighboursStage,
    PairsStage,
    RandomPairsStage,
)
from synboot.experiment.stages.synthesis import SynthesizeStage
from synboot.experiment.stages.training import TuneStage, loop_identity
from synboot.experiment.stages.validation_pairs import (
    RandomValidationPairsStage,
    ValidationPairsStage,
)
from synboot.pairs.encoders.encoder import encoder_settings
from synboot.pairs.filters import PairFilterConfig
from synboot.pipeline.stage import Stage
from synboot.synth.engine import SamplingConfig


class Add(Protocol):
    """Puts a stage into the plan, or finds an equal one there."""

    def __call__(self, stage: Stage, after: Stage | None = None) -> Stage:
        """The stage that is in the plan: at its end, or right after another one."""


@dataclass(frozen=True)
class ChainPlanner:
    """Plans the chains of a recipe: `corpus` are its corpus, tokenizer and tokens. Stages of equal
    settings are shared by the arms."""

    add: Add
    corpus: Mapping[str, Stage]
    numerics: Numerics

    def chain(
        self,
        arm: str,
        base: Stage,
        *,
        recipe: Recipe,
        seed: int,
        label: str = "",
        pairing: str = "",
    ) -> dict[str, Stage]:
        """The stages that write the text of an arm of the kind `arm`, by name, base among them.

        `recipe` has the arm's settings; `seed` is of tuning and synthesis, `label` what sets their
        labels apart, `pairing` those of the stages from embed to pairs.

        sbp: the base model, tuned on the pairs, given seed documents. random_pairs: the same, but
        for the pairs. self_distillation: the base model as it is, given nothing. real_context: no
        model, the pairs themselves.
        """
        if arm == "self_distillation":
            base = self.add(base)
            return {
                "base": base,
                "synthesize": self._synthesize({"base": base}, recipe, seed, label),
            }
        chain = self._pairing(base, recipe, pairing)
        unique = {name: self.corpus[name] for name in ("corpus", "tokenizer")}
        if arm == WITH_PAIRED:
            inputs = {**self.corpus, "pairs": chain["pairs"]}
            return chain | {
                "paired": self.add(
                    PairedStage({}, inputs, seed=recipe.seed, label=f"paired{label}")
                )
            }
        found = {"pairs": chain["pairs"]}
        if recipe.tune.validate_on == "validation_text":
            found["validation_pairs"] = self._validation_pairs(chain, recipe, pairing)
        if arm == "random_pairs":
            found = self._at_random(found, recipe, label, of="" if label != pairing else "random ")
        settings = recipe.synthesize
        tuning, writing = {**found}, {}
        if recipe.tune.initial == "base":
            tuning["base"] = self.add(base)
        if settings.best_of > 1:
            writing["base"] = self.add(base)
        writing["tune"] = self._tune(tuning, recipe, seed, label)
        written = self._synthesize(writing, recipe, seed, label)
        chain |= tuning | writing | {"synthesize": written}
        if settings.megadocuments:
            chain["megadocuments"] = self.add(
                MegadocumentsStage(
                    {"draws": settings.megadocuments},
                    {**unique, "synthesize": written},
                    seed=recipe.seed,
                    label=f"megadocuments{label}",
                )
            )
        return chain

    def _pairing(self, base: Stage, recipe: Recipe, label: str) -> dict[str, Stage]:
        numerics, pairs = self.numerics, recipe.pairs
        unique = {name: self.corpus[name] for name in ("corpus", "tokenizer")}
        embed_inputs, embed_config = dict(unique), encoder_settings(pairs)
        if pairs.encoder == "lm":
            embed_inputs["base"] = self.add(base)
            embed_config["initial_checkpoint"] = recipe.tune.initial_checkpoint
        embed = self.add(
            EmbedStage(
                embed_config,
                embed_inputs,
                seed=recipe.seed,
                numerics=numerics.parts if pairs.encoder == "lsa" else numerics.embedding,
                settings=pairs,
                base_checkpoint=recipe.tune.initial_checkpoint,
                label=f"embed{label}",
            )
        )
        neighbours = self.add(
            NeighboursStage(
                pairs.neighbour_settings(),
                {"embed": embed},
                seed=recipe.seed,
                numerics=numerics.parts,
                device=numerics.embedding["device"],
                label=f"neighbours{label}",
            )
        )
        filters = pairs.model_dump(mode="json", include=set(PairFilterConfig.model_fields))
        inputs = {**unique, "neighbours": neighbours}
        judged = self.add(PairsStage(filters, inputs, seed=recipe.seed, label=f"pairs{label}"))
        return {"embed": embed, "neighbours": neighbours, "pairs": judged}

    def _validation_pairs(self, chain: Mapping[str, Stage], recipe: Recipe, label: str) -> Stage:
        """Right after the pairs that they are found like: where there are too few, that is known
        before anything is trained for these pairs."""
        embed, filters = chain["embed"], chain["pairs"].config
        inputs = {"corpus": self.corpus["corpus"], "embed": embed}
        if "base" in embed.inputs:
            inputs["base"] = embed.inputs["base"]
        return self.add(
            ValidationPairsStage(
                {"top_k": recipe.pairs.top_k, **filters},
                inputs,
                seed=recipe.seed,
                numerics=embed.numerics,
                settings=recipe.pairs,
                base_checkpoint=recipe.tune.initial_checkpoint,
                label=f"validation pairs{label}",
            ),
            after=chain["pairs"],
        )

    def _at_random(
        self, found: Mapping[str, Stage], recipe: Recipe, label: str, of: str
    ) -> dict[str, Stage]:
        """Random pairs in place of those of SBP: drawn once, as those are found once. Held-out
        documents of SBP's first tuning are kept from this one's too."""
        tune, corpus = recipe.tune, self.corpus["corpus"]
        on_text = "validation_pairs" in found
        setting = "validate_on" if on_text else "validation_fraction"
        unique = {"corpus": corpus, "tokenizer": self.corpus["tokenizer"]}
        pairs = self.add(
            RandomPairsStage(
                {setting: getattr(tune, setting)},
                {**unique, "pairs": found["pairs"]},
                seed=recipe.seed,
                label=f"{of}pairs{label}",
            )
        )
        drawn = {"pairs": pairs}
        if on_text:
            drawn["validation_pairs"] = self.add(
                RandomValidationPairsStage(
                    {},
                    {"corpus": corpus, "validation_pairs": found["validation_pairs"]},
                    seed=recipe.seed,
                    label=f"{of}validation pairs{label}",
                )
            )
        return drawn

    def _tune(self, inputs: Mapping[str, Stage], recipe: Recipe, seed: int, label: str) -> Stage:
        settings = recipe.tune.model_dump(mode="json")
        on_text = "validation_pairs" in inputs
        validation = "validate_on" if on_text else "validation_fraction"
        start = "initial" if recipe.tune.initial == "scratch" else "initial_checkpoint"
        return self.add(
            TuneStage(
                {
                    "model": recipe.model.model_dump(mode="json"),
                    "loop": loop_identity(settings),
                    "passes": settings["passes"],
                    validation: settings[validation],
                    start: settings[start],
                },
                {**self.corpus, **inputs},
                seed=seed,
                numerics=self.numerics.training,
                label=f"tune{label}",
                checkpoint_seconds=recipe.runtime.checkpoint_seconds,
            )
        )

    def _synthesize(
        self, model: Mapping[str, Stage], recipe: Recipe, seed: int, label: str
    ) -> Stage:
        settings = recipe.synthesize
        config = {
            "model": recipe.model.model_dump(mode="json"),
            "sampling": settings.model_dump(mode="json", include=set(SamplingConfig.model_fields)),
            "draws_per_prompt": settings.draws_per_prompt,
            "filters": settings.filters.model_dump(mode="json"),
            "need_tokens": recipe.budget.synthetic_tokens,
        }
        if "base" in model:
            config["checkpoint"] = recipe.tune.initial_checkpoint
        if "tune" not in model:
            config["prompt"] = "none"
        elif settings.best_of > 1:
            config["best_of"] = settings.best_of
        return self.add(
            SynthesizeStage(
                config,
                {**self.corpus, **model},
                seed=seed,
                numerics=self.numerics.draws,
                label=f"synthesize{label}",
                max_draws_per_seed=settings.max_draws_per_seed,
            )
        )
