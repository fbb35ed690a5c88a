"""What a recipe will cost: what is known beforehand equals the ledger, the rest is near it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from synboot.cli import app
from synboot.core.events import QuietDisplay
from synboot.experiment.arm_settings import ExperimentConfig
from synboot.experiment.costs import machine
from synboot.experiment.costs.machine import speed_of
from synboot.experiment.costs.outlook import outlook
from synboot.experiment.recipe import Recipe, load_recipe
from synboot.experiment.run import run_recipe
from synboot.experiment.stages.process import own_threads
from synboot.model.flops import cost_of_shape, training_flops
from synboot.model.settings import shape_of

FACTOR = 2.0
"""What is estimated of tuning, synthesis and embedding lies within it, here."""


@pytest.fixture(scope="module")
def recipe(finished_run: Path) -> Recipe:
    return load_recipe(finished_run / "small.yaml")


@pytest.fixture(scope="module")
def counted(finished_run: Path) -> dict[str, dict[str, Any]]:
    """What the stages of the finished run counted, by label."""
    return {
        stage["label"]: json.loads(
            (finished_run / stage["directory"] / "manifest.json").read_text()
        )
        for stage in json.loads((finished_run / "small" / "stages.json").read_text())
    }


@pytest.fixture(scope="module")
def tokenised(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has no more than the corpus and its tokens."""
    runs = tmp_path_factory.mktemp("tokenised")
    for name in ("corpus", "tokenizer", "tokens"):
        shutil.copytree(finished_run / "artifacts" / name, runs / "artifacts" / name)
    return runs


def by_label(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage["label"]: stage for stage in found["stages"]}


def test_standard_input_is_read_once(
    recipe: Recipe, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        json.dumps({"id": str(i), "text": f"text number {i} of many " * 20}) for i in range(60)
    ]
    stream = io.TextIOWrapper(io.BytesIO("\n".join(lines).encode()))
    monkeypatch.setattr("sys.stdin", stream)
    corpus = recipe.corpus.model_copy(
        update={"path": "-", "id_field": "id", "text_field": "text", "group_field": None}
    )
    found = outlook(recipe.model_copy(update={"corpus": corpus}), tmp_path, measure=False)
    assert not found["text"]["counted"]
    assert 60 * 20 < found["text"]["tokens"] < sum(map(len, lines))


@pytest.mark.slow
def test_what_is_known_beforehand_equals_the_ledger(
    recipe: Recipe, counted: dict[str, Any], tokenised: Path
) -> None:
    before = sorted(tokenised.rglob("*"))
    found = outlook(recipe, tokenised, measure=False)
    assert sorted(tokenised.rglob("*")) == before
    exact = 0
    for label, stage in by_label(found).items():
        counts = counted[label]["counts"]
        if stage["basis"] != "exact":
            continue
        exact += stage["name"] in ("pretrain", "evaluate", "neighbours")
        assert stage["flops"] == counts["flops"], label
        assert stage["validation_flops"] == counts.get("validation_flops", 0), label
        if stage["name"] in ("pretrain", "evaluate"):
            assert stage["tokens"] == counts.get("trained_tokens", counts.get("tokens")), label
    assert exact == 7
    assert found["text"]["counted"]
    assert found["text"]["unique_tokens"] == counted["tokens"]["counts"]["unique"]["tokens"]
    assert found["to_do"]["stages"] == 13
    assert found["to_do"]["hours"] is None
    assert found["disk_bytes"] > 3 * 2 * 4 * found["parameters"]


@pytest.mark.slow
def test_what_is_estimated_lies_within_the_factor(
    recipe: Recipe, counted: dict[str, Any], tokenised: Path
) -> None:
    found = by_label(outlook(recipe, tokenised, measure=False))
    for label in ("tune", "synthesize", "embed", "seed use"):
        counts = counted[label]["counts"]
        assert found[label]["basis"] == "estimated"
        for name, of in (("flops", "flops"), ("validation_flops", "validation_flops")):
            if counts.get(of):
                assert 1 / FACTOR < found[label][name] / counts[of] < FACTOR, (label, name)


@pytest.mark.slow
def test_validation_text_of_tuning_is_estimated_too(
    recipe: Recipe, tokenised: Path, tmp_path: Path
) -> None:
    values = recipe.dump() | {"tune": recipe.tune.model_dump() | {"validate_on": "validation_text"}}
    on_text = Recipe.model_validate(values)
    found = by_label(outlook(on_text, tokenised, measure=False))
    runs = tmp_path / "runs"
    shutil.copytree(tokenised, runs)
    with own_threads():
        run_recipe(on_text, runs, display=QuietDisplay(), until="tune")
    for label, stage in by_label(outlook(on_text, runs, measure=False)).items():
        if label in ("validation pairs", "tune"):
            assert (stage["status"], stage["basis"]) == ("done", "exact")
            assert found[label]["basis"] == "estimated"
            assert 1 / FACTOR < found[label]["flops"] / stage["flops"] < FACTOR
            assert found[label]["validation_flops"] == pytest.approx(
                stage["validation_flops"], rel=FACTOR - 1
            )
    control = found | by_label(
        outlook(
            on_text.model_copy(
                update={"experiment": ExperimentConfig(arms=("repetition", "random_pairs"))}
            ),
            tokenised,
            measure=False,
        )
    )
    assert control["validation pairs random_pairs"]["flops"] == 0
    assert control["tune random_pairs"]["flops"] == found["tune"]["flops"]


@pytest.mark.slow
def test_a_finished_run_has_nothing_to_do(
    recipe: Recipe, counted: dict[str, Any], finished_run: Path
) -> None:
    found = outlook(recipe, finished_run, measure=False)
    assert found["to_do"] == {
        "stages": 0, "trained_tokens": 0, "flops": 0, "validation_flops": 0, "hours": None,
    }  # fmt: skip
    assert found["done"]["flops"] == sum(m["counts"]["flops"] for m in counted.values())
    assert found["disk_bytes"] == 0
    assert found["not_estimated"] == []
    more = recipe.experiment.model_copy(update={"cost_inclusive": True})
    same_cost = by_label(
        outlook(recipe.model_copy(update={"experiment": more}), finished_run, measure=False)
    )["pretrain repetition_same_cost, seed 0"]
    paid = sum(counted[n]["counts"]["flops"] for n in ("embed", "neighbours", "tune", "synthesize"))
    size = counted["tokenizer"]["counts"]["vocab_size"]
    row = training_flops(cost_of_shape(shape_of("0.6m"), size), {64: 1})
    assert same_cost["tokens"] == 8000 + paid * 64 // row
    assert same_cost["basis"] == "exact"


@pytest.mark.slow
def test_before_anything_is_built_text_is_sampled(
    recipe: Recipe, counted: dict[str, Any], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    found = outlook(recipe, runs, measure=False)
    assert not runs.exists()
    assert not found["text"]["counted"]
    real = counted["tokens"]["counts"]
    assert found["text"]["tokens"] == pytest.approx(real["tokens"], rel=0.2)
    assert found["text"]["unique_tokens"] == pytest.approx(real["unique"]["tokens"], rel=0.4)
    stages = by_label(found)
    for label, stage in stages.items():
        if stage["name"] == "pretrain":  # the vocabulary is known, the validation text is not
            assert stage["flops"] == counted[label]["counts"]["flops"]
            rate = stage["validation_flops"] / counted[label]["counts"]["validation_flops"]
            assert 1 / 3 < rate < 3  # of 40 groups a tenth is drawn


def test_the_machine_is_measured_once_for_a_shape(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_SECONDS", 0.1)
    found = speed_of(recipe, tmp_path, prompt=20, written=10)
    (file,) = (tmp_path / "machine").iterdir()
    assert found.training_flops_per_second > 0
    assert found.sampled_tokens_per_second > 0
    assert found.training_bytes > 4 * 400_000
    values = json.loads(file.read_text()) | {"sampled_tokens_per_second": 7.0}
    file.write_text(json.dumps(values))
    assert speed_of(recipe, tmp_path, prompt=20, written=10).sampled_tokens_per_second == 7.0
    file.write_text("{")
    assert speed_of(recipe, tmp_path, prompt=20, written=10).sampled_tokens_per_second > 7.0
    longer = recipe.model.model_copy(update={"context": 32})
    speed_of(recipe.model_copy(update={"model": longer}), tmp_path, prompt=8, written=8)
    assert len(list((tmp_path / "machine").iterdir())) == 2


@pytest.mark.slow
def test_hours_follow_from_what_was_measured(
    recipe: Recipe, tokenised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_SECONDS", 0.1)
    runs = tmp_path / "runs"
    shutil.copytree(tokenised, runs)
    found = outlook(recipe, runs)
    file = next((runs / "machine").iterdir())
    speed = {"training_flops_per_second": 1e9, "sampled_tokens_per_second": 10.0}
    file.write_text(json.dumps(json.loads(file.read_text()) | speed))
    found = outlook(recipe, runs)
    for stage in found["stages"]:
        if stage["name"] in ("pretrain", "tune", "evaluate"):
            flops = stage["flops"] + stage["validation_flops"]
            assert stage["seconds"] == pytest.approx(flops / 1e9)
        if stage["name"] == "synthesize":
            assert 2000 / 10 <= stage["seconds"] < FACTOR * 2000 / 10
    assert 3600 * found["to_do"]["hours"] == pytest.approx(
        sum(stage["seconds"] or 0 for stage in found["stages"])
    )
    assert found["peak_memory_bytes"] > 1e8


@pytest.mark.slow
def test_the_verb(finished_run: Path, tmp_path: Path, small_corpus: Path) -> None:
    recipe = str(finished_run / "small.yaml")
    options = ["--runs", str(finished_run), "--no-measure"]
    outcome = CliRunner().invoke(app, ["plan", recipe, *options])
    assert outcome.exit_code == 0
    assert "0 stages to do" in outcome.stdout
    task = tmp_path / "items.jsonl"
    items = [{"good": "a b c d", "bad": "d c b a"}] * 50
    task.write_text("".join(json.dumps(item) + "\n" for item in items))
    outcome = CliRunner().invoke(
        app, ["plan", recipe, *options, "--json", "--set", f"evaluate.tasks={{pairs: {task}}}"]
    )
    assert outcome.exit_code == 0
    left = [s for s in json.loads(outcome.stdout)["stages"] if s["status"] == "missing"]
    assert [s["name"] for s in left] == ["items", "tasks", "tasks", "tasks", "contamination"]
    assert all(s["tokens"] > 100 for s in left if s["name"] == "tasks")
