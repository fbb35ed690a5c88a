"""Evaluation tasks in a run's result: what the arms answer, and which items they may have seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from synboot.core.intervals import proportion_interval
from synboot.data.ngrams import WINDOW_WORDS
from synboot.eval.contamination import MIN_WORDS
from synboot.experiment.stages.contamination import read_contaminated
from synboot.experiment.stages.tasks import read_task_scores
from synboot.experiment.task_scores import TaskScores, compare_arms
from synboot.pipeline.stage import Artifact

Run = tuple[str, int]
"""An arm and its training seed."""


def task_results(
    runs: Mapping[Run, Artifact],
    contamination: Artifact,
    *,
    seed: int,
    num_resamples: int,
) -> dict[str, Any]:
    """`tasks` and `contamination` of a result, from the answers of every arm and training seed."""
    answers = {run: read_task_scores(own.file("tasks.parquet")) for run, own in runs.items()}
    found = read_contaminated(contamination)
    tasks: dict[str, Any] = {}
    overlaps: dict[str, Any] = {}
    resampling = {"seed": seed, "num_resamples": num_resamples}
    for task in next(iter(answers.values())):
        scores: dict[str, dict[int, TaskScores]] = {}
        for (arm, training_seed), own in answers.items():
            scores.setdefault(arm, {})[training_seed] = own[task]
        tasks[task] = compare_arms(scores, **resampling)
        overlaps[task] = _overlap(contamination.counts["tasks"][task])
        overlaps[task]["accuracy"] = {
            "all": _accuracies(tasks[task]),
            "without_contaminated": _without(found[task], scores, tasks[task], resampling),
        }
        overlaps[task]["contaminated_in_any"] = int(np.count_nonzero(found[task]))
    windows = {"words": WINDOW_WORDS, "min_words": MIN_WORDS}
    return {"tasks": tasks, "contamination": {**windows, "tasks": overlaps}}


def _without(
    contaminated: npt.NDArray[np.bool_],
    scores: Mapping[str, Mapping[int, TaskScores]],
    compared: Mapping[str, Any],
    resampling: Mapping[str, int],
) -> dict[str, Any] | None:
    """Accuracies of the items that are left, `compared` those of all; None where none is left."""
    if contaminated.all():
        return None
    if not contaminated.any():
        return _accuracies(compared)
    kept = {
        arm: {number: own.chosen(~contaminated) for number, own in of_arm.items()}
        for arm, of_arm in scores.items()
    }
    return _accuracies(compare_arms(kept, **resampling))


def _overlap(counts: Mapping[str, Any]) -> dict[str, Any]:
    judged = counts["items"] - counts["too_short"]
    return {
        "items": counts["items"],
        "too_short": counts["too_short"],
        "sources": {
            name: {
                "contaminated": count,
                "share_of_judged": count / judged if judged else None,
                **dict(zip(("low", "high"), _ends(count, judged), strict=True)),
            }
            for name, count in counts["contaminated"].items()
        },
    }


def _ends(count: int, judged: int) -> tuple[float | None, float | None]:
    """Of the share's 95% Wilson interval."""
    return proportion_interval(count, judged) if judged else (None, None)


def _accuracies(compared: Mapping[str, Any]) -> dict[str, Any]:
    return {arm: facts["accuracy"] for arm, facts in compared["arms"].items()}
