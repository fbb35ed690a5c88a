"""report: the page that shows what a run, or a comparison of models, found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from synboot.core.config import validate
from synboot.core.errors import BadInput
from synboot.core.judgement import Judge
from synboot.core.storage import atomic_file, digest, read_json
from synboot.experiment.arm_scores import compare_scores
from synboot.experiment.figures_statistics import sizes_figure
from synboot.experiment.judges import FinishedJudge
from synboot.experiment.phrases import is_number
from synboot.experiment.plan import make_plan
from synboot.experiment.recipe import Recipe
from synboot.experiment.report import is_report, page_for, write_page
from synboot.experiment.report_data import ReportData
from synboot.experiment.result import build_report_data
from synboot.experiment.run import RunPaths
from synboot.experiment.search.found import read_search
from synboot.experiment.sizes import advantages, standing_lines
from synboot.experiment.stages.evaluation import read_scores
from synboot.experiment.statistics.losses import MIN_RESAMPLES
from synboot.experiment.statistics.scores import Scores
from synboot.experiment.summary import comparison_table
from synboot.pipeline.stage import MANIFEST, Artifact
from synboot.verbs.work import Outcome, output_path, read_stamp

Files = str | Path | Sequence[str | Path]
Source = str | Path | Sequence[str] | Mapping[str, Files]
_LATER = ("quality", "embed for quality", "seed use")
"""How the labels of stages begin that runs of before did not have, and no other stage needs."""
_BESIDE = (
    *("corpus.documents.test", "corpus.bytes.test", "unique.tokens", "model.parameters"),
    "arms.repetition.test.bits_per_byte",
)
"""Numbers that a result must have to stand beside another one; on test text SBP's too."""
_BESIDE_ON_TEST = (*_BESIDE, "arms.sbp.test.bits_per_byte")
_OF_MODEL = ("trained_tokens", "mixture", "flops")


def report(
    source: Source,
    output: str | Path,
    *,
    seed: int | None = None,
    bootstrap_resamples: int | None = None,
    note: str | Sequence[str] | None = None,
    overwrite: bool = False,
) -> Outcome:
    """Write the page of a finished run (its directory, such as runs/demo), or of a comparison:
    `{arm: file of evaluate}`, several files an arm for several training seeds (or a list of
    `arm=file`). Arms are named as in a recipe: gains are over `repetition`, recovered needs `sbp`
    and `oracle` too. Runs after the first stand beside it: SBP's gains by size, a curve that is
    written alone too (`output`, ending in .svg), their tables, and variants that were compared on
    validation text; files are the search.json of searches, whose trials are shown. An output that
    ends in .md has the sentences and tables without drawings and samples. `seed` (0) and
    `bootstrap_resamples` (10,000) are of a comparison; a run has its own. What `note` says, such as
    what was left out, stands below the headline.

    Counts: the result, as in result.json, of several runs with the others as `beside` and what is
    said of size as `standing`. Raises BadInput.
    """
    path = output_path(output, ".html", ".md")
    if path.exists() and not (path.is_file() and is_report(path)):
        raise BadInput(f"{path}: is there already and is no report of synboot; name another output")
    arms = _arms(source)
    if isinstance(arms, list):
        if seed is not None or bootstrap_resamples is not None:
            raise BadInput("seed, bootstrap_resamples: a run has its own; expected none")
        if len({each.resolve() for each in arms}) < len(arms):
            raise BadInput("expected each run and each search once")
        runs = [each for each in arms if not each.is_file()]
        if not runs:
            raise BadInput(f"{arms[0]}: expected the directory of a run beside it")
        beside = [_result_of(run) for run in runs[1:]]
        searches = [read_search(each) for each in arms if each.is_file()]
        data = replace(_of_run(runs[0]), beside=beside, searches=searches)
        if beside and not advantages(data.result):
            raise BadInput(f"{runs[0]}: expected a run that compares sbp with repetition")
    else:
        resamples = 10_000 if bootstrap_resamples is None else bootstrap_resamples
        data = _of_scores(arms, seed=seed or 0, num_resamples=resamples)
    page = page_for(
        path, replace(data, said=(note,) if isinstance(note, str) else tuple(note or ()))
    )
    if path.exists() and path.read_bytes() != page.encode("utf-8") and not overwrite:
        raise BadInput(f"{path}: is there already; name another output, or say --overwrite")
    curve = sizes_figure([data.result, *data.beside])
    if curve is not None:
        _write_curve(curve, path.with_suffix(".svg"), overwrite)
    write_page(page, path)
    counts, standing = data.result, standing_lines([data.result, *data.beside])
    if data.beside:
        counts = {**counts, "beside": list(data.beside), "standing": standing}
    return Outcome(path, digest(counts), counts, "\n".join([comparison_table(counts), *standing]))


def _write_curve(curve: str, path: Path, overwrite: bool) -> None:
    if path.exists() and not path.is_file():
        raise BadInput(f"{path}: is there already and no file; name another output")
    there = path.read_text(errors="replace") if path.exists() else curve
    ours = there.startswith(curve[: curve.index(":")])
    if not ours or (there != curve and not overwrite):
        hint = ", or say --overwrite" if ours else ""
        raise BadInput(f"{path}: is there already; name another output{hint}")
    with atomic_file(path, "w") as file:
        file.write(curve)


def _arms(source: Source) -> list[Path] | Mapping[str, Files]:
    """The directories of runs and files of searches, or the files of each arm."""
    if isinstance(source, Mapping) and source:
        return source
    words = [str(source)] if isinstance(source, (str, Path)) else [str(word) for word in source]
    arms: dict[str, list[str | Path]] = {}
    for word in words:
        arm, equals, file = word.partition("=")
        if equals and arm and not Path(word).exists():
            arms.setdefault(arm, []).append(file)
    if not words:
        raise BadInput("expected at least one arm and its scores")
    if not arms:
        return [Path(word) for word in words]
    if sum(map(len, arms.values())) != len(words):
        raise BadInput(
            "expected directories of runs and search.json of searches, or ARM=SCORES for every arm"
        )
    return arms


def _result_of(directory: Path) -> dict[str, Any]:
    """The result of a finished run, as it stands, if it can stand beside another one."""
    file = directory / "result.json"
    try:
        result = read_json(file)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{directory}: expected the directory of a finished run with its result.json: {error}"
        ) from None
    of_choice = isinstance(result, dict) and result.get("split") == "valid"
    for name in _BESIDE if of_choice else _BESIDE_ON_TEST:
        value: Any = result
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not is_number(value):
            raise BadInput(f"{file}: field {name}: expected a number, got {value!r}")
    if not of_choice and not advantages(result):
        raise BadInput(f"{file}: expected a run that compares sbp with repetition")
    return dict(result)


def _of_run(directory: Path) -> ReportData:
    try:
        values = read_json(directory / "recipe.json")
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{directory}: expected the directory of a run with its recipe.json: {error}"
        ) from None
    recipe = validate(Recipe, values, str(directory / "recipe.json"))
    store = RunPaths(directory.parent, recipe.name).store
    content, tasks = _content(directory), _task_content(directory)
    plan = make_plan(recipe, directory.parent, content, tasks, _judge(directory))
    artifacts = {}
    for stage in plan.stages:
        artifact = Artifact.open(stage.directory(store))
        if artifact is None and stage.label.startswith(_LATER):
            continue
        if artifact is None:
            raise BadInput(
                f"{directory}: the run is not finished, {stage.label} is missing; synboot run first"
            )
        artifacts[stage.id] = artifact
    if plan.quality is not None and plan.quality.id not in artifacts:
        plan.quality = None
    plan.seed_use = {arm: stage for arm, stage in plan.seed_use.items() if stage.id in artifacts}
    plan.stages[:] = [stage for stage in plan.stages if stage.id in artifacts]
    return build_report_data(plan, artifacts)


def _content(directory: Path) -> str:
    """The digest of the bytes of a run's corpus, which may be elsewhere by now."""
    try:
        stages = read_json(directory / "stages.json")
        corpus = next(stage for stage in stages if stage["name"] == "corpus")
        manifest = read_json(directory.parent / corpus["directory"] / MANIFEST)
        return str(manifest["config"]["content"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise BadInput(f"{directory}: the run has not read its corpus yet ({error!r})") from None


def _task_content(directory: Path) -> dict[str, str]:
    """The digests of the bytes of a run's task files, by task."""
    stages = read_json(directory / "stages.json")
    items = next((stage for stage in stages if stage["name"] == "items"), None)
    if items is None:
        return {}
    try:
        tasks = read_json(directory.parent / items["directory"] / MANIFEST)["config"]["tasks"]
        return {name: str(own["content"]) for name, own in tasks.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{directory}: the run has not read its tasks yet ({error!r})") from None


def _judge(directory: Path) -> Judge | None:
    """Who judged the synthetic text of a run, if anyone did."""
    try:
        stages = read_json(directory / "stages.json")
        quality = next(stage for stage in stages if stage["name"] == "quality")
        config = read_json(directory.parent / quality["directory"] / MANIFEST)["config"]
        return FinishedJudge(config["judge"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None


def _of_scores(source: Mapping[str, Files], *, seed: int, num_resamples: int) -> ReportData:
    if num_resamples < MIN_RESAMPLES:
        raise BadInput(
            f"bootstrap_resamples: expected {MIN_RESAMPLES} at least, got {num_resamples}"
        )
    scores: dict[str, list[Scores]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for arm, files in source.items():
        paths = [Path(f) for f in ([files] if isinstance(files, (str, Path)) else files)]
        if not paths or len({path.resolve() for path in paths}) < len(paths):
            raise BadInput(f"{arm}: expected scores, each file once")
        scores[arm] = [_scores(path) for path in paths]
        stamp = read_stamp(paths[0]) or {}
        trained = (stamp.get("model") or {}).get("counts") or {}
        facts[arm] = {name: trained[name] for name in _OF_MODEL if name in trained}
    return compare_scores("comparison", scores, facts, seed=seed, num_resamples=num_resamples)


def _scores(path: Path) -> Scores:
    if not path.is_file():
        raise BadInput(f"{path}: expected the scores that evaluate wrote, there is no such file")
    try:
        return read_scores(path)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise BadInput(f"{path}: expected the scores that evaluate wrote: {error}") from None
