"""What writes the synthetic text of an arm: the stages from pairs to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from synboot.core.errors import BadInput
from synboot.experiment.arms import PAID_STAGES, WITH_PAIRED, WITH_SYNTHETIC
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
from synboot.experiment.stages.pool import PoolStage
from synboot.experiment.stages.synthesis import SynthesizeStage
from synboot.experiment.stages.training import TuneStage, loop_identity
from synboot.experiment.stages.validation_pairs import (
    RandomValidationPairsStage,
    ValidationPairsStage,
)
from synboot.pairs.encoders.settings import encoder_settings
from synboot.pairs.filters import PairFilterConfig
from synboot.pipeline.stage import Stage
from synboot.synth.pool import shares
from synboot.synth.settings import SamplingConfig


class Add(Protocol):
    """Puts a stage into the plan, or finds an equal one there."""

    def __call__(self, stage: Stage, after: Stage | None = None) -> Stage:
        """The stage that is in the plan: at its end, or right after another one."""


def num_writers(recipe: Recipe, arm: str) -> int:
    """How many models write an arm's text. Raises BadInput where the texts of two training seeds
    would share a writer, or there is less to write than one token each."""
    experiment = recipe.experiment
    if experiment.kind_of(arm) not in WITH_SYNTHETIC:
        return 1
    own = recipe.of_arm(arm)
    writers, tokens = own.synthesize.writers, own.budget.synthetic_tokens
    if writers > tokens:
        raise BadInput(
            f"field synthesize.writers: expected at most the {tokens} synthetic tokens of {arm}, "
            f"got {writers}"
        )
    seeds = sorted(experiment.seeds)
    if experiment.bootstrap_per_seed and any(b - a < writers for a, b in pairwise(seeds)):
        raise BadInput(
            f"field experiment.seeds: expected seeds at least {writers} apart, as many as {arm} "
            "has of synthesize.writers, since with bootstrap_per_seed texts of nearer seeds would "
            f"share writers and not be independent; got {', '.join(map(str, seeds))}"
        )
    return writers


def paid_stages(chain: Mapping[str, Stage], arms: Iterable[Stage]) -> dict[str, Stage]:
    """The stages of a chain that `repetition_same_cost` pays for (`PAID_STAGES`, and base models
    that are none of `arms`), of all writers and each once, by their names in the chain."""
    free, paid = {stage.id for stage in arms}, dict[str, Stage]()
    for name, stage in chain.items():
        costs = stage.name in PAID_STAGES or (stage.name == "pretrain" and stage.id not in free)
        if costs and stage.id not in {known.id for known in paid.values()}:
            paid[name] = stage
    return paid


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
        bases: Sequence[Stage],
        *,
        recipe: Recipe,
        seed: int,
        label: str = "",
        pairing: str = "",
    ) -> dict[str, Stage]:
        """The stages that write the text of an arm of the kind `arm`, by name, base among them.

        `recipe` has the arm's settings; `seed` is of tuning and synthesis, `label` what sets their
        labels apart, `pairing` those of the stages from embed to pairs.

        Each of `bases` begins a writer, with the seeds from `seed` on; of several writers the first
        has the names, `synthesize` is the stage that joins their texts, and all that they have of
        their own is named as `tune of writer 2`.
        """
        needs = shares(recipe.budget.synthetic_tokens, len(bases))
        writers = []
        for number, (base, need) in enumerate(zip(bases, needs, strict=True)):
            of_writer = f", writer {number + 1}" if number else ""
            writers.append(
                self._writer(
                    arm,
                    base,
                    recipe=recipe,
                    seed=seed + number,
                    need=need,
                    label=label + of_writer,
                    pairing=pairing + of_writer,
                )
            )
        chain = dict(writers[0])
        if len(writers) > 1:
            texts = [writer["synthesize"] for writer in writers]
            for number, writer in enumerate(writers, 1):
                chain |= {f"{name} of writer {number}": stage for name, stage in writer.items()}
            chain["synthesize"] = self._pool(texts, recipe, label)
        if arm != "self_distillation" and recipe.synthesize.megadocuments and "synthesize" in chain:
            unique = {name: self.corpus[name] for name in ("corpus", "tokenizer")}
            chain["megadocuments"] = self.add(
                MegadocumentsStage(
                    {"draws": recipe.synthesize.megadocuments},
                    {**unique, "synthesize": chain["synthesize"]},
                    seed=recipe.seed,
                    label=f"megadocuments{label}",
                )
            )
        return chain

    def _pool(self, texts: Sequence[Stage], recipe: Recipe, label: str) -> Stage:
        inputs = {f"writer_{number}": text for number, text in enumerate(texts, 1)}
        return self.add(
            PoolStage(
                {},
                {"tokenizer": self.corpus["tokenizer"], **inputs},
                seed=recipe.seed,
                label=f"pool{label}",
            )
        )

    def _writer(
        self,
        arm: str,
        base: Stage,
        *,
        recipe: Recipe,
        seed: int,
        need: int,
        label: str,
        pairing: str,
    ) -> dict[str, Stage]:
        """The stages of one writer of `need` tokens.

        sbp: the base model, tuned on the pairs, given seed documents. random_pairs: the same, but
        for the pairs. self_distillation: the base model as it is, given nothing. real_context: no
        model, the pairs themselves.
        """
        if arm == "self_distillation":
            base = self.add(base)
            return {
                "base": base,
                "synthesize": self._synthesize({"base": base}, recipe, seed, need, label),
            }
        chain = self._pairing(base, recipe, pairing)
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
        tuning, writing = {**found}, {}
        if recipe.tune.initial == "base":
            tuning["base"] = self.add(base)
        if recipe.synthesize.best_of > 1:
            writing["base"] = self.add(base)
        writing["tune"] = self._tune(tuning, recipe, seed, label)
        written = self._synthesize(writing, recipe, seed, need, label)
        return chain | tuning | writing | {"synthesize": written}

    def _pairing(self, base: Stage, recipe: Recipe, label: str) -> dict[str, Stage]:
        numerics, pairs = self.numerics, recipe.pairs
        unique = {name: self.corpus[name] for name in ("corpus", "tokenizer")}
        embed_inputs, embed_config = dict(unique), encoder_settings(pairs)
        read_with: dict[str, Stage] = {}
        if pairs.encoder == "lm":
            embed_inputs["base"] = read_with["base"] = self.add(base)
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
        return read_with | {"embed": embed, "neighbours": neighbours, "pairs": judged}

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
        corpus = self.corpus["corpus"]
        unique = {"corpus": corpus, "tokenizer": self.corpus["tokenizer"]}
        pairs = self.add(
            RandomPairsStage(
                recipe.tune.validation_setting(),
                {**unique, "pairs": found["pairs"]},
                seed=recipe.seed,
                label=f"{of}pairs{label}",
            )
        )
        drawn = {"pairs": pairs}
        if "validation_pairs" in found:
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
        start = "initial" if recipe.tune.initial == "scratch" else "initial_checkpoint"
        return self.add(
            TuneStage(
                {
                    "model": recipe.model.model_dump(mode="json"),
                    "loop": loop_identity(settings),
                    "passes": settings["passes"],
                    **recipe.tune.validation_setting(),
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
        self, model: Mapping[str, Stage], recipe: Recipe, seed: int, need: int, label: str
    ) -> Stage:
        settings = recipe.synthesize
        config = {
            "model": recipe.model.model_dump(mode="json"),
            "sampling": settings.model_dump(mode="json", include=set(SamplingConfig.model_fields)),
            "draws_per_prompt": settings.draws_per_prompt,
            "filters": settings.filters.model_dump(mode="json"),
            "need_tokens": need,
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
