"""From a recipe to its stages; shared ancestors appear once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synboot.core.errors import BadInput
from synboot.core.judgement import Judge
from synboot.data.files import Paths, corpus_bytes_digest, spool_stream
from synboot.experiment.arm_settings import REFERENCE, SAME_COST
from synboot.experiment.arms import WITH_PAIRED, WITH_SYNTHETIC, arm_names, arm_sources
from synboot.experiment.chains import ChainPlanner, num_writers, paid_stages
from synboot.experiment.numerics import Numerics, numerics_of
from synboot.experiment.quality_plan import plan_quality
from synboot.experiment.recipe import STANDARD_INPUT, Recipe
from synboot.experiment.stages.corpus import CorpusStage, TokenizerStage, TokensStage
from synboot.experiment.stages.evaluation import EnsembleStage, EvaluateStage
from synboot.experiment.stages.seed_use import SeedUseStage
from synboot.experiment.stages.training import COST_OF, PretrainStage, loop_identity
from synboot.experiment.task_plan import contamination_stage, items_stage, tasks_stage
from synboot.model.flops import cost_of_shape, training_flops
from synboot.model.settings import shape_of
from synboot.pipeline.stage import Stage
from synboot.worlds.facts import world as facts
from synboot.worlds.pydocs import fingerprint, write_pydocs

Run = tuple[str, int]
"""An arm and its training seed."""

_ROUND = ", round "


@dataclass
class Plan:
    """The stages of a run in an order where inputs come first, and what each is for."""

    recipe: Recipe
    stages: list[Stage] = field(default_factory=list)
    corpus: dict[str, Stage] = field(default_factory=dict)
    """corpus, tokenizer, tokens."""
    bootstrap: dict[str, Stage] = field(default_factory=dict)
    """embed, neighbours, pairs, base, tune, synthesize of the first seed, if the run has the sbp
    arm."""
    chains: dict[Run, dict[str, Stage]] = field(default_factory=dict)
    """What writes the text of each arm with synthetic text (`ChainPlanner.chain`)."""
    quality: Stage | None = None
    """Of the synthetic text, if the run has any."""
    seed_use: dict[str, Stage] = field(default_factory=dict)
    """Of the synthesizer of each arm that has one, with the first seed."""
    pretrain: dict[Run, Stage] = field(default_factory=dict)
    evaluate: dict[Run, Stage] = field(default_factory=dict)
    ensembles: dict[str, Stage] = field(default_factory=dict)
    """By arm, of all its seeds."""
    tasks: dict[Run, Stage] = field(default_factory=dict)
    contamination: Stage | None = None

    @property
    def arms(self) -> list[str]:
        """The arms in the order they are shown in."""
        return list(dict.fromkeys(arm for arm, _ in self.pretrain))

    def add(self, stage: Stage, after: Stage | None = None) -> Stage:
        """Put a stage at the end, or right after another one, unless an equal one is there; returns
        the one that is there."""
        for known in self.stages:
            if known.id == stage.id:
                return known
        place = len(self.stages) if after is None else self.stages.index(after) + 1
        self.stages.insert(place, stage)
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


def make_plan(
    recipe: Recipe,
    runs: Path,
    content: str | None = None,
    task_content: Mapping[str, str] | None = None,
    judge: Judge | None = None,
) -> Plan:
    """All stages of a recipe. Reads corpus and task files once, for the digests of their bytes,
    unless those are known as `content` and `task_content`, and a judge's model, unless `judge`
    says who judged, and nothing will be run."""
    plan = Plan(recipe)
    numerics = numerics_of(recipe.runtime)
    paths = corpus_file(recipe, runs) if content is None else ()
    _plan_corpus(plan, paths, content or corpus_bytes_digest(paths), numerics)
    items = items_stage(
        recipe.evaluate.tasks,
        {name: plan.corpus[name] for name in ("corpus", "tokenizer")},
        seed=recipe.seed,
        content=task_content,
        world=recipe.corpus.world,
    )
    if items is not None:
        plan.add(items)  # before any training: its files may be bad
    seeds = recipe.experiment.seeds
    _plan_chains(plan, numerics)
    if plan.bootstrap:
        # Of sbp with the first seed: other text is for the verb quality.
        plan.quality = plan_quality(plan, numerics.parts, runs / "answers", judge)
    for (arm, seed), chain in plan.chains.items():
        if seed == seeds[0] and "tune" in chain:
            plan.seed_use[arm] = plan.add(_seed_use(plan, arm, chain, numerics))
    for arm in arm_names(recipe.experiment):
        for seed in seeds:
            planned = _pretrain(plan, arm, seed, numerics)
            known = plan.add(planned)
            if known.id not in {stage.id for stage in plan.pretrain.values()}:
                known.label = planned.label  # it may be that of a base model, or of a round
            plan.pretrain[arm, seed] = known
    for run, pretrain in plan.pretrain.items():
        plan.evaluate[run] = plan.add(_evaluate(plan, run, pretrain, numerics))
    if recipe.experiment.ensembles:
        for arm in plan.arms:
            plan.ensembles[arm] = plan.add(_ensemble(plan, arm, numerics))
    if items is not None:
        for run, pretrain in plan.pretrain.items():
            own = tasks_stage(recipe, run, items, pretrain, plan.corpus, numerics)
            plan.tasks[run] = plan.add(own)
        looked = contamination_stage(recipe, items, plan.corpus, plan.chains, numerics)
        plan.contamination = plan.add(looked)
    if len({stage.label for stage in plan.stages}) < len(plan.stages):
        raise AssertionError("two stages have one label")
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


def _plan_chains(plan: Plan, numerics: Numerics) -> None:
    """What writes the text of arms: once, with the first seed, or for every seed."""
    recipe, seeds = plan.recipe, plan.recipe.experiment.seeds
    for arm in (*recipe.experiment.arms, *recipe.experiment.variants):
        if recipe.experiment.kind_of(arm) not in (*WITH_SYNTHETIC, WITH_PAIRED):
            continue
        for place, seed in enumerate(seeds):
            if place and not recipe.experiment.bootstrap_per_seed:
                plan.chains[arm, seed] = plan.chains[arm, seeds[0]]
            else:
                plan.chains[arm, seed] = _chain(plan, arm, seed, numerics)
    plan.bootstrap = plan.chains.get(("sbp", seeds[0]), {})


def _chain(plan: Plan, arm: str, seed: int, numerics: Numerics) -> dict[str, Stage]:
    """The chain of an arm and a training seed, of its last round."""
    recipe, first = plan.recipe, plan.recipe.experiment.seeds[0]
    own, kind = recipe.of_arm(arm), recipe.experiment.kind_of(arm)
    planner = ChainPlanner(plan.add, plan.corpus, numerics)
    of_seed = f", seed {seed}" if seed != first else ""
    of_arm = "" if arm == "sbp" else f" {arm}"
    variant = recipe.experiment.variants.get(arm)
    # One for each writer.
    trained = [seed + number for number in range(num_writers(recipe, arm))]
    base = recipe.of_base_model(arm)
    bases = [
        _pretrain(
            plan,
            REFERENCE,
            own_seed,
            numerics,
            recipe=base,
            label=f"pretrain base of {arm}, seed {own_seed}" if own.base_model.settings() else None,
        )
        for own_seed in trained
    ]
    chain: dict[str, Stage] = {}
    for round_ in range(1, (variant.rounds if variant else 1) + 1):
        of_round = f"{_ROUND}{round_}" if round_ > 1 else ""
        model = own.model if chain else base.model
        if chain:
            before = f"{_ROUND}{round_ - 1}"
            bases = [
                _pretrain(
                    plan,
                    arm,
                    own_seed,
                    numerics,
                    chain=chain,
                    label=f"pretrain {arm}, seed {own_seed}{before}",
                )
                for own_seed in trained
            ]
        shared = not of_round and _pairs_alike(own, recipe)
        chain = planner.chain(
            kind,
            bases,
            recipe=own.model_copy(update={"model": model}),
            seed=recipe.seed + seed - first,  # the first is that of the recipe
            label=f"{of_arm}{of_seed}{of_round}",
            pairing=of_seed if shared else f" {arm}{of_seed}{of_round}",
        )
    return chain


def _pairs_alike(one: Recipe, other: Recipe) -> bool:
    """Whether the same base model leads both to the same pairs."""
    decided_by = [(of.pairs, of.tune.initial_checkpoint, of.base_model) for of in (one, other)]
    return decided_by[0] == decided_by[1]


def _text_of(chain: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stage of a chain whose text is trained on, as an input."""
    if "paired" in chain:
        return {"paired": chain["paired"]}
    return {"synthesize": chain.get("megadocuments", chain["synthesize"])}


def _pretrain(
    plan: Plan,
    arm: str,
    seed: int,
    numerics: Numerics,
    *,
    recipe: Recipe | None = None,
    chain: Mapping[str, Stage] | None = None,
    label: str | None = None,
) -> PretrainStage:
    """Training of an arm with its settings, or those of `recipe`, on its text, or that of
    `chain`."""
    own, kind = recipe or plan.recipe.of_arm(arm), plan.recipe.experiment.kind_of(arm)
    inputs = {name: plan.corpus[name] for name in ("tokenizer", "tokens")}
    config = {
        "model": own.model.model_dump(mode="json"),
        "loop": loop_identity(own.pretrain.model_dump(mode="json")),
        "sources": arm_sources(kind, own.budget, own.experiment),
    }
    if kind in (*WITH_SYNTHETIC, WITH_PAIRED):
        chain = chain or plan.chains[arm, seed]
        inputs |= _text_of(chain)
        if own.pretrain.order != "mixed":
            config["order"] = own.pretrain.order
    if arm == SAME_COST:
        paid = paid_stages(plan.chains["sbp", seed], plan.pretrain.values())  # of all arms before
        inputs |= {f"{COST_OF}{name}": source for name, source in paid.items()}
        config["sources"] = arm_sources(kind, own.budget, own.experiment, tuple(paid))
    return PretrainStage(
        config,
        inputs,
        seed=seed,
        numerics=numerics.training,
        label=label or f"pretrain {arm}, seed {seed}",
        checkpoint_seconds=own.runtime.checkpoint_seconds,
    )


def _evaluate(plan: Plan, run: Run, pretrain: Stage, numerics: Numerics) -> EvaluateStage:
    return EvaluateStage(
        _scoring(plan.recipe),
        {**plan.corpus, "pretrain": pretrain},
        seed=plan.recipe.seed,
        numerics=numerics.scoring,
        label=f"evaluate {run[0]}, seed {run[1]}",
    )


def _seed_use(plan: Plan, arm: str, chain: Mapping[str, Stage], numerics: Numerics) -> SeedUseStage:
    """On related pairs, whatever the synthesizer was tuned on."""
    own, tune = plan.recipe.of_arm(arm), chain["tune"]
    named = {name: chain[name] for name in ("pairs", "validation_pairs") if name in chain}
    inputs = {name: stage.inputs.get(name, stage) for name, stage in named.items()}
    config = {"model": tune.config["model"], **own.tune.validation_setting()}
    if "base" in tune.inputs:
        inputs["base"] = tune.inputs["base"]
        config["base_checkpoint"] = own.tune.initial_checkpoint
    return SeedUseStage(
        config,
        {**plan.corpus, **inputs, "tune": tune},
        seed=tune.seed,
        numerics=numerics.scoring,
        label="seed use" if arm == "sbp" else f"seed use {arm}",
    )


def _ensemble(plan: Plan, arm: str, numerics: Numerics) -> EnsembleStage:
    seeds = enumerate(plan.recipe.experiment.seeds)
    return EnsembleStage(
        _scoring(plan.recipe),
        {**plan.corpus, **{f"pretrain_{place}": plan.pretrain[arm, seed] for place, seed in seeds}},
        seed=plan.recipe.seed,
        numerics=numerics.scoring,
        label=f"ensemble {arm}",
    )


def _scoring(recipe: Recipe) -> dict[str, Any]:
    """What held-out scores depend on beside text and models."""
    return {
        "split": recipe.evaluate.split,
        "checkpoint": recipe.evaluate.checkpoint,
        "model": recipe.model.model_dump(mode="json"),
    }


def planned_cost(stage: Stage, recipe: Recipe) -> Mapping[str, int | None]:
    """Tokens and FLOPs of a stage as far as they are known beforehand; None where they depend on
    earlier results. Training rows are counted at their full length."""
    vocab_size, context = recipe.tokenizer.vocab_size, recipe.model.context
    if stage.name == "pretrain":
        if any("and_flops_of" in source for source in stage.config["sources"]):
            return {"tokens": None, "flops": None}
        tokens = sum(source["tokens"] for source in stage.config["sources"])
        rows = {context: -(-tokens // context)}
        return {
            "tokens": tokens,
            "flops": training_flops(
                cost_of_shape(shape_of(stage.config["model"]["preset"]), vocab_size), rows
            ),
        }
    if stage.name == "synthesize":
        return {"tokens": stage.config["need_tokens"], "flops": None}
    return {"tokens": None, "flops": None}


def pretrain_stage(plan: Plan, arm: str, seed: int, numerics: Numerics) -> PretrainStage:
    """The training of an arm with the plan's recipe, corpus and chains; not put into the plan."""
    return _pretrain(plan, arm, seed, numerics)
