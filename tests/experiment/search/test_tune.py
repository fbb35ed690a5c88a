"""Trials of tuning: on the base's pairs, before any text, and what writes has the winner."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from synboot.cli import app
from synboot.core.errors import BadInput
from synboot.core.events import read_events
from synboot.experiment.plan import make_plan
from synboot.experiment.recipe import Recipe, load_recipe
from synboot.experiment.search.run import describe_search, search_recipe
from synboot.experiment.search.table import planned_table, search_table
from synboot.experiment.search.trials import Trials, with_ancestors
from synboot.experiment.stages.process import own_threads

ROOT = Path(__file__).parents[3]
CONTENT = "0" * 64
NOWHERE = Path("nowhere")
DEMO = (
    "search={trials: 2, space: {pretrain.weight_decay: [3.0]}, tune_trials: 5, "
    "tune_space: {tune.learning_rate: [1.0e-4, 1.0e-3], tune.passes: [1, 4]}}"
)
SEARCH = {
    "trials": 1,
    "training_tokens": 1024,
    "space": {"pretrain.weight_decay": [3.0]},
    "tune_trials": 5,
    "tune_space": {"tune.learning_rate": [1e-4, 1e30], "tune.passes": [1, 2]},
}


class Lines:
    """A display that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def task(self, name: str) -> Any:
        return nullcontext(lambda done, total, note: None)


def demo(*settings: str) -> Recipe:
    """Its own learning rate is none of the space."""
    return load_recipe(ROOT / "recipes" / "demo.yaml", ("tune.learning_rate=3.0e-4", *settings))


def trials_of(*settings: str) -> Trials:
    return Trials(demo(DEMO, *settings), NOWHERE, CONTENT)


class TestPlanned:
    def test_the_first_has_the_recipe_s_own_settings_and_is_its_synthesizer(self) -> None:
        trials = trials_of()
        assert trials.names == ["repetition", "tune", "sbp", "oracle"]
        assert trials.num_trials == 3 * 2 + 5
        tuned = trials.of("tune", trials.plan)
        own = trials.recipe.tune
        assert tuned[0].settings == {
            "tune.learning_rate": own.learning_rate,
            "tune.passes": own.passes,
        }
        chain = make_plan(demo(), NOWHERE, CONTENT).chains["sbp", 0]
        assert tuned[0].stage.id == chain["tune"].id
        for trial in tuned:
            assert trial.stage.inputs["pairs"].id == chain["pairs"].id
            assert trial.stage.config["passes"] == trial.settings["tune.passes"]
            loop = trial.stage.config["loop"]
            assert loop["learning_rate"] == trial.settings["tune.learning_rate"]
            assert trial.stage.seed == chain["tune"].seed
        assert len({trial.stage.id for trial in tuned}) == 5
        assert not {"synthesize"} & {s.name for s in with_ancestors([t.stage for t in tuned])}

    def test_the_base_of_the_trials_is_repetition_s_winner(self) -> None:
        trials = trials_of()
        plan = trials.of_base({"pretrain.weight_decay": 3.0})
        for trial in trials.of("tune", plan):
            assert trial.stage.inputs["base"].config["loop"]["weight_decay"] == 3.0

    def test_every_chain_has_the_winner_and_variants_their_own_above_it(self) -> None:
        variants = "experiment.variants={once: {of: sbp, set: {tune.passes: 1}}}"
        trials = trials_of("experiment.arms=[sbp, random_pairs]", variants)
        winners = {"pretrain.weight_decay": 3.0, "tune.learning_rate": 1e-4, "tune.passes": 4}
        plan = trials.of_base(winners)
        for arm, passes in (("sbp", 4), ("random_pairs", 4), ("once", 1)):
            tune = plan.chains[arm, 0]["tune"]
            assert tune.config["loop"]["learning_rate"] == 1e-4
            assert tune.config["passes"] == passes
            assert tune.inputs["base"].config["loop"]["weight_decay"] == 3.0
        won = {"tune.learning_rate": 1e-4, "tune.passes": 4}
        [winner] = [trial for trial in trials.of("tune", plan) if trial.settings == won]
        assert winner.stage.id == plan.chains["sbp", 0]["tune"].id

    def test_from_scratch_there_is_no_base_to_wait_for(self) -> None:
        trials = trials_of("tune.initial=scratch")
        stages = [trial.stage for trial in trials.of("tune", trials.plan)]
        assert all("base" not in stage.inputs for stage in stages)
        assert "pretrain" not in {stage.name for stage in with_ancestors(stages)}
        # Its trials say which text it writes: nothing is tuned, or written, before them.
        before = {stage.name for stage in trials.before_training}
        assert "pairs" in before
        assert not {"tune", "synthesize"} & before
        after = trials.of("tune", trials.of_base({"pretrain.weight_decay": 3.0}))
        assert [trial.stage.id for trial in after] == [stage.id for stage in stages]

    def test_without_sbp_it_is_the_synthesizer_of_random_pairs(self) -> None:
        trials = trials_of("experiment.arms=[oracle, random_pairs]")
        assert trials.names == ["repetition", "tune", "oracle", "random_pairs"]
        assert trials.of("tune", trials.plan)[0].stage.inputs["pairs"].name == "random_pairs"

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            (["experiment.arms=[oracle]"], "tune_space: expected sbp or random_pairs among exp"),
            (["experiment.arms=[self_distillation]"], "tune_space: expected sbp or random_pairs"),
            (
                ["experiment.overrides={sbp: {tune.passes: 3}}"],
                "search.tune_space: sbp has settings of its own that hide what would be tried",
            ),
            (
                [
                    "experiment.arms=[sbp, random_pairs]",
                    "experiment.overrides={random_pairs: {tune.passes: 3}}",
                ],
                "search.tune_space: random_pairs has settings of its own that hide what would be",
            ),
            (
                ["experiment.overrides={oracle: {pretrain.weight_decay: 0.1}}"],
                "search.space: oracle has settings of its own that hide what would be tried",
            ),
        ],
    )
    def test_what_cannot_be_searched_is_said(
        self, settings: list[str], expected: str, tmp_path: Path
    ) -> None:
        with pytest.raises(BadInput) as error:
            describe_search(demo(DEMO, *settings), tmp_path)
        assert expected in str(error.value)

    def test_settings_beside_those_that_are_tried_may_be_an_arm_s_own(self) -> None:
        trials = trials_of("experiment.overrides={sbp: {tune.dropout: 0.1}}")
        tuned = trials.of("tune", trials.plan)
        assert {trial.stage.config["loop"]["dropout"] for trial in tuned} == {0.1}

    def test_no_identity_and_no_word_without_a_space(self, tmp_path: Path) -> None:
        plain = demo("search={trials: 2, space: {pretrain.weight_decay: [3.0]}}")
        ids = [
            [stage.id for stage in make_plan(one, NOWHERE, CONTENT).stages]
            for one in (plain, demo(DEMO))
        ]
        assert ids[0] == ids[1]
        trials = Trials(plain, NOWHERE, CONTENT)
        assert trials.names == trials.arms
        described = describe_search(plain, tmp_path)
        assert "tune" not in described
        assert "tune" not in planned_table(described)


def test_a_dry_run_knows_what_has_no_winner_before_it(tmp_path: Path) -> None:
    described = describe_search(demo(DEMO), tmp_path / "runs")
    assert described["missing"] == 11
    assert [row["stage"] for row in described["tune"]["trials"]] == [None] * 5
    assert [row["stage"] for row in described["arms"]["sbp"]] == [None] * 2
    for arm in ("repetition", "oracle"):
        assert all(row["stage"] for row in described["arms"][arm])
    assert described["tune"]["estimated_flops_to_do"] > 0
    table = planned_table(described)
    assert table.count("after repetition's winner") == 5
    assert table.count("after tune's winner") == 2
    total = described["known_flops_to_do"] + described["tune"]["estimated_flops_to_do"]
    assert f"training them takes about {total:.2e} FLOPs" in table


@pytest.fixture(scope="module")
def searched(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A search that was killed (SIGKILL) between trials of tuning, and then ended."""
    runs = tmp_path_factory.mktemp("tuned") / "runs"
    shutil.copytree(finished_run, runs)
    values = yaml.safe_load((runs / "small.yaml").read_text())
    arms = {"arms": ["repetition", "sbp"], "overrides": {"sbp": {"synthesize.top_p": 0.8}}}
    values |= {"name": "tuned", "experiment": arms, "search": SEARCH}
    path = runs / "tuned.yaml"
    path.write_text(yaml.safe_dump(values))
    recipe, store = load_recipe(path), runs / "artifacts"
    events = runs / "tuned" / "events.jsonl"
    command = [sys.executable, "-m", "synboot.cli", "search", str(path), "--runs", str(runs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        done = [e for e in read_events(events) if e["event"] == "stage_done"]
        if any(event["stage"] == "tune" for event in done):
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (runs / "tuned" / "search.json").exists()
    between = describe_search(recipe, runs)
    before = {p: p.stat().st_mtime_ns for p in store.glob("tune/*/manifest.json")}
    display = Lines()
    with own_threads():
        found = search_recipe(
            recipe, runs, display=display, written=yaml.safe_load(path.read_text())
        )
    return {
        "recipe": recipe,
        "runs": runs,
        "path": path,
        "between": between,
        "before": before,
        "found": found,
        "lines": display.lines,
    }


@pytest.mark.slow
class TestSearched:
    def test_the_winner_is_the_lowest_on_validation_pairs(self, searched: dict[str, Any]) -> None:
        found, runs = searched["found"], searched["runs"]
        assert json.loads((runs / "tuned" / "search.json").read_text()) == found
        tune = found["tune"]
        assert tune["on_the_pairs_of"] == "sbp"
        losses = {}
        for trial in tune["trials"]:
            if trial["settings"]["tune.learning_rate"] > 1:
                assert "diverged" in trial
                assert trial["validation_loss"] is None
                continue
            directory = runs / "artifacts" / "tune" / trial["stage"]
            counts = json.loads((directory / "manifest.json").read_text())["counts"]
            history = json.loads((directory / "history.json").read_text())
            losses[trial["trial"]] = trial["validation_loss"]
            assert trial["validation_loss"] == min(point["validation_loss"] for point in history)
            assert trial["initial_validation_loss"] == counts["initial_validation_loss"]
            assert trial["step"] == counts["best_step"]
            assert trial["steps"] == counts["steps"]
        assert len(losses) == 3
        assert tune["winner"] == min(losses, key=losses.__getitem__)
        assert tune["settings"] == tune["trials"][tune["winner"]]["settings"]
        assert tune["gain_over_own_settings"] == losses[0] - min(losses.values())
        assert tune["winner"] != 0  # what follows needs another

    def test_the_text_is_written_by_the_winner_which_is_tuned_once(
        self, searched: dict[str, Any]
    ) -> None:
        found, runs = searched["found"], searched["runs"]
        winner = found["tune"]["trials"][found["tune"]["winner"]]
        written = {t["trained_on"]["synthesize"] for t in found["arms"]["sbp"]["trials"]}
        assert len(written) == 1
        manifest = runs / "artifacts" / "synthesize" / written.pop() / "manifest.json"
        assert json.loads(manifest.read_text())["inputs"]["tune"] == winner["stage"]
        stored = {path.parent.name for path in runs.glob("artifacts/tune/*/manifest.json")}
        tried = {t["stage"] for t in found["tune"]["trials"] if "diverged" not in t}
        assert stored == tried

    def test_what_was_tuned_before_it_was_killed_is_not_tuned_again(
        self, searched: dict[str, Any]
    ) -> None:
        before = searched["before"]
        assert 2 <= len(before) < 3 + 1  # that of the finished run, and one that was new
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert f"tune: {len(before)} trials done before" in searched["lines"]
        assert any(" of 7: tune, learning_rate 0.0001" in line for line in searched["lines"])

    def test_a_dry_run_knows_arms_with_text_after_tune_s_winner(
        self, searched: dict[str, Any]
    ) -> None:
        between, found = searched["between"], searched["found"]
        stages = [row["stage"] for row in between["tune"]["trials"]]
        assert stages == [trial["stage"] for trial in found["tune"]["trials"]]
        assert [row["stage"] for row in between["arms"]["sbp"]] == [None]
        assert "after tune's winner" in planned_table(between)
        options = ["--runs", str(searched["runs"]), "--dry-run", "--json"]
        outcome = CliRunner().invoke(app, ["search", str(searched["path"]), *options])
        described = json.loads(outcome.stdout)
        assert described["missing"] == 0
        assert described["tune"]["estimated_flops_to_do"] == 0
        for trials, rows in (
            (found["tune"]["trials"], described["tune"]["trials"]),
            (found["arms"]["sbp"]["trials"], described["arms"]["sbp"]),
        ):
            for trial, row in zip(trials, rows, strict=True):
                assert row["stage"] == trial["stage"]
                assert row["status"] == ("diverged" if "diverged" in trial else "done")
                assert row["validation_loss"] == trial["validation_loss"]

    def test_the_frozen_recipe_tunes_so_and_finds_all_done(self, searched: dict[str, Any]) -> None:
        found, runs = searched["found"], searched["runs"]
        frozen = load_recipe(runs / "tuned" / "frozen.yaml")
        winner = found["tune"]["settings"]
        assert frozen.tune.learning_rate == winner["tune.learning_rate"]
        assert frozen.tune.passes == winner["tune.passes"]
        assert frozen.tune.batch_rows == searched["recipe"].tune.batch_rows
        assert frozen.experiment.overrides["sbp"] == {
            "synthesize.top_p": 0.8,
            **found["arms"]["sbp"]["settings"],
        }
        assert frozen.search is not None
        assert frozen.search.tune_trials == 4  # the winner is one of the four combinations now
        chain = make_plan(frozen, runs).chains["sbp", 0]
        assert all(stage.directory(runs / "artifacts").is_dir() for stage in chain.values())
        trial = found["arms"]["sbp"]["trials"][0]
        assert chain["synthesize"].id == trial["trained_on"]["synthesize"]

    def test_the_table_shows_tuning(self, searched: dict[str, Any]) -> None:
        lines = search_table(searched["found"]).splitlines()
        of_tune = [line for line in lines if line.startswith("tune  ")]
        assert len(of_tune) == 5
        assert sum("diverged" in line for line in of_tune) == 2
        marked = [line for line in of_tune if "*" in line]
        assert len(marked) == 1
        assert f"{searched['found']['tune']['validation_loss']:.4f}" in marked[0]
