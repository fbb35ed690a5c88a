"""A search, run: what it finds, what it leaves unread, and that it goes on."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from synboot.cli import app
from synboot.core.errors import OutOfTime
from synboot.core.events import ReportProgress
from synboot.experiment.recipe import Recipe, load_recipe
from synboot.experiment.search.run import describe_search, search_recipe
from synboot.experiment.search.table import planned_table, search_table
from synboot.experiment.stages.process import own_threads

sys.path.append(str(Path(__file__).parents[1]))

from blind import assert_test_text_unread, blind

ARMS = ["repetition", "sbp"]
SEARCH = {
    "trials": 4,
    "training_tokens": 1024,
    "space": {"pretrain.learning_rate": [0.008, 1e30], "pretrain.weight_decay": [0.1, 3.0]},
}


class Recorder:
    """A display that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.shares: list[float] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def task(self, name: str) -> Iterator[ReportProgress]:
        def report(done: float, total: float, note: str) -> None:
            if name == "8 trials":
                assert total == 8
                self.shares.append(done)

        yield report


@pytest.fixture(scope="module")
def searched(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A search in a store whose test text is rubbish of the same length, watched."""
    runs = tmp_path_factory.mktemp("searched") / "runs"
    shutil.copytree(finished_run, runs)
    values = yaml.safe_load((runs / "small.yaml").read_text())
    values |= {"name": "tuned", "experiment": {"arms": ARMS}, "search": SEARCH}
    values["tune"].pop("validation_fraction", None)
    values["tune"]["validate_on"] = "validation_text"
    path = runs / "tuned.yaml"
    path.write_text(yaml.safe_dump(values))
    recipe, display = load_recipe(path), Recorder()
    with blind(runs) as read, own_threads():
        found = search_recipe(recipe, runs, display=display)
    found_by = {"recipe": recipe, "runs": runs, "display": display, "path": path}
    return {**found_by, "found": found, "read": read}


@pytest.mark.slow
class TestSearch:
    def test_test_text_is_never_opened(self, searched: dict[str, Any]) -> None:
        """Rubbish in its place changes nothing, and of its files none is opened."""
        assert_test_text_unread(searched["read"])
        assert any(path.startswith("/pretrain/") for path in searched["read"])

    def test_winners_are_the_lowest_on_validation(self, searched: dict[str, Any]) -> None:
        found, runs = searched["found"], searched["runs"]
        assert json.loads((runs / "tuned" / "search.json").read_text()) == found
        assert list(found["arms"]) == ARMS
        tried = [t["settings"] for t in found["arms"]["sbp"]["trials"]]
        for one in found["arms"].values():
            assert [t["settings"] for t in one["trials"]] == tried
            losses = {
                t["trial"]: t["validation_loss"] for t in one["trials"] if "diverged" not in t
            }
            assert one["winner"] == min(losses, key=losses.__getitem__)
            assert one["validation_loss"] == min(losses.values())
            assert one["gain_over_own_settings"] == losses[0] - min(losses.values())
            for trial in one["trials"]:
                if "diverged" in trial:
                    continue
                assert trial["trained_tokens"] == 1024
                assert trial["steps"] == 2
                directory = runs / "artifacts" / "pretrain" / trial["stage"]
                history = json.loads((directory / "history.json").read_text())
                losses_on_the_way = [point["validation_loss"] for point in history]
                assert trial["validation_loss"] == min(losses_on_the_way)

    def test_a_trial_that_diverges_is_one_that_lost(self, searched: dict[str, Any]) -> None:
        for one in searched["found"]["arms"].values():
            for trial in one["trials"]:
                absurd = trial["settings"]["pretrain.learning_rate"] > 1
                assert ("diverged" in trial) is absurd
                assert (trial["validation_loss"] is None) is absurd
        table = search_table(searched["found"])
        assert table.count("diverged") == sum(
            t["settings"]["pretrain.learning_rate"] > 1
            for one in searched["found"]["arms"].values()
            for t in one["trials"]
        )
        assert "repetition" in table

    def test_the_frozen_recipe_has_the_winners(self, searched: dict[str, Any]) -> None:
        found = searched["found"]
        frozen = yaml.safe_load((searched["runs"] / "tuned" / "frozen.yaml").read_text())
        overrides = frozen["experiment"].pop("overrides")
        assert overrides == {arm: one["settings"] for arm, one in found["arms"].items()}
        base = found["arms"]["repetition"]["settings"]
        assert found["base"]["settings"] == base
        recipe = Recipe.model_validate(frozen)
        changed = {name.removeprefix("pretrain."): value for name, value in base.items()}
        given: Recipe = searched["recipe"]
        assert recipe.pretrain == given.pretrain.model_copy(update=changed)
        assert recipe.model_copy(update={"pretrain": given.pretrain}) == given

    def test_progress_is_that_of_all_trials(self, searched: dict[str, Any]) -> None:
        shares = searched["display"].shares
        assert shares == sorted(shares)
        assert shares[0] == 0
        assert 7 < shares[-1] <= 8
        lines = searched["display"].lines
        assert any(line.startswith("1 of 8: repetition, learning_rate 0.004") for line in lines)

    def test_what_is_done_is_not_done_again(self, searched: dict[str, Any]) -> None:
        recipe, runs = searched["recipe"], searched["runs"]
        before = (runs / "tuned" / "search.json").read_bytes()
        store = sorted(path.parent for path in runs.glob("artifacts/pretrain/*/manifest.json"))
        times = [path.stat().st_mtime_ns for path in store]
        (runs / "tuned" / "search.json").unlink()
        display = Recorder()
        with own_threads():
            search_recipe(recipe, runs, display=display)
        assert (runs / "tuned" / "search.json").read_bytes() == before
        assert [path.stat().st_mtime_ns for path in store] == times
        assert any("trials done before" in line for line in display.lines)

    def test_time_that_is_over_ends_it(self, searched: dict[str, Any]) -> None:
        recipe: Recipe = searched["recipe"]
        assert recipe.search is not None
        other = recipe.search.model_copy(update={"seed": 1001})
        changed = recipe.model_copy(update={"search": other})
        with own_threads(), pytest.raises(OutOfTime, match=r"is over; .* before trial 0 of rep"):
            search_recipe(changed, searched["runs"], display=Recorder(), stop_after=0.0)

    def test_a_dry_run_says_what_is_missing_and_writes_nothing(
        self, searched: dict[str, Any], tmp_path: Path
    ) -> None:
        runs, path = searched["runs"], searched["path"]
        options = ["--runs", str(runs), "--dry-run", "--json"]
        outcome = CliRunner().invoke(app, ["search", str(path), *options])
        assert outcome.exit_code == 0
        described = json.loads(outcome.stdout)
        assert described["missing"] == 0
        for arm, one in searched["found"]["arms"].items():
            for trial, row in zip(one["trials"], described["arms"][arm], strict=True):
                assert row["stage"] == trial["stage"]
                assert row["status"] == ("diverged" if "diverged" in trial else "done")
                assert row["validation_loss"] == trial["validation_loss"]
        nowhere = tmp_path / "runs"
        fresh = describe_search(searched["recipe"], nowhere)
        assert not nowhere.exists()
        assert fresh["missing"] == 8
        assert fresh["known_flops_to_do"] > 0
        assert "after repetition's winner" in planned_table(fresh)
