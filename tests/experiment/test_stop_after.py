"""A run in pieces of limited time comes to the same result as one in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synboot.core.errors import OutOfTime
from synboot.core.events import QuietDisplay, read_events
from synboot.experiment.recipe import load_recipe
from synboot.experiment.run import run_recipe
from synboot.experiment.stages.process import own_threads


@pytest.mark.slow
def test_pieces_come_to_the_same_result(finished_run: Path, tmp_path: Path) -> None:
    recipe = load_recipe(finished_run / "small.yaml")
    runs, seconds, pieces, result = tmp_path / "runs", 0.5, 0, None
    with own_threads():
        while result is None:
            pieces += 1
            try:
                result = run_recipe(recipe, runs, display=QuietDisplay(), stop_after=seconds)
            except OutOfTime:
                seconds *= 1.3  # on a slow machine too it comes to an end
    whole = finished_run / "small" / "result.json"
    assert (runs / "small" / "result.json").read_bytes() == whole.read_bytes()
    assert pieces > 2
    events = list(read_events(runs / "small" / "events.jsonl"))
    assert sum(event["event"] == "out_of_time" for event in events) == pieces - 1


@pytest.mark.slow
def test_the_program_says_so_and_ends_with_4(synboot: Any, small_recipe: Path) -> None:
    runs = small_recipe.parent / "runs"
    options = ["--runs", str(runs), "--stop-after", "0.01s"]
    outcome = synboot("run", str(small_recipe), *options)
    assert outcome.returncode == 4, outcome.stderr
    assert "synboot: interrupted: the time given, 0:00, is over; the same" in outcome.stderr
    assert not (runs / "small" / "result.json").exists()
