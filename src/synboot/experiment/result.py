"""What a finished run comes to: `result.json` and what the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from synboot.core.storage import read_json
from synboot.data.ngrams import all_windows, count_found, with_windows
from synboot.experiment.arm_settings import REFERENCE, SAME_COST
from synboot.experiment.arms import rivals_of_variants
from synboot.experiment.ensembles import ensemble_facts
from synboot.experiment.findings import doubts, findings, metrics
from synboot.experiment.phrases import but_same_cost, of_own_samples, run_id, which_bases
from synboot.experiment.plan import Plan
from synboot.experiment.recipe import Recipe
from synboot.experiment.report_data import ReportData
from synboot.experiment.seed_use import seed_use_caveat, seed_use_facts
from synboot.experiment.stages.corpus import (
    heldout_documents,
    largest_oracle_multiple,
    oracle_facts,
)
from synboot.experiment.stages.evaluation import read_scores
from synboot.experiment.stages.pool import POOL
from synboot.experiment.stages.training import COST_OF
from synboot.experiment.statistics.scores import Scores, mean_scores
from synboot.experiment.task_results import task_results
from synboot.model.settings import num_parameters, shape_of
from synboot.pipeline.stage import Artifact, Stage

_LITTLE_NATS = 0.02
"""A token; a tuning that wins less, over its own choice of checkpoint, taught next to nothing."""
_TOKEN_COUNTS = ("trained_tokens", "sampled_tokens", "tokens", "unique_tokens")
_COUNTED_ONLY = (
    ("random_pairs", "pairs"),
    ("random_validation_pairs", "validation_pairs"),
)
"""Stages and inputs of theirs of which little more than the number is taken."""
Artifacts = Mapping[str, Artifact]
"""Finished artifacts by stage id."""


def build_report_data(plan: Plan, artifacts: Artifacts) -> ReportData:
    """Everything that the report shows, from finished artifacts alone."""
    return ReportData(
        result=build_result(plan, artifacts),
        curves=[
            {"arm": arm, "seed": seed, "points": read_json(artifacts[s.id].file("history.json"))}
            for (arm, seed), s in plan.pretrain.items()
        ],
        pairs=_pair_facts(plan, artifacts),
        synthetic=_synthetic_facts(plan, artifacts),
    )


def build_result(plan: Plan, artifacts: Artifacts) -> dict[str, Any]:
    """The value of `result.json`: no times, paths or host names, so that equal runs give equal
    bytes."""
    recipe = plan.recipe
    counts = {name: artifacts[stage.id].counts for name, stage in plan.corpus.items()}
    vocab_size, unique = counts["tokenizer"]["vocab_size"], counts["tokens"]["unique"]
    everything, rest = num_parameters(shape_of(recipe.model.preset), vocab_size)
    seeds = recipe.experiment.seeds
    scores = {
        run: read_scores(artifacts[stage.id].file("scores.parquet"))
        for run, stage in plan.evaluate.items()
    }
    resampling = {"seed": recipe.seed, "num_resamples": recipe.evaluate.bootstrap_resamples}
    of_arm = {arm: [scores[arm, seed] for seed in seeds] for arm in plan.arms}
    result: dict[str, Any] = {
        "schema": 1,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "corpus": _without_flops(counts["corpus"]),
        "unique": {
            "requested_tokens": recipe.budget.unique_tokens,
            "tokens": unique["tokens"],
            "documents": unique["documents"],
            "bytes": counts["tokenizer"]["unique_bytes"],
            "mean_document_tokens": unique["tokens"] / unique["documents"],
            "mean_document_tokens_of_rest": _mean_of_rest(counts["tokens"]),
        },
        "oracle": None,
        "model": {
            "preset": recipe.model.preset,
            "parameters": everything,
            "non_embedding_parameters": rest,
            "vocab_size": vocab_size,
            "context": recipe.model.context,
        },
        "training_tokens": recipe.budget.training_tokens,
        "checkpoint": recipe.evaluate.checkpoint,
        "split": recipe.evaluate.split,
        "arms": {
            arm: _arm_facts(plan, artifacts, arm, scores, mean_scores(own))
            for arm, own in of_arm.items()
        },
        **findings(
            of_arm,
            **resampling,
            multiples=_multiples(plan, artifacts),
            text_per_seed=recipe.experiment.bootstrap_per_seed,
            rivals_of=rivals_of_variants(recipe.experiment),
        ),
        "cost_inclusive": _cost_inclusive(plan, artifacts),
        **ensemble_facts(
            {
                arm: read_scores(artifacts[stage.id].file("scores.parquet"))
                for arm, stage in plan.ensembles.items()
            },
            len(seeds),
        ),
        "ledger": _ledger(plan, artifacts),
        "stages": {
            stage.label: stage.id for stage in sorted(plan.stages, key=lambda stage: stage.label)
        },
    }
    result["id"] = run_id(result)
    if "oracle" in recipe.experiment.arms:
        tokens = artifacts[plan.corpus["tokens"].id]
        result["oracle"] = {
            "requested_multiple": recipe.budget.oracle_multiple,
            "largest_multiple": largest_oracle_multiple(tokens),
            **oracle_facts(tokens, recipe.budget.oracle_multiple),
        }
    if plan.bootstrap:
        result |= _text_facts(plan, artifacts, "sbp")
    result["controls"] = {
        arm: _text_facts(plan, artifacts, arm)
        for arm in plan.arms
        if arm != "sbp" and "synthesize" in plan.chains.get((arm, seeds[0]), {})
    }
    if plan.quality is not None:
        result["quality"] = read_json(artifacts[plan.quality.id].file("quality.json"))
    if plan.contamination is not None:
        answers: dict[tuple[str, int], Artifact] = {
            run: artifacts[stage.id] for run, stage in plan.tasks.items()
        }
        result |= task_results(answers, artifacts[plan.contamination.id], **resampling)
    result["caveats"] = _caveats(result) + doubts(result) + _unequal_numerics(plan, artifacts)
    return result


def _text_facts(plan: Plan, artifacts: Artifacts, arm: str) -> dict[str, Any]:
    """What wrote the text of an arm, and what was written: of the first seed."""
    chain = plan.chains[arm, plan.recipe.experiment.seeds[0]]
    own = {name: artifacts[stage.id].counts for name, stage in chain.items()}
    synthesize = _without_flops(own["synthesize"])
    total = plan.recipe.budget.training_tokens
    facts: dict[str, Any] = _base_model_facts(plan, artifacts, arm) | {
        "synthetic": {
            **synthesize,
            "share_requested": plan.recipe.of_arm(arm).budget.synthetic_share,
            "share": synthesize["tokens"] / total,
            "heldout_overlap": _heldout_overlap(plan, artifacts, chain["synthesize"]),
        }
    }
    if "megadocuments" in own:
        facts["megadocuments"] = _without_flops(own["megadocuments"])
    if "pairs" in own:
        facts["pairs"] = _without_flops(own["pairs"])
    if "validation_pairs" in own:
        facts["validation_pairs"] = _without_flops(own["validation_pairs"])
    if tune := own.get("tune"):
        facts["synthesizer"] = {
            "initial_weights": tune["initial_weights"],
            "validation_loss_start": tune["initial_validation_loss"],
            "validation_loss_best": tune["best_validation_loss"],
            "validation_loss_last": tune["final_validation_loss"],
            "validated_on": tune.get("validated_on", "held_out_pairs"),
            "best_step": tune["best_step"],
            "steps": tune["steps"],
            "training_pairs": tune["training_pairs"],
            "validation_pairs": tune["validation_pairs"],
            "crossing_pairs": tune["crossing_pairs"],
        }
    if stage := plan.seed_use.get(arm):
        facts["synthesizer"]["seed_use"] = seed_use_facts(artifacts[stage.id])
    return facts


def _base_model_facts(plan: Plan, artifacts: Artifacts, arm: str) -> dict[str, Any]:
    """What an arm's base model has of its own; nothing where it is an arm of the run, such as
    repetition or the round before, or where there is none."""
    own = plan.recipe.of_arm(arm).base_model.settings()
    base = plan.chains[arm, plan.recipe.experiment.seeds[0]].get("base")
    if not own or base is None or base.id in {stage.id for stage in plan.pretrain.values()}:
        return {}
    preset = base.config["model"]["preset"]
    vocab_size = artifacts[plan.corpus["tokenizer"].id].counts["vocab_size"]
    everything, rest = num_parameters(shape_of(preset), vocab_size)
    size = {"preset": preset, "parameters": everything, "non_embedding_parameters": rest}
    return {"base_model": {**size, "settings": own}}


def _multiples(plan: Plan, artifacts: Artifacts) -> dict[str, float]:
    """The arms that are repetition of more and more unique text, and how many times the unique
    budget they have."""
    tokens, unique = artifacts[plan.corpus["tokens"].id], {REFERENCE: 1.0}
    for run, stage in plan.pretrain.items():
        if run[0] in plan.recipe.experiment.variants:
            continue  # an arm to be measured
        multiples = [source.get("multiple") for source in stage.config["sources"]]
        if None not in multiples:
            unique[run[0]] = oracle_facts(tokens, multiples[0])["multiple"]
    return {arm: multiple for arm, multiple in unique.items() if arm in plan.arms}


def _cost_inclusive(plan: Plan, artifacts: Artifacts) -> dict[str, Any] | None:
    """What repetition got for what SBP paid: tokens and FLOPs of the first seed."""
    stage = next((s for (arm, _), s in plan.pretrain.items() if arm == SAME_COST), None)
    if stage is None:
        return None
    tokens = artifacts[stage.id].counts["trained_tokens"]
    chain = plan.chains["sbp", plan.recipe.experiment.seeds[0]]
    bases = {own.id for own in chain.values() if own.name == "pretrain"}
    arms = {own.id for (arm, _), own in plan.pretrain.items() if arm != SAME_COST}
    return {
        "arm": SAME_COST,
        "flops_paid": {
            name.removeprefix(COST_OF): artifacts[source.id].counts["flops"]
            for name, source in stage.inputs.items()
            if name.startswith(COST_OF)
        },
        "extra_tokens": tokens - plan.recipe.budget.training_tokens,
        "tokens": tokens,
        "not_counted": [
            *which_bases(len(bases & arms), len(bases)),
            "comparing texts (pairs, filters) and validation, which are no training FLOPs",
        ],
    }


def _without_flops(counts: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's counts as facts; its FLOPs stand in the ledger."""
    return {name: value for name, value in counts.items() if name != "flops"}


def _heldout_overlap(plan: Plan, artifacts: Artifacts, synthesize: Stage) -> dict[str, float | int]:
    """How much of the synthetic text stands in the held-out text: reported, never filtered."""
    corpus = artifacts[plan.corpus["corpus"].id]
    heldout = heldout_documents(corpus, plan.recipe.evaluate.split)
    known = all_windows(heldout.texts(0, len(heldout)))
    synthetic = pq.ParquetFile(artifacts[synthesize.id].file("synthetic.parquet"))
    texts = (text for batch in synthetic.iter_batches(columns=["text"])
             for text in batch["text"].to_pylist())  # fmt: skip
    total = found = documents = 0
    for _, windows in with_windows(texts, str):
        inside = count_found(windows, known)
        total, found, documents = total + len(windows), found + inside, documents + (inside > 0)
    return {
        "windows": total,
        "windows_found": found,
        "share": found / max(total, 1),
        "documents": documents,
    }


def _arm_facts(
    plan: Plan, artifacts: Artifacts, arm: str, scores: Mapping[Any, Scores], mean: Scores
) -> dict[str, Any]:
    runs = [run for run in plan.pretrain if run[0] == arm]
    counts = {run[1]: artifacts[plan.pretrain[run].id].counts for run in runs}
    first = counts[runs[0][1]]
    return {
        **_variant_facts(plan.recipe, arm),
        "trained_tokens": first["trained_tokens"],
        "flops": first["flops"],
        "mixture": first["mixture"],
        "seeds": {
            str(seed): {
                "test": metrics(scores[run]),
                "best_step": counts[seed]["best_step"],
                "best_validation_loss": counts[seed]["best_validation_loss"],
                "final_validation_loss": counts[seed]["final_validation_loss"],
            }
            for run in runs
            for seed in [run[1]]
        },
        "test": metrics(mean),
    }


def _variant_facts(recipe: Recipe, arm: str) -> dict[str, Any]:
    """What makes an arm differ from the recipe; nothing of most arms."""
    facts: dict[str, Any] = {}
    if arm in recipe.experiment.variants:
        variant = recipe.experiment.variants[arm]
        facts = {"of": variant.of} | ({"rounds": variant.rounds} if variant.rounds > 1 else {})
    own = recipe.experiment.settings_of(arm)
    return facts | ({"settings": own} if own else {})


def _ledger(plan: Plan, artifacts: Artifacts) -> list[dict[str, Any]]:
    """Tokens and FLOPs of every stage, and the arms that need it. Stages that only read, sort and
    compare text have no FLOPs."""
    arms_of: dict[str, list[str]] = {}

    def need(stage: Stage, arm: str) -> None:
        arms = arms_of.setdefault(stage.id, [])
        if arm not in arms:
            arms.append(arm)
        for name, source in stage.inputs.items():
            # What another arm pays for: its cost, or the pairs of which only their number and the
            # documents held out are taken.
            if not name.startswith(COST_OF) and (stage.name, name) not in _COUNTED_ONLY:
                need(source, arm)

    for (arm, _), stage in [*plan.evaluate.items(), *plan.tasks.items()]:
        need(stage, arm)
    ledger = []
    for stage in plan.stages:
        counts = artifacts[stage.id].counts
        names = _TOKEN_COUNTS if stage.name != POOL else ("tokens",)  # which were sampled before
        tokens = next((counts[name] for name in names if name in counts), None)
        entry = {"stage": stage.name, "label": stage.label, "arms": arms_of.get(stage.id, [])}
        validation = {k: counts[k] for k in ("validation_flops",) if k in counts}
        ledger.append({**entry, "tokens": tokens, "flops": counts["flops"]} | validation)
    return ledger


def _pair_facts(plan: Plan, artifacts: Artifacts) -> dict[str, Any]:
    if not plan.bootstrap:
        return {}
    pairs = artifacts[plan.bootstrap["pairs"].id]
    return {**read_json(pairs.file("statistics.json")), **read_json(pairs.file("samples.json"))}


def _synthetic_facts(plan: Plan, artifacts: Artifacts) -> dict[str, Any]:
    if not plan.bootstrap:
        return {}
    synthesize = artifacts[plan.bootstrap["synthesize"].id]
    return {
        "counts": synthesize.counts["verdicts"],
        **read_json(synthesize.file("samples.json")),
    }


def _mean_of_rest(tokens: Mapping[str, Any]) -> float | None:
    """Mean tokens of the training documents that are not in the unique budget."""
    documents = tokens["train"]["documents"] - tokens["unique"]["documents"]
    rest = tokens["train"]["tokens"] - tokens["unique"]["tokens"]
    return rest / documents if documents else None


def _unequal_numerics(plan: Plan, artifacts: Artifacts) -> list[str]:
    """A caveat for every setting in which compared models were not trained alike."""
    caveats = []
    numerics = [artifacts[stage.id].manifest["numerics"] for stage in plan.pretrain.values()]
    for name in sorted({key for own in numerics for key in own}):
        values = list(dict.fromkeys(str(own.get(name)) for own in numerics))
        if len(values) > 1:
            caveats.append(f"The arms were not all trained with the same {name}: {values}.")
    return caveats


def _caveats(result: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing a figure of this run."""
    seeds = max(len(arm["seeds"]) for arm in result["arms"].values())
    one_seed = (
        "1 training seed: intervals cover the choice of test documents, not of seeds; another seed "
        "can move every figure."
    )
    bases = "base models" if "writers" in result.get("synthetic", {}) else "base model"
    caveats = [
        *([one_seed] if seeds == 1 else []),
        f"Arms are matched in training tokens{but_same_cost(result)}. SBP also pays for its "
        f"{bases}, tuning and synthesis; the ledger has them.",
        f"Models of {result['model']['parameters']:,} parameters and corpora of "
        f"{result['unique']['tokens']:,} tokens are far from the paper's scale.",
    ]
    unique = result["unique"]
    if unique["tokens"] < 0.95 * unique["requested_tokens"]:
        caveats.append(
            f"Whole groups of documents fill only {unique['tokens']:,} of the "
            f"{unique['requested_tokens']:,} unique tokens asked for."
        )
    mean, rest = unique["mean_document_tokens"], unique["mean_document_tokens_of_rest"]
    if rest is not None and not 0.8 < mean / rest < 1.25:
        caveats.append(
            f"Documents of the unique budget are {mean:.0f} tokens long on average and the "
            f"oracle's other documents {rest:.0f}: groups that fit a small budget are not like "
            "all groups, and part of the oracle's gain may be that difference."
        )
    if result.get("pairs") and result["pairs"]["kept"] < 0.25 * unique["documents"]:
        caveats.append(
            f"Only {result['pairs']['kept']} pairs were kept among {unique['documents']} "
            "documents: the synthesizer learned next to nothing of how they relate. Read the "
            "dropped pairs; a lower pairs.min_similarity may be right for this corpus."
        )
    tuned = result.get("synthesizer")
    if tuned and tuned["validation_loss_start"] - tuned["validation_loss_best"] < _LITTLE_NATS:
        caveats.append(
            f"Tuning hardly lowered the loss on {tuned['validated_on'].replace('_', ' ')}, if at "
            f"all (from {tuned['validation_loss_start']:.3f} to "
            f"{tuned['validation_loss_best']:.3f} nats a token): the synthesizer is hardly more "
            "than the base model, and the gain of SBP may be that of the model's own samples. "
            + of_own_samples(result)
        )
    caveats += seed_use_caveat(result)
    if result["oracle"] is not None and result["arms"]["oracle"]["mixture"][0]["passes"] < 1:
        caveats.append("The oracle saw only a part of its text: the training budget is smaller.")
    return caveats
