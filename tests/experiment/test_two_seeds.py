"""A run that is not the usual one: two seeds, no oracle, a corpus without ids or groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.mark.slow
def test_two_seeds_no_oracle_no_ids(
    small_recipe: Path, small_corpus: Path, tmp_path: Path, synboot: Any
) -> None:
    corpus = tmp_path / "plain.jsonl"
    records = [json.loads(line) for line in small_corpus.read_text().splitlines()]
    corpus.write_text("".join(json.dumps({"text": r["text"]}) + "\n" for r in records))
    recipe = yaml.safe_load(small_recipe.read_text())
    recipe["corpus"] = {"path": str(corpus), "valid_fraction": 0.1, "test_fraction": 0.1}
    recipe["experiment"] = {
        "arms": ["repetition", "sbp"],
        "seeds": [0, 1],
        "ensembles": True,
    }
    recipe["runtime"]["workers"] = 2
    small_recipe.write_text(yaml.safe_dump(recipe))
    runs = tmp_path / "runs"
    outcome = synboot("run", str(small_recipe), "--runs", str(runs), "--json")
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)

    assert result["oracle"] is None
    assert result["recovered"] is None
    assert set(result["comparisons"]) == {"sbp"}
    for arm in ("repetition", "sbp"):
        facts = result["arms"][arm]
        assert set(facts["seeds"]) == {"0", "1"}
        scores = [seed["test"]["nats_per_token"] for seed in facts["seeds"].values()]
        assert scores[0] != scores[1]
        assert facts["test"]["nats_per_token"] == pytest.approx(sum(scores) / 2)
    gain = result["comparisons"]["sbp"]["nats_per_token"]
    means = [result["arms"][arm]["test"]["nats_per_token"] for arm in ("repetition", "sbp")]
    assert gain["gain"] == pytest.approx(means[0] - means[1])
    assert gain["low"] <= gain["gain"] <= gain["high"]
    assert len(gain["by_seed"]) == 2
    for kind in ("seeds", "both"):
        assert gain[kind]["low"] < gain["gain"] < gain[kind]["high"]
    assert result["data_efficiency"] is None
    assert "Without an oracle" in (runs / "small" / "report.html").read_text()
    stages = {e["label"]: e for e in result["ledger"]}
    assert result["ensembles"]["models"] == 2
    for arm, ensemble in result["ensembles"]["arms"].items():
        own = [of["test"]["nats_per_token"] for of in result["arms"][arm]["seeds"].values()]
        # Jensen: the mean probability is at least the geometric mean of the seeds'.
        assert ensemble["test"]["nats_per_token"] < sum(own) / 2
        each = [stages[f"evaluate {arm}, seed {seed}"]["flops"] for seed in (0, 1)]
        assert stages[f"ensemble {arm}"]["flops"] == sum(each)
        assert stages[f"ensemble {arm}"]["arms"] == []  # no cost of the arm
    assert (
        "The mean probability of each arm&#39;s 2 seeds"
        in (runs / "small" / "report.html").read_text()
    )
    assert len([entry for entry in result["ledger"] if entry["stage"] == "pretrain"]) == 4
