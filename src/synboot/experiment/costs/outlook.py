"""What a recipe and its search will cost before they start: stage by stage, and in all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from synboot.core.errors import BadInput
from synboot.experiment.costs.estimate import Estimate, Estimator, preset_of
from synboot.experiment.costs.machine import Speed, speed_of
from synboot.experiment.costs.text import Text, corpus_artifacts, oracle_tokens, text_of
from synboot.experiment.plan import Plan, make_plan
from synboot.experiment.recipe import Recipe
from synboot.experiment.run import RunPaths
from synboot.experiment.search.ahead import Ahead, StageAhead
from synboot.experiment.search.trials import Trials
from synboot.experiment.stages.corpus import check_oracle
from synboot.model.settings import num_parameters, shape_of
from synboot.pipeline.stage import Artifact, Stage

_FLOAT_BYTES = 4
_NEIGHBOUR_BYTES = 12
"""Of one: its number and its similarity."""
_TRAINED_COPIES = 2
"""Model directories of a training stage: best and last."""
_CHECKPOINT_COPIES = 7
"""Of the weights while a stage trains: two checkpoints with two moments each, and the best."""

Outlook = dict[str, Any]


def outlook(recipe: Recipe, runs: Path, *, measure: bool = True) -> Outlook:
    """Tokens, FLOPs, hours, disk and memory of a recipe, and under `search` of its search; what is
    done already costs nothing more.

    Writes no artifact: below `runs` at most a world's corpus, and the speed of this machine where
    it is measured. Without `measure` no hours and no memory are told.
    """
    plan = make_plan(recipe, runs)
    store = RunPaths(runs, recipe.name).store

    def artifact(stage: Stage) -> Artifact | None:
        return Artifact.open(stage.directory(store))

    artifacts = corpus_artifacts(plan, artifact)
    text = text_of(plan, artifacts)
    if artifacts and "oracle" in recipe.experiment.arms:
        check_oracle(artifacts["tokens"], recipe.budget.oracle_multiple)
    estimator = Estimator(recipe, text, artifact)
    speed = speed_of(recipe, runs, *estimator.lengths_of_draws()) if measure else None
    stages = []
    for stage in plan.stages:
        done = artifact(stage) is not None
        estimate = estimator.of(stage)
        seconds = None if done or speed is None else _seconds(stage, estimate, speed, recipe)
        stages.append(_described(stage, "done" if done else "missing", estimate, seconds))
    left = [stage for stage in stages if stage["status"] == "missing"]
    missing = [stage for stage in plan.stages if artifact(stage) is None]
    return {
        "recipe": recipe.name,
        "text": {
            "counted": text.exact,
            "tokens": text.num_tokens,
            "unique_tokens": text.unique_tokens,
            "unique_documents": text.unique_documents,
            "oracle_tokens": oracle_tokens(recipe, artifacts, text),
            "vocab_size": text.vocab_size,
        },
        "parameters": num_parameters(shape_of(recipe.model.preset), text.vocab_size)[0],
        "stages": stages,
        "to_do": _total(left),
        "done": _total([stage for stage in stages if stage["status"] == "done"]),
        "disk_bytes": _disk(recipe, text, missing),
        "peak_memory_bytes": None if speed is None else _memory(recipe, speed, missing),
        "not_estimated": _not_estimated(left),
        "search": None if recipe.search is None else _search(plan, runs, estimator, text, speed),
        "speed": None if speed is None else _shown_speed(speed),
    }


def _search(
    plan: Plan, runs: Path, estimator: Estimator, text: Text, speed: Speed | None
) -> Outlook:
    """What the search of a plan's recipe brings about, each stage once, and what of it is done."""
    recipe, paths = plan.recipe, RunPaths(runs, plan.recipe.name)
    try:
        # The files have been read: standard input can be read once only.
        trials = Trials(recipe, runs, str(plan.corpus["corpus"].config["content"]))
    except BadInput as error:  # as for a frozen recipe, whose winners hide what would be tried
        return {"refused": str(error)}
    ahead = Ahead(trials, paths).stages
    stages = []
    for one in ahead:
        estimate, seconds = _of_search(one, estimator.of(one.stage), trials), None
        if one.status == "missing" and speed is not None:
            seconds = _seconds(one.stage, estimate, speed, recipe)
        facts = {"decided": one.decided, "trial": one.trial, "shared": one.shared}
        stages.append(_described(one.stage, one.status, estimate, seconds) | facts)
    left = [stage for stage in stages if stage["status"] == "missing"]
    missing = [one.stage for one in ahead if one.status == "missing"]
    return {
        "refused": None,
        "trials": sum(stage["trial"] for stage in stages),
        "trials_by_status": {
            status: sum(stage["trial"] and stage["status"] == status for stage in stages)
            for status in ("done", "diverged", "missing")
        },
        "arms": trials.arms,
        "trials_per_arm": len(trials.settings),
        "trials_of_tune": len(trials.tune_settings),
        "training_tokens": trials.training_tokens,
        "stages": stages,
        "to_do": _total(left),
        "shared_to_do": _total([stage for stage in left if stage["shared"]]),
        "done": _total([stage for stage in stages if stage["status"] == "done"]),
        "disk_bytes": _disk(recipe, text, missing),
        "peak_memory_bytes": None if speed is None else _memory(recipe, speed, missing),
        "not_estimated": _not_estimated(left),
    }


def _of_search(one: StageAhead, estimate: Estimate, trials: Trials) -> Estimate:
    """An estimate for whatever settings will win: they change what tuning and text take, but of
    pretraining, unless batches are searched, neither tokens nor FLOPs."""
    settled = one.stage.name == "pretrain" and "pretrain.batch_rows" not in trials.search.space
    if one.decided or settled or estimate.basis != "exact" or not estimate.flops:
        return estimate
    return replace(estimate, basis="estimated")


def _not_estimated(left: list[Outlook]) -> list[str]:
    return sorted({stage["name"] for stage in left if stage["basis"] == "unknown"})


def _described(stage: Stage, status: str, estimate: Estimate, seconds: float | None) -> Outlook:
    return {
        "name": stage.name,
        "label": stage.label,
        "id": stage.id,
        "status": status,
        "basis": estimate.basis,
        "tokens": estimate.tokens,
        "flops": estimate.flops,
        "validation_flops": estimate.validation_flops,
        "seconds": seconds,
    }


def _seconds(stage: Stage, estimate: Estimate, speed: Speed, recipe: Recipe) -> float | None:
    """Of a stage that computes; reading, filters and comparing texts are not counted."""
    if estimate.flops is None:
        return None
    if stage.name == "synthesize":
        processes = recipe.runtime.workers if stage.numerics["device"] == "cpu" else 1
        seconds = estimate.sampled / speed.sampled_tokens_per_second / processes
        return seconds * _times_as_large(stage, recipe)
    # Forward passes alone are taken to be as fast, by their FLOPs, as whole steps.
    return (estimate.flops + estimate.validation_flops) / speed.training_flops_per_second


def _total(stages: list[Outlook]) -> Outlook:
    """Sums; hours only where something was measured."""
    seconds = [stage["seconds"] for stage in stages if stage["seconds"] is not None]
    return {
        "stages": len(stages),
        "trained_tokens": sum(
            s["tokens"] or 0 for s in stages if s["name"] in ("pretrain", "tune")
        ),
        "flops": sum(stage["flops"] or 0 for stage in stages),
        "validation_flops": sum(stage["validation_flops"] for stage in stages),
        "hours": sum(seconds) / 3600 if seconds else None,
    }


def _disk(recipe: Recipe, text: Text, missing: list[Stage]) -> int:
    """Bytes that the missing stages leave or need at once, roughly."""
    trained = [stage for stage in missing if stage.name in ("pretrain", "tune")]
    weights = [_weights(preset_of(stage, recipe), text.vocab_size) for stage in trained]
    token_bytes = 2 if text.vocab_size <= 1 << 16 else 4
    written = text.bytes_per_token + token_bytes
    each: Mapping[str, float] = {
        "corpus": text.num_tokens * text.bytes_per_token,
        "tokens": text.num_tokens * token_bytes,
        "embed": text.unique_documents * recipe.pairs.dimensions * _FLOAT_BYTES,
        "neighbours": text.unique_documents * recipe.pairs.top_k * _NEIGHBOUR_BYTES,
        "pool": recipe.budget.synthetic_tokens * written,
    }
    kept = sum(
        stage.config["need_tokens"] * written
        if stage.name == "synthesize"
        else each.get(stage.name, 0)
        for stage in missing
    )
    kept += sum(weights) * _TRAINED_COPIES
    return round(kept + max(weights, default=0) * _CHECKPOINT_COPIES)


def _weights(preset: str, vocab_size: int) -> int:
    """Bytes of a model's weights."""
    return _FLOAT_BYTES * num_parameters(shape_of(preset), vocab_size)[0]


def _memory(recipe: Recipe, speed: Speed, missing: list[Stage]) -> int:
    """The peak of the stage that needs most: training in one process, or sampling in all; of
    writers that are larger than what was measured, at most so much."""
    processes = recipe.runtime.workers if speed.machine["device"] == "cpu" else 1
    measured = {
        "pretrain": speed.training_bytes,
        "tune": speed.training_bytes,
        "synthesize": speed.sampling_bytes * processes,
    }
    return round(
        max(
            (
                measured[stage.name] * max(_times_as_large(stage, recipe), 1)
                for stage in missing
                if stage.name in measured
            ),
            default=0,
        )
    )


def _times_as_large(stage: Stage, recipe: Recipe) -> float:
    """A stage's model over the recipe's, which speed and memory were measured with, by weights."""
    vocab_size = recipe.tokenizer.vocab_size
    own, measured = preset_of(stage, recipe), recipe.model.preset
    return _weights(own, vocab_size) / _weights(measured, vocab_size)


def _shown_speed(speed: Speed) -> Outlook:
    return {
        "training_flops_per_second": speed.training_flops_per_second,
        "sampled_tokens_per_second_of_a_process": speed.sampled_tokens_per_second,
        "processor": speed.machine["processor"],
        "device": speed.machine["device"],
    }
