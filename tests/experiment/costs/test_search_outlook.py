"""What a search will cost: what is planned of it equals what it then does, each stage once."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from synboot.cli import app
from synboot.core.events import QuietDisplay, read_events
from synboot.experiment.costs import machine
from synboot.experiment.costs.outlook import Outlook, outlook
from synboot.experiment.costs.table import outlook_table
from synboot.experiment.recipe import Recipe, load_recipe
from synboot.experiment.search.run import search_recipe
from synboot.experiment.stages.process import own_threads

FACTOR = 2.0
"""What is estimated of tuning and synthesis lies within it, here."""
SEARCH = {
    "trials": 2,
    "training_tokens": 2048,
    "space": {"pretrain.weight_decay": [3.0]},
    "tune_trials": 3,
    "tune_space": {"tune.learning_rate": [1e-4, 3e-4]},
}
SPENT = ("flops", "validation_flops")


def recipe_with(finished_run: Path, folder: Path, arms: Mapping[str, Any], **search: Any) -> Recipe:
    values = yaml.safe_load((finished_run / "small.yaml").read_text())
    path = folder / "tuned.yaml"
    path.write_text(
        yaml.safe_dump(values | {"name": "tuned", "experiment": arms, "search": search})
    )
    return load_recipe(path)


def tokenised(finished_run: Path, folder: Path) -> Path:
    """A store that has no more than the corpus and its tokens."""
    for name in ("corpus", "tokenizer", "tokens"):
        shutil.copytree(finished_run / "artifacts" / name, folder / "runs" / "artifacts" / name)
    return folder / "runs"


def of_search(recipe: Recipe, runs: Path) -> Outlook:
    found = outlook(recipe, runs, measure=False)["search"]
    assert isinstance(found, dict)
    return found


def searched(recipe: Recipe, runs: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the stages that a search now does, by id; none is done twice."""
    events = runs / "tuned" / "events.jsonl"
    before = len(list(read_events(events)))
    with own_threads():
        search_recipe(recipe, runs, display=QuietDisplay())
    new = list(read_events(events))[before:]
    done = [(e["stage"], e["id"]) for e in new if e["event"] == "stage_done"]
    assert len(set(done)) == len(done)
    return {id_: manifest(runs, name, id_) for name, id_ in done}


def manifest(runs: Path, name: str, id_: str) -> dict[str, Any]:
    found = json.loads((runs / "artifacts" / name / id_ / "manifest.json").read_text())
    assert isinstance(found, dict)
    return found


def to_do(found: Outlook) -> list[Outlook]:
    return [stage for stage in found["stages"] if stage["status"] == "missing"]


def totals(manifests: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """As `plan` adds up."""
    trained = [m["counts"] for m in manifests if m["stage"] in ("pretrain", "tune")]
    return {
        "stages": len(manifests),
        "trained_tokens": sum(counts["trained_tokens"] for counts in trained),
        **{name: sum(m["counts"].get(name) or 0 for m in manifests) for name in SPENT},
    }


@pytest.mark.slow
def test_a_search_of_real_text_costs_what_is_planned_to_the_flop(
    finished_run: Path, tmp_path: Path
) -> None:
    arms = {"arms": ["repetition", "oracle"], "repetition_multiples": [2], "seeds": [0, 1]}
    search = {name: SEARCH[name] for name in ("trials", "training_tokens", "space")}
    recipe = recipe_with(finished_run, tmp_path, arms, **search)
    runs = tokenised(finished_run, tmp_path)
    before = sorted(runs.rglob("*"))
    planned = of_search(recipe, runs)
    assert sorted(runs.rglob("*")) == before
    assert planned["trials"] == 3 * 2
    assert planned["to_do"]["trained_tokens"] == 3 * 2 * 2048
    assert planned["shared_to_do"]["stages"] == 0  # trials have a seed of their own
    done = searched(recipe, runs)
    assert planned["to_do"] == totals(list(done.values())) | {"hours": None}
    assert {stage["id"] for stage in to_do(planned)} == done.keys()


@pytest.mark.slow
def test_a_trial_that_diverged_costs_nothing_more(finished_run: Path, tmp_path: Path) -> None:
    search = {"trials": 2, "training_tokens": 1024, "space": {"pretrain.learning_rate": [1e30]}}
    recipe = recipe_with(finished_run, tmp_path, {"arms": ["repetition"]}, **search)
    runs = tokenised(finished_run, tmp_path)
    [done] = searched(recipe, runs).values()
    plan = outlook(recipe, runs, measure=False)
    found = plan["search"]
    assert found["trials_by_status"] == {"done": 1, "diverged": 1, "missing": 0}
    assert found["to_do"] == totals([]) | {"hours": None}
    assert found["done"]["trained_tokens"] == done["counts"]["trained_tokens"] == 1024
    assert "of all 2 trials 0 are to do, 1 diverged" in outlook_table(plan)
    shown = re.findall(r"^pretrain +(\d+ of \d+)", outlook_table(plan), re.MULTILINE)
    assert shown == ["0 of 1", "1 of 2"]  # the run's, and the trials


@pytest.fixture(scope="module")
def with_text(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A search of arms with synthetic text: what was planned of it, and what it did."""
    folder = tmp_path_factory.mktemp("with_text")
    arms = {"arms": ["repetition", "sbp", "oracle", "random_pairs"], "seeds": [0, 1]}
    recipe, runs = (
        recipe_with(finished_run, folder, arms, **SEARCH),
        tokenised(finished_run, folder),
    )
    planned = of_search(recipe, runs)
    return {"recipe": recipe, "runs": runs, "planned": planned, "done": searched(recipe, runs)}


@pytest.mark.slow
class TestWithText:
    def test_each_stage_is_counted_once_and_no_other(self, with_text: dict[str, Any]) -> None:
        planned, done = with_text["planned"], list(with_text["done"].values())
        names = Counter(stage["name"] for stage in to_do(planned))
        assert names == Counter(m["stage"] for m in done)
        # The trials and the base; of tune its trials, of which one wrote, and that of random pairs.
        assert (names["pretrain"], names["tune"], names["synthesize"]) == (4 * 2 + 1, 3 + 1, 2)
        assert planned["trials"] == planned["trials_by_status"]["missing"] == 4 * 2 + 3
        assert (planned["trials_per_arm"], planned["trials_of_tune"]) == (2, 3)

    def test_training_costs_what_is_planned_to_the_flop(self, with_text: dict[str, Any]) -> None:
        """Whichever trial wins: the base has the recipe's whole budget, a trial its own."""
        planned = [s for s in to_do(with_text["planned"]) if s["name"] == "pretrain"]
        done = totals([m for m in with_text["done"].values() if m["stage"] == "pretrain"])
        assert all(stage["basis"] == "exact" for stage in planned)
        assert sum(stage["tokens"] for stage in planned) == done["trained_tokens"]
        assert done["trained_tokens"] == 4 * 2 * 2048 + 8000
        for name in SPENT:
            assert sum(stage[name] for stage in planned) == done[name]

    def test_tuning_and_text_lie_within_the_factor(self, with_text: dict[str, Any]) -> None:
        for name in ("tune", "synthesize", "embed"):
            planned = [s for s in to_do(with_text["planned"]) if s["name"] == name]
            done = [m for m in with_text["done"].values() if m["stage"] == name]
            assert all(stage["basis"] == "estimated" for stage in planned)
            rate = sum(s["flops"] for s in planned) / totals(done)["flops"]
            assert 1 / FACTOR < rate < FACTOR, name

    def test_what_is_done_is_counted_as_the_ledger_has_it(self, with_text: dict[str, Any]) -> None:
        found, done = of_search(with_text["recipe"], with_text["runs"]), with_text["done"]
        assert found["to_do"] == totals([]) | {"hours": None}
        assert found["trials_by_status"] == {"done": 11, "diverged": 0, "missing": 0}
        assert all(stage["decided"] for stage in found["stages"])
        text = [
            manifest(with_text["runs"], name, stage["id"])
            for stage in found["stages"]
            if (name := stage["name"]) in ("corpus", "tokenizer", "tokens")
        ]
        assert found["done"] == totals([*done.values(), *text]) | {"hours": None}

    def test_the_frozen_run_finds_done_what_is_said_to_be_shared(
        self, with_text: dict[str, Any]
    ) -> None:
        planned, runs = with_text["planned"], with_text["runs"]
        frozen = load_recipe(
            runs / "tuned" / "frozen.yaml", [f"corpus.path={with_text['recipe'].corpus.path}"]
        )
        stages = outlook(frozen, runs, measure=False)["stages"]
        found = [
            manifest(runs, stage["name"], stage["id"])
            for stage in stages
            if stage["id"] in with_text["done"]
        ]
        shared = [stage for stage in to_do(planned) if stage["shared"]]
        assert Counter(m["stage"] for m in found) == Counter(s["name"] for s in shared)
        assert planned["shared_to_do"]["stages"] == len(found)
        of_base = [m["counts"]["flops"] for m in found if m["stage"] == "pretrain"]
        assert of_base == [s["flops"] for s in shared if s["name"] == "pretrain"]

    def test_what_is_left_of_a_search_is_what_it_goes_on_with(
        self, with_text: dict[str, Any], tmp_path: Path
    ) -> None:
        """Repetition has a winner, and so there is a base; tuning has none yet, nor any text."""
        recipe, runs, before = with_text["recipe"], tmp_path / "runs", with_text["done"]
        shutil.copytree(with_text["runs"], runs)
        texts = {id_ for id_, m in before.items() if m["stage"] == "synthesize"}
        tuned = {id_ for id_, m in before.items() if m["stage"] == "tune"}
        gone = texts | tuned | {
            id_ for id_, m in before.items() if m["inputs"].get("synthesize") in texts
        }  # fmt: skip
        for id_ in gone:
            shutil.rmtree(runs / "artifacts" / before[id_]["stage"] / id_)
        found = of_search(recipe, runs)
        left = to_do(found)
        [pairs] = [id_ for id_, m in before.items() if m["stage"] == "pairs"]
        tried = {id_ for id_ in tuned if before[id_]["inputs"]["pairs"] == pairs}
        assert {stage["id"] for stage in left if stage["decided"]} == tried
        assert found["trials_by_status"] == {"done": 4, "diverged": 0, "missing": 3 + 4}
        again = searched(recipe, runs)
        assert again.keys() == gone
        assert Counter(s["name"] for s in left) == Counter(m["stage"] for m in again.values())
        trained = [s for s in left if s["name"] == "pretrain"]
        spent = totals([m for m in again.values() if m["stage"] == "pretrain"])
        assert sum(s["tokens"] for s in trained) == spent["trained_tokens"] == 4 * 2048
        assert sum(s["flops"] for s in trained) == spent["flops"]


@pytest.mark.slow
def test_a_run_before_the_search_leaves_it_what_no_winner_decides(
    finished_run: Path, tmp_path: Path
) -> None:
    """Its base and its text have the recipe's settings; that these will win is not known."""
    recipe = recipe_with(finished_run, tmp_path, {"arms": ["repetition", "sbp"]}, **SEARCH)
    runs = tmp_path / "runs"
    shutil.copytree(finished_run, runs)
    found = of_search(recipe, runs)
    of_status: dict[str, set[str]] = {}
    for stage in found["stages"]:
        of_status.setdefault(stage["status"], set()).add(stage["name"])
    assert of_status == {
        "done": {"corpus", "tokenizer", "tokens", "embed", "neighbours", "pairs"},
        "missing": {"pretrain", "tune", "synthesize"},
    }
    ahead = [s for s in to_do(found) if s["name"] in ("tune", "synthesize")]
    assert not any(s["decided"] or s["basis"] == "exact" for s in ahead)


@pytest.mark.slow
def test_hours_of_the_search_follow_from_what_was_measured(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_SECONDS", 0.1)
    recipe = recipe_with(finished_run, tmp_path, {"arms": ["repetition", "sbp"]}, **SEARCH)
    runs = tokenised(finished_run, tmp_path)
    outlook(recipe, runs)
    file = next((runs / "machine").iterdir())
    speed = {"training_flops_per_second": 1e9, "sampled_tokens_per_second": 10.0}
    file.write_text(json.dumps(json.loads(file.read_text()) | speed))
    plan = outlook(recipe, runs)
    found = plan["search"]
    for stage in found["stages"]:
        if stage["name"] in ("pretrain", "tune"):
            assert stage["seconds"] == pytest.approx(sum(stage[name] for name in SPENT) / 1e9)
    assert 3600 * found["to_do"]["hours"] == pytest.approx(
        sum(stage["seconds"] or 0 for stage in found["stages"])
    )
    assert 0 < found["shared_to_do"]["hours"] < found["to_do"]["hours"]
    assert found["peak_memory_bytes"] == plan["peak_memory_bytes"]
    models = found["to_do"]["stages"] - 4  # embed, neighbours, pairs, synthesize
    assert found["disk_bytes"] > models * 2 * 4 * plan["parameters"]


@pytest.mark.slow
def test_the_verb_shows_it(finished_run: Path, tmp_path: Path) -> None:
    recipe_with(finished_run, tmp_path, {"arms": ["repetition", "sbp"]}, **SEARCH)
    runs = tokenised(finished_run, tmp_path)
    command = ["plan", str(tmp_path / "tuned.yaml"), "--runs", str(runs), "--no-measure"]
    shown = CliRunner().invoke(app, command).stdout
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["search"]
    assert (
        "search: 2 trials of each of 2 arms, of 2,048 training tokens, and 3 of tune; "
        "of all 7 trials 7 are to do\n"
    ) in shown
    todo = found["to_do"]
    flops = todo["flops"] + todo["validation_flops"]
    assert (
        f"{todo['stages']} stages to do: {todo['trained_tokens']:,} tokens to train, "
        f"{flops:.2e} FLOPs"
    ) in shown
    assert f"{found['shared_to_do']['stages']} of these stages the run of the frozen" in shown
    assert "counted as if the recipe's own settings won" in shown


@pytest.mark.slow
def test_a_recipe_without_a_search_or_with_its_winners_has_none(
    small_recipe: Path, tmp_path: Path
) -> None:
    plain = outlook(load_recipe(small_recipe), tmp_path, measure=False)
    assert plain["search"] is None
    assert "search" not in outlook_table(plain)
    values = yaml.safe_load(small_recipe.read_text())
    values |= {
        "search": {name: SEARCH[name] for name in ("trials", "space")},
        "experiment": {"overrides": {"oracle": {"pretrain.weight_decay": 3.0}}},
    }
    small_recipe.write_text(yaml.safe_dump(values))
    frozen = outlook(load_recipe(small_recipe), tmp_path, measure=False)
    assert frozen["to_do"] == plain["to_do"]
    assert "no search: field search.space: oracle has settings of its own" in outlook_table(frozen)
