"""The verbs on recipes: run, status, plan and search; each gives what the program prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from synboot.core.events import display_for
from synboot.experiment.costs.outlook import outlook
from synboot.experiment.costs.table import outlook_table
from synboot.experiment.recipe import Recipe
from synboot.experiment.run import RunPaths, describe_run, run_recipe
from synboot.experiment.search.run import describe_search, search_recipe
from synboot.experiment.search.table import planned_table, search_table
from synboot.experiment.summary import comparison_table, stage_table


def run_and_show(
    recipe: Recipe,
    runs: Path,
    until: str | None = None,
    stop_after: float | None = None,
    share: bool = False,
    *,
    as_json: bool = False,
) -> str:
    """Run a recipe; its comparison, or with `until` its stages."""
    display = display_for(sys.stderr)
    result = run_recipe(
        recipe, runs, display=display, until=until, stop_after=stop_after, share=share
    )
    if result is None:
        return show_stages_of(recipe, runs, until, as_json=as_json)
    paths = RunPaths(runs, recipe.name)
    places = f"\n\nreport: {paths.report}\nresult: {paths.result}"
    return _shown(result, lambda found: comparison_table(found) + places, as_json)


def show_stages_of(
    recipe: Recipe, runs: Path, until: str | None = None, *, as_json: bool = False
) -> str:
    """The stages of a recipe and which of them are done."""
    return _shown(describe_run(recipe, runs, until), stage_table, as_json)


def show_plan_of(recipe: Recipe, runs: Path, *, measure: bool = True, as_json: bool = False) -> str:
    """What a recipe, and its search, will cost."""
    found = outlook(recipe, runs, measure=measure)
    return _shown(found, outlook_table, as_json)


def search_and_show(
    recipe: Recipe,
    written: Mapping[str, Any],
    runs: Path,
    stop_after: float | None = None,
    share: bool = False,
    *,
    as_json: bool = False,
) -> str:
    """Tune every arm of a recipe, in its file `written`, alike; its trials and winners."""
    found = search_recipe(
        recipe,
        runs,
        display=display_for(sys.stderr),
        stop_after=stop_after,
        share=share,
        written=written,
    )
    directory = RunPaths(runs, recipe.name).directory
    places = [f"{name}: {directory / name}" for name in ("search.json", "frozen.yaml")]
    return _shown(found, lambda one: "\n".join([search_table(one), "", *places]), as_json)


def show_trials_of(recipe: Recipe, runs: Path, *, as_json: bool = False) -> str:
    """The trials of a recipe and which of them are done."""
    return _shown(describe_search(recipe, runs), planned_table, as_json)


def _shown(
    found: Mapping[str, Any], table: Callable[[Mapping[str, Any]], str], as_json: bool
) -> str:
    return json.dumps(found, indent=2) if as_json else table(found)
