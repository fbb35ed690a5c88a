"""Controls, more repetition and the same cost, on top of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from synboot.model.flops import cost_of_shape, training_flops
from synboot.model.settings import shape_of

SETTINGS = {
    "arms": ["repetition", "sbp", "oracle", "self_distillation", "random_pairs"],
    "repetition_multiples": [2],
    "cost_inclusive": True,
}


@pytest.mark.slow
def test_controls_of_a_finished_run(finished_run: Path, synboot: Any) -> None:
    recipe = yaml.safe_load((finished_run / "small.yaml").read_text())
    recipe |= {"name": "controls", "experiment": SETTINGS}
    path = finished_run / "controls.yaml"
    path.write_text(yaml.safe_dump(recipe))
    known = json.loads((finished_run / "small" / "stages.json").read_text())
    before = sorted(finished_run / stage["directory"] for stage in known)
    outcome = synboot("run", str(path), "--runs", str(finished_run), "--json")
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    directory = {
        stage["label"]: finished_run / stage["directory"]
        for stage in json.loads((finished_run / "controls" / "stages.json").read_text())
    }
    assert set(before) <= set(directory.values())  # what was there is a part of it

    random = pq.read_table(directory["pairs random_pairs"] / "pairs.parquet")
    tuned = result["synthesizer"]
    assert random.num_rows == tuned["training_pairs"] + tuned["validation_pairs"]
    control = result["controls"]["random_pairs"]["synthesizer"]
    for name in ("training_pairs", "validation_pairs"):
        assert control[name] == tuned[name]
    assert control["crossing_pairs"] == 0
    pairs = {tuple(row.values()) for row in random.select(["d1", "d2"]).to_pylist()}
    assert len(pairs) == random.num_rows
    assert {(b, a) for a, b in pairs} == pairs
    assert not any(a == b for a, b in pairs)
    assert 2 * result["controls"]["random_pairs"]["pairs"]["kept"] == random.num_rows

    for arm in ("sbp", "random_pairs", "self_distillation"):
        label = "synthesize" if arm == "sbp" else f"synthesize {arm}"
        text = pq.read_table(directory[label] / "synthetic.parquet")
        assert sum(text["num_tokens"].to_pylist()) == 2000
        alone = arm == "self_distillation"
        assert (text["seed_id"].null_count == text.num_rows) is alone
        assert [part["tokens"] for part in result["arms"][arm]["mixture"]] == [6000, 2000]
    own = pq.read_table(directory["synthesize self_distillation"] / "synthetic.parquet")
    assert set(own["synthesizer"].to_pylist()) == {directory["pretrain repetition, seed 0"].name}
    assert len(set(own["text"].to_pylist())) > own.num_rows / 2

    cost = result["cost_inclusive"]
    row = training_flops(cost_of_shape(shape_of("0.6m"), result["model"]["vocab_size"]), {64: 1})
    paid = sum(cost["flops_paid"].values())
    assert cost["extra_tokens"] == paid * 64 // row > 0
    assert result["arms"]["repetition_same_cost"]["trained_tokens"] == 8000 + cost["extra_tokens"]
    spent = {arm: facts["flops"] for arm, facts in result["arms"].items()}
    more = spent["repetition_same_cost"] - spent["repetition"]
    assert abs(more - paid) < row  # to a row: the last one may be cut
    for entry in result["ledger"]:
        if entry["stage"] in ("tune", "synthesize"):
            assert len(entry["arms"]) == 1  # nobody else pays for them
    for entry in result["ledger"]:
        if entry["stage"] in ("embed", "neighbours", "pairs"):
            assert entry["arms"] == ["sbp"]
    totals = {e["label"]: e["tokens"] for e in result["ledger"] if e["stage"] == "pretrain"}
    assert totals["pretrain repetition_same_cost, seed 0"] == 8000 + cost["extra_tokens"]

    runs = result["data_efficiency"]["runs"]
    assert [run["arm"] for run in runs] == ["repetition", "repetition_2x", "oracle"]
    assert 1.9 < runs[1]["multiple"] < 2.2
    assert set(result["data_efficiency"]["arms"]) == {"sbp", "self_distillation", "random_pairs"}
    assert set(result["statistics"]["sbp_over"]) == {
        "self_distillation",
        "random_pairs",
        "repetition_same_cost",
    }
    page = (finished_run / "controls" / "report.html").read_text()
    for shown in ("How surely", "self-distillation", "random pairs", "same-cost repetition"):
        assert shown in page
