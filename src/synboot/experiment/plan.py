"""From a recipe to its stages; shared ancestors appear once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from synboot.core.errors import BadInput
from synboot.data.files import Paths, corpus_bytes_digest, spool_stream
from synboot.experiment.arms import arm_sources
from synboot.experiment.numerics import Numerics, numerics_of
from synboot.experiment.recipe import STANDARD_INPUT, ArmName, Recipe
from synboot.experiment.stages.corpus import CorpusStage, TokenizerStage, TokensStage
from synboot.experiment.stages.evaluation import EvaluateStage
from synboot.experiment.stages.pairing import EmbedStage, NeighboursStage, PairsStage
from synboot.experiment.stages.synthesis import SynthesizeStage
from synboot.experiment.stages.training import PretrainStage, TuneStage, loop_identity
from synboot.model.architecture import shape_of
from synboot.model.flops import cost_of_shape, training_flops
from synboot.pairs.encoders.encoder import encoder_settings
from synboot.pairs.filters import PairFilterConfig
from synboot.pipeline.stage import Stage
from synboot.synth.engine import SamplingConfig
from synboot.worlds.facts import world as facts
from synboot.worlds.pydocs import fingerprint, write_pydocs

Run = tuple[ArmName, int]
"""An arm and its training seed."""


@dataclass
class Plan:
    """The stages of a run in an order where inputs come first, and what each is for."""

    recipe: Recipe
    stages: list[Stage] = field(default_factory=list)
    corpus: dict[str, Stage] = field(default_factory=dict)
    """corpus, tokenizer, tokens."""
    bootstrap: dict[str, Stage] = field(default_factory=dict)
    """embed, neighbours, pairs, base, tune, synthesize, if the run has the sbp arm."""
    pretrain: dict[Run, Stage] = field(default_factory=dict)
    evaluate: dict[Run, Stage] = field(default_factory=dict)

    def add(self, stage: Stage) -> Stage:
        """Put a stage at the end unless an equal one is there; returns the one that is there."""
        for known in self.stages:
            if known.id == stage.id:
                return known
        self.stages.append(stage)
        return stage

    def until(self, name: str | None) -> list[Stage]:
        """The stages up to the last one called `name` (all by default). Raises BadInput."""
        if name is None:
            return self.stages
        places = [place for place, stage in enumerate(self.stages) if stage.name == name]
        if not places:
            names = ", ".join(dict.fromkeys(stage.name for stage in self.stages))
            raise BadInput(f"--until {name}: expected one of {names}")
        return self.stages[: places[-1] + 1]


def corpus_file(recipe: Recipe, runs: Path) -> Paths:
    """Where the user's corpus lies, or the world's; standard input and worlds are written below
    `runs` if need be."""
    if recipe.corpus.path == STANDARD_INPUT:
        return str(spool_stream(sys.stdin.buffer, runs / "inputs"))
    if recipe.corpus.path is not None:
        return recipe.corpus.path
    if recipe.corpus.world == "facts":
        path = runs / "worlds" / f"{facts.fingerprint(recipe.corpus.facts)}.jsonl"
        if not path.exists():
            facts.write_facts(path, recipe.corpus.facts)
        return str(path)
    path = runs / "worlds" / f"pydocs-{fingerprint()}.jsonl"
    if not path.exists():
        write_pydocs(path)
    return str(path)


def make_plan(recipe: Recipe, runs: Path, content: str | None = None) -> Plan:
    """All stages of a recipe. Reads the corpus once, for the digest of its bytes, unless that is
    known as `content` and nothing will be run."""
    plan = Plan(recipe)
    numerics = numerics_of(recipe.runtime)
    paths = corpus_file(recipe, runs) if content is None else ()
    _plan_corpus(plan, paths, content or corpus_bytes_digest(paths), numerics)
    seeds = recipe.experiment.seeds
    if "sbp" in recipe.experiment.arms:
        _plan_bootstrap(plan, numerics)
    for arm in recipe.experiment.arms:
        for seed in seeds:
            run = (arm, seed)
            plan.pretrain[run] = plan.add(_pretrain(plan, arm, seed, numerics))
    for run, pretrain in plan.pretrain.items():
        plan.evaluate[run] = plan.add(_evaluate(plan, run, pretrain, numerics))
    return plan


def _plan_corpus(plan: Plan, paths: Paths, content: str, numerics: Numerics) -> None:
    recipe = plan.recipe
    settings = recipe.corpus.reading()
    if recipe.corpus.world is not None:
        settings["group_field"] = "group"
    config = {"content": content, **settings}
    corpus = plan.add(CorpusStage(config, seed=recipe.seed, paths=paths))
    tokenizer = plan.add(
        TokenizerStage(
            {
                "unique_tokens": recipe.budget.unique_tokens,
                "vocab_size": recipe.tokenizer.vocab_size,
            },
            {"corpus": corpus},
            seed=recipe.seed,
        )
    )
    inputs = {"corpus": corpus, "tokenizer": tokenizer}
    tokens = plan.add(TokensStage({}, inputs, seed=recipe.seed, numerics=numerics.parts))
    plan.corpus = {**inputs, "tokens": tokens}


def _plan_bootstrap(plan: Plan, numerics: Numerics) -> None:
    recipe, seed = plan.recipe, plan.recipe.seed
    pairs = recipe.pairs
    unique = {name: plan.corpus[name] for name in ("corpus", "tokenizer")}
    base: Stage = _pretrain(plan, "repetition", recipe.experiment.seeds[0], numerics)
    embed_inputs, embed_config = dict(unique), encoder_settings(pairs)
    if pairs.encoder == "lm":
        base = plan.add(base)
        embed_inputs["base"] = base
        embed_config["initial_checkpoint"] = recipe.tune.initial_checkpoint
    embed = plan.add(
        EmbedStage(
            embed_config,
            embed_inputs,
            seed=seed,
            numerics=numerics.parts if pairs.encoder == "lsa" else numerics.embedding,
            settings=pairs,
            base_checkpoint=recipe.tune.initial_checkpoint,
        )
    )
    neighbours = plan.add(
        NeighboursStage(
            pairs.neighbour_settings(),
            {"embed": embed},
            seed=seed,
            numerics=numerics.parts,
            device=numerics.embedding["device"],
        )
    )
    filters = pairs.model_dump(mode="json", include=set(PairFilterConfig.model_fields))
    judged = plan.add(PairsStage(filters, {**unique, "neighbours": neighbours}, seed=seed))
    base = plan.add(base)
    model = recipe.model.model_dump(mode="json")
    settings = recipe.tune.model_dump(mode="json")
    tune = plan.add(
        TuneStage(
            {
                "model": model,
                "loop": loop_identity(settings),
                "passes": settings["passes"],
                "validation_fraction": settings["validation_fraction"],
                "initial_checkpoint": settings["initial_checkpoint"],
            },
            {**plan.corpus, "pairs": judged, "base": base},
            seed=seed,
            numerics=numerics.training,
            checkpoint_seconds=recipe.runtime.checkpoint_seconds,
        )
    )
    sampling = recipe.synthesize.model_dump(mode="json", include=set(SamplingConfig.model_fields))
    synthesize = plan.add(
        SynthesizeStage(
            {
                "model": model,
                "sampling": sampling,
                "draws_per_prompt": recipe.synthesize.draws_per_prompt,
                "filters": recipe.synthesize.filters.model_dump(mode="json"),
                "need_tokens": recipe.budget.synthetic_tokens,
            },
            {**plan.corpus, "tune": tune},
            seed=seed,
            numerics=numerics.draws,
            max_draws_per_seed=recipe.synthesize.max_draws_per_seed,
        )
    )
    plan.bootstrap = {
        "embed": embed,
        "neighbours": neighbours,
        "pairs": judged,
        "base": base,
        "tune": tune,
        "synthesize": synthesize,
    }


def _pretrain(plan: Plan, arm: ArmName, seed: int, numerics: Numerics) -> PretrainStage:
    recipe = plan.recipe
    inputs = {name: plan.corpus[name] for name in ("tokenizer", "tokens")}
    if arm == "sbp":
        inputs["synthesize"] = plan.bootstrap["synthesize"]
    return PretrainStage(
        {
            "model": recipe.model.model_dump(mode="json"),
            "loop": loop_identity(recipe.pretrain.model_dump(mode="json")),
            "sources": arm_sources(arm, recipe.budget),
        },
        inputs,
        seed=seed,
        numerics=numerics.training,
        label=f"pretrain {arm}, seed {seed}",
        checkpoint_seconds=recipe.runtime.checkpoint_seconds,
    )


def _evaluate(plan: Plan, run: Run, pretrain: Stage, numerics: Numerics) -> EvaluateStage:
    recipe = plan.recipe
    return EvaluateStage(
        {
            "split": recipe.evaluate.split,
            "checkpoint": recipe.evaluate.checkpoint,
            "model": recipe.model.model_dump(mode="json"),
        },
        {**plan.corpus, "pretrain": pretrain},
        seed=recipe.seed,
        numerics=numerics.scoring,
        label=f"evaluate {run[0]}, seed {run[1]}",
    )


def planned_cost(stage: Stage, recipe: Recipe) -> Mapping[str, int | None]:
    """Tokens and FLOPs of a stage as far as they are known beforehand; None where they depend on
    earlier results. Training rows are counted at their full length."""
    vocab_size, context = recipe.tokenizer.vocab_size, recipe.model.context
    if stage.name == "pretrain":
        tokens = sum(source["tokens"] for source in stage.config["sources"])
        rows = {context: -(-tokens // context)}
        return {
            "tokens": tokens,
            "flops": training_flops(cost_of_shape(shape_of(recipe.model.preset), vocab_size), rows),
        }
    if stage.name == "synthesize":
        return {"tokens": stage.config["need_tokens"], "flops": None}
    return {"tokens": None, "flops": None}
