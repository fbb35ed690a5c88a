"""What a finished run comes to: `result.json` and what the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from synboot.core.storage import read_json
from synboot.data.ngrams import all_windows, count_found, with_windows
from synboot.experiment.plan import Plan
from synboot.experiment.report import ReportData
from synboot.experiment.stages.corpus import (
    heldout_documents,
    largest_oracle_multiple,
    oracle_facts,
)
from synboot.experiment.stages.evaluation import read_scores
from synboot.experiment.statistics import (
    MIN_DOCUMENTS,
    Interval,
    Metric,
    Scores,
    mean_scores,
    paired_bootstrap,
    recovered,
)
from synboot.experiment.task_results import task_results
from synboot.model.architecture import num_parameters, shape_of
from synboot.pipeline.stage import Artifact, Stage

METRICS: tuple[Metric, ...] = ("bits_per_byte", "nats_per_token")
_TOKEN_COUNTS = ("trained_tokens", "sampled_tokens", "tokens", "unique_tokens")
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
    scores = {
        run: read_scores(artifacts[stage.id].file("scores.parquet"))
        for run, stage in plan.evaluate.items()
    }
    mean: dict[str, Scores] = {
        arm: mean_scores([s for (name, _), s in scores.items() if name == arm])
        for arm in recipe.experiment.arms
    }
    resampling = {"seed": recipe.seed, "num_resamples": recipe.evaluate.bootstrap_resamples}
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
            arm: _arm_facts(plan, artifacts, arm, scores, mean[arm])
            for arm in recipe.experiment.arms
        },
        "comparisons": comparisons(mean, **resampling),
        "recovered": recovered_shares(mean, **resampling),
        "ledger": _ledger(plan, artifacts),
        "stages": {
            stage.label: stage.id for stage in sorted(plan.stages, key=lambda stage: stage.label)
        },
    }
    if "oracle" in recipe.experiment.arms:
        tokens = artifacts[plan.corpus["tokens"].id]
        result["oracle"] = {
            "requested_multiple": recipe.budget.oracle_multiple,
            "largest_multiple": largest_oracle_multiple(tokens),
            **oracle_facts(tokens, recipe.budget.oracle_multiple),
        }
    if plan.bootstrap:
        result |= _bootstrap_facts(plan, artifacts)
    if plan.contamination is not None:
        answers: dict[tuple[str, int], Artifact] = {
            run: artifacts[stage.id] for run, stage in plan.tasks.items()
        }
        result |= task_results(answers, artifacts[plan.contamination.id], **resampling)
    result["caveats"] = _caveats(result) + _unequal_numerics(plan, artifacts)
    return result


def _bootstrap_facts(plan: Plan, artifacts: Artifacts) -> dict[str, Any]:
    own = {name: artifacts[stage.id].counts for name, stage in plan.bootstrap.items()}
    synthesize = _without_flops(own["synthesize"])
    budget = plan.recipe.budget
    return {
        "pairs": _without_flops(own["pairs"]),
        "synthesizer": {
            "initial_weights": own["tune"]["initial_weights"],
            "validation_loss_start": own["tune"]["initial_validation_loss"],
            "validation_loss_best": own["tune"]["best_validation_loss"],
            "best_step": own["tune"]["best_step"],
            "steps": own["tune"]["steps"],
            "training_pairs": own["tune"]["training_pairs"],
            "validation_pairs": own["tune"]["validation_pairs"],
            "crossing_pairs": own["tune"]["crossing_pairs"],
        },
        "synthetic": {
            **synthesize,
            "share_requested": budget.synthetic_share,
            "share": synthesize["tokens"] / budget.training_tokens,
            "heldout_overlap": _heldout_overlap(plan, artifacts),
        },
    }


def _without_flops(counts: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's counts as facts; its FLOPs stand in the ledger."""
    return {name: value for name, value in counts.items() if name != "flops"}


def _heldout_overlap(plan: Plan, artifacts: Artifacts) -> dict[str, float | int]:
    """How much of the synthetic text stands in the held-out text: reported, never filtered."""
    corpus = artifacts[plan.corpus["corpus"].id]
    heldout = heldout_documents(corpus, plan.recipe.evaluate.split)
    known = all_windows(heldout.texts(0, len(heldout)))
    synthetic = pq.ParquetFile(artifacts[plan.bootstrap["synthesize"].id].file("synthetic.parquet"))
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


def metrics(scores: Scores) -> dict[str, float]:
    """What an arm scores, in every unit."""
    return {
        "nats_per_token": scores.nats_per_token(),
        "perplexity": scores.perplexity(),
        "bits_per_byte": scores.bits_per_byte(),
    }


def comparisons(
    mean: Mapping[str, Scores], *, seed: int, num_resamples: int
) -> dict[str, dict[str, Any]]:
    """Gain of every arm over repetition, metric by metric."""
    if "repetition" not in mean:
        return {}
    return {
        arm: {
            metric: _gain(
                paired_bootstrap(
                    mean["repetition"], scores, metric, seed=seed, num_resamples=num_resamples
                ),
                len(scores.ids),
            )
            for metric in METRICS
        }
        for arm, scores in mean.items()
        if arm != "repetition"
    }


def recovered_shares(
    mean: Mapping[str, Scores], *, seed: int, num_resamples: int
) -> dict[str, Any] | None:
    """SBP's share of the oracle's gain, metric by metric; None without the three arms."""
    if not {"repetition", "sbp", "oracle"} <= set(mean):
        return None
    found: dict[str, Any] = {}
    for metric in METRICS:
        share = recovered(
            mean["repetition"],
            mean["sbp"],
            mean["oracle"],
            metric,
            seed=seed,
            num_resamples=num_resamples,
        )
        found[metric] = {
            "value": share.value,
            "low": share.interval.low if share.interval else None,
            "high": share.interval.high if share.interval else None,
            "refused": share.refused,
        }
    return found


def _gain(interval: Interval, num_documents: int) -> dict[str, float | None]:
    """A gain; without an interval where the documents are too few to resample."""
    if num_documents < MIN_DOCUMENTS:
        return {"gain": interval.estimate, "low": None, "high": None}
    return {"gain": interval.estimate, "low": interval.low, "high": interval.high}


def _ledger(plan: Plan, artifacts: Artifacts) -> list[dict[str, Any]]:
    """Tokens and FLOPs of every stage, and the arms that need it. Stages that only read, sort and
    compare text have no FLOPs."""
    arms_of: dict[str, list[str]] = {}

    def need(stage: Stage, arm: str) -> None:
        arms = arms_of.setdefault(stage.id, [])
        if arm not in arms:
            arms.append(arm)
        for source in stage.inputs.values():
            need(source, arm)

    for (arm, _), stage in [*plan.evaluate.items(), *plan.tasks.items()]:
        need(stage, arm)
    ledger = []
    for stage in plan.stages:
        counts = artifacts[stage.id].counts
        tokens = next((counts[name] for name in _TOKEN_COUNTS if name in counts), None)
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
    seeds = {len(arm["seeds"]) for arm in result["arms"].values()}
    caveats = [
        f"{max(seeds)} training seed(s): intervals cover the choice of test documents, not of "
        "seeds; another seed can move every figure.",
        "Arms are matched in training tokens. SBP also pays for its base model, tuning and "
        "synthesis; the ledger has them.",
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
    if tuned and tuned["validation_loss_best"] >= tuned["validation_loss_start"]:
        caveats.append(
            "Tuning did not lower the loss on held-out pairs (from "
            f"{tuned['validation_loss_start']:.3f} to {tuned['validation_loss_best']:.3f} nats): "
            "the synthesizer is hardly more than the base model, and the gain of SBP may be that "
            "of the model's own samples. The self-distillation control would tell."
        )
    if result["oracle"] is not None and result["arms"]["oracle"]["mixture"][0]["passes"] < 1:
        caveats.append("The oracle saw only a part of its text: the training budget is smaller.")
    return caveats
