"""Which texts a run's items are looked for in: all that its arms train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synboot.core.storage import write_json
from synboot.experiment.plan import Plan, make_plan
from synboot.experiment.recipe import load_recipe

ROOT = Path(__file__).parents[2]


def plan_of(tmp_path: Path, *settings: str) -> Plan:
    write_json(tmp_path / "t.jsonl", {"id": "a", "text": "one two three"})
    given = [f"evaluate.tasks={{words: {tmp_path / 't.jsonl'}}}", *settings]
    return make_plan(load_recipe(ROOT / "recipes" / "demo.yaml", given), Path("nowhere"), "0" * 64)


@pytest.mark.parametrize(
    ("settings", "multiple"),
    [
        (["experiment.repetition_multiples=[2, 16]"], 16.0),
        (["experiment.repetition_multiples=[2]"], 8.0),
        (["experiment.arms=[repetition, sbp]", "experiment.repetition_multiples=[2, 4]"], 4.0),
        (["experiment.repetition_multiples=[16]", "budget.oracle_multiple=max"], "max"),
        (["experiment.arms=[repetition, sbp]"], None),
    ],
)
def test_the_most_real_text_of_any_arm(settings: list[str], multiple: Any, tmp_path: Path) -> None:
    settings = ["budget.oracle_multiple=8.0", *settings]
    stage = plan_of(tmp_path, *settings).contamination
    assert stage is not None
    assert stage.config.get("oracle_multiple") == multiple
    assert ("oracle" in stage.config["sources"]) is (multiple is not None)


def test_every_synthetic_text_once(tmp_path: Path) -> None:
    arms = "experiment.arms=[repetition, sbp, self_distillation]"
    shared = plan_of(tmp_path, arms, "experiment.seeds=[3, 4]")
    names = ["synthetic", "synthetic self_distillation"]
    assert shared.contamination is not None
    assert shared.contamination.config["sources"] == ["unique", *names]
    plan = plan_of(tmp_path, arms, "experiment.seeds=[3, 4]", "experiment.bootstrap_per_seed=true")
    stage = plan.contamination
    assert stage is not None
    names = [name for own in names for name in (own, f"{own}, seed 4")]
    assert stage.config["sources"] == ["unique", *names]
    for name, run in zip(names, plan.chains, strict=True):
        made = stage.inputs[name.replace("synthetic", "synthesize", 1)]
        assert made is plan.chains[run]["synthesize"]
