"""report: the page that shows what a run, or a comparison of models, found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from synboot.core.config import validate
from synboot.core.errors import BadInput
from synboot.core.storage import digest, read_json
from synboot.experiment.arm_scores import compare_scores
from synboot.experiment.plan import make_plan
from synboot.experiment.recipe import Recipe
from synboot.experiment.report import ReportData, is_report, write_report
from synboot.experiment.result import build_report_data
from synboot.experiment.run import RunPaths
from synboot.experiment.stages.evaluation import read_scores
from synboot.experiment.statistics import Scores
from synboot.experiment.summary import comparison_table
from synboot.pipeline.stage import Artifact
from synboot.verbs.work import Outcome, expect_suffix, read_stamp

Files = str | Path | Sequence[str | Path]
Source = str | Path | Sequence[str] | Mapping[str, Files]
_OF_MODEL = ("trained_tokens", "mixture", "flops")


def report(
    source: Source,
    output: str | Path,
    *,
    seed: int = 0,
    bootstrap_resamples: int = 10_000,
    overwrite: bool = False,
) -> Outcome:
    """Write the page of a finished run (its directory, such as runs/demo), or of a comparison:
    `{arm: file of evaluate}`, several files an arm for several training seeds (or a list of
    `arm=file`). Arms are named as in a recipe: gains are over `repetition`, recovered needs `sbp`
    and `oracle` too.

    Counts: the result, as in result.json. Raises BadInput.
    """
    path = expect_suffix(output, ".html")
    if path.exists() and not is_report(path):
        raise BadInput(f"{path}: is there already and is no report of synboot; name another output")
    if path.exists() and not overwrite:
        raise BadInput(f"{path}: is there already; name another output, or say --overwrite")
    arms = _arms(source)
    if isinstance(arms, Path):
        data = _of_run(arms)
    else:
        data = _of_scores(arms, seed=seed, num_resamples=bootstrap_resamples)
    write_report(data, path)
    return Outcome(path, digest(data.result), data.result, comparison_table(data.result))


def _arms(source: Source) -> Path | Mapping[str, Files]:
    """The directory of a run, or the files of each arm."""
    if isinstance(source, Mapping):
        return source
    words = [str(source)] if isinstance(source, (str, Path)) else [str(word) for word in source]
    arms: dict[str, list[str | Path]] = {}
    for word in words:
        arm, equals, file = word.partition("=")
        if equals and arm and not Path(word).exists():
            arms.setdefault(arm, []).append(file)
    if not arms and len(words) == 1:
        return Path(words[0])
    if sum(map(len, arms.values())) != len(words):
        raise BadInput("expected the directory of one run, or ARM=SCORES for every arm")
    return arms


def _of_run(directory: Path) -> ReportData:
    try:
        values = read_json(directory / "recipe.json")
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{directory}: expected the directory of a run with its recipe.json: {error}"
        ) from None
    recipe = validate(Recipe, values, str(directory / "recipe.json"))
    plan = make_plan(recipe, directory.parent)
    store = RunPaths(directory.parent, recipe.name).store
    artifacts = {}
    for stage in plan.stages:
        artifact = Artifact.open(stage.directory(store))
        if artifact is None:
            raise BadInput(
                f"{directory}: the run is not finished, {stage.label} is missing; synboot run first"
            )
        artifacts[stage.id] = artifact
    return build_report_data(plan, artifacts)


def _of_scores(source: Mapping[str, Files], *, seed: int, num_resamples: int) -> ReportData:
    if not source:
        raise BadInput("expected at least one arm and its scores")
    scores: dict[str, list[Scores]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for arm, files in source.items():
        paths = [Path(f) for f in ([files] if isinstance(files, (str, Path)) else files)]
        scores[arm] = [_scores(path) for path in paths]
        stamp = read_stamp(paths[0]) or {}
        trained = (stamp.get("model") or {}).get("counts") or {}
        facts[arm] = {name: trained[name] for name in _OF_MODEL if name in trained}
    return compare_scores("comparison", scores, facts, seed=seed, num_resamples=num_resamples)


def _scores(path: Path) -> Scores:
    try:
        return read_scores(path)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise BadInput(f"{path}: expected the scores that evaluate wrote: {error}") from None
