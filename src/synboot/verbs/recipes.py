"""The verbs on recipes: run, status, plan and search; each gives what the program prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synboot.core.config import read_recipe
from synboot.core.errors import SynbootError
from synboot.core.events import display_for
from synboot.experiment.costs.outlook import outlook
from synboot.experiment.costs.table import outlook_table
from synboot.experiment.recipe import load_recipe
from synboot.experiment.run import RunPaths, describe_run, run_recipe
from synboot.experiment.search.run import describe_search, search_recipe
from synboot.experiment.search.table import planned_table, search_table
from synboot.experiment.summary import comparison_table, stage_table


def run_recipe_at(
    path: Path,
    runs: Path,
    settings: Sequence[str],
    until: str | None = None,
    stop_after: float | None = None,
    share: bool = False,
    *,
    as_json: bool = False,
) -> str:
    """Run the recipe at `path`; its comparison, or with `until` its stages."""
    recipe, display = load_recipe(path, settings), display_for(sys.stderr)
    result = run_recipe(
        recipe, runs, display=display, until=until, stop_after=stop_after, share=share
    )
    if result is None:
        return describe_run_of(path, runs, settings, until, as_json=as_json)
    paths = RunPaths(runs, recipe.name)
    places = f"\n\nreport: {paths.report}\nresult: {paths.result}"
    return _shown(result, lambda found: comparison_table(found) + places, as_json)


def describe_run_of(
    path: Path,
    runs: Path,
    settings: Sequence[str],
    until: str | None = None,
    *,
    as_json: bool = False,
) -> str:
    """The stages of the recipe at `path` and which of them are done."""
    return _shown(describe_run(load_recipe(path, settings), runs, until), stage_table, as_json)


def plan_recipe(
    path: Path, runs: Path, settings: Sequence[str], *, measure: bool = True, as_json: bool = False
) -> str:
    """What the recipe at `path` will cost."""
    found = outlook(load_recipe(path, settings), runs, measure=measure)
    return _shown(found, outlook_table, as_json)


def search_recipe_at(
    path: Path,
    runs: Path,
    settings: Sequence[str],
    stop_after: float | None = None,
    share: bool = False,
    *,
    as_json: bool = False,
) -> str:
    """Tune every arm of the recipe at `path` alike; the trials and what they came to."""
    recipe = load_recipe(path, settings)
    found = search_recipe(
        recipe,
        runs,
        display=display_for(sys.stderr),
        stop_after=stop_after,
        share=share,
        written=read_recipe(path),
    )
    directory = RunPaths(runs, recipe.name).directory
    places = [f"{name}: {directory / name}" for name in ("search.json", "frozen.yaml")]
    return _shown(found, lambda one: "\n".join([search_table(one), "", *places]), as_json)


def describe_search_of(
    path: Path, runs: Path, settings: Sequence[str], *, as_json: bool = False
) -> str:
    """The trials of the recipe at `path` and which of them are done."""
    return _shown(describe_search(load_recipe(path, settings), runs), planned_table, as_json)


def packaged_recipe(name: str) -> Path:
    """A recipe that comes with synboot: inside an installed package, or in its source tree."""
    package = Path(__file__).parents[1]
    for folder in (package / "recipes", package.parents[1] / "recipes"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise SynbootError(f"the recipe {name} did not come with this installation")


def _shown(
    found: Mapping[str, Any], table: Callable[[Mapping[str, Any]], str], as_json: bool
) -> str:
    return json.dumps(found, indent=2) if as_json else table(found)
