"""Arms and what writes their text: which stages a recipe has, and which of them are shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synboot.core.errors import BadInput
from synboot.experiment.arm_settings import ExperimentConfig
from synboot.experiment.arms import PAID_STAGES, arm_sources
from synboot.experiment.plan import Plan, make_plan, planned_cost
from synboot.experiment.recipe import load_recipe
from synboot.experiment.stages.corpus import check_oracle
from synboot.pipeline.stage import Artifact

ROOT = Path(__file__).parents[2]
CONTENT = "0" * 64
ALL = "experiment.arms=[repetition, sbp, oracle, self_distillation, random_pairs]"


def plan_of(*settings: str) -> Plan:
    recipe = load_recipe(ROOT / "recipes" / "demo.yaml", settings)
    return make_plan(recipe, Path("nowhere"), CONTENT)


def ids(plan: Plan) -> dict[str, str]:
    assert len({stage.label for stage in plan.stages}) == len(plan.stages)
    return {stage.label: stage.id for stage in plan.stages}


@pytest.fixture(scope="module")
def plain() -> dict[str, str]:
    return ids(plan_of())


def test_the_ids_of_earlier_runs_stay(plain: dict[str, str]) -> None:
    """They hash everything before them; another version of a stage may change them, no less."""
    before = ids(
        plan_of(
            *("corpus.test_fraction=0.05", "budget.unique_tokens=40000"),
            *("tune.learning_rate=3.0e-4", "tune.weight_decay=0.1", "tune.dropout=0.0"),
            "tune.validate_on=held_out_pairs",  # as without the setting
        )
    )
    assert before["pretrain sbp, seed 0"] == "75c3e9b8acf53f1ba283b714"
    assert before["evaluate sbp, seed 0"] == "f6aa17723657b58e70b15636"
    assert before["evaluate oracle, seed 0"] == "64f6e0010104ea497b14cd61"


def test_arms_and_settings_add_stages_and_change_none(plain: dict[str, str]) -> None:
    more = ids(
        plan_of(
            ALL,
            "experiment.seeds=[0, 1]",
            "experiment.repetition_multiples=[2, 4.5]",
            "experiment.cost_inclusive=true",
        )
    )
    assert plain.items() <= more.items()
    added = set(more) - set(plain)
    assert {
        "synthesize self_distillation",
        "pairs random_pairs",
        "tune random_pairs",
        "synthesize random_pairs",
        "pretrain repetition_2x, seed 1",
        "pretrain repetition_4.5x, seed 0",
        "pretrain repetition_same_cost, seed 1",
    } <= added
    assert not [name for name in added if name.startswith(("tune,", "synthesize,"))]


def test_text_written_anew_for_every_seed_keeps_that_of_the_first(plain: dict[str, str]) -> None:
    settings = (ALL, "experiment.seeds=[0, 1]", "experiment.bootstrap_per_seed=true")
    plan = plan_of(*settings)
    more = ids(plan)
    assert plain.items() <= more.items()
    assert {"tune, seed 1", "synthesize, seed 1", "synthesize self_distillation, seed 1"} <= set(
        more
    )
    assert len([name for name in more if name.startswith("pairs")]) == 2
    for arm in ("sbp", "random_pairs", "self_distillation"):
        first, second = plan.chains[arm, 0], plan.chains[arm, 1]
        assert first["base"].id == plan.pretrain["repetition", 0].id
        assert second["base"].id == plan.pretrain["repetition", 1].id
        assert first["synthesize"].id != second["synthesize"].id
        assert plan.pretrain[arm, 1].inputs["synthesize"].id == second["synthesize"].id
    shared = plan_of(*settings[:2])
    assert shared.chains["sbp", 1] is shared.chains["sbp", 0]
    assert shared.bootstrap is shared.chains["sbp", 0]


def test_controls_differ_from_sbp_in_what_they_control_alone() -> None:
    plan = plan_of(ALL)
    sbp, pairs, own = (plan.chains[a, 0] for a in ("sbp", "random_pairs", "self_distillation"))
    assert pairs["tune"].config == sbp["tune"].config
    assert pairs["tune"].seed == sbp["tune"].seed
    assert pairs["synthesize"].config == sbp["synthesize"].config
    assert pairs["pairs"].inputs["pairs"].id == sbp["pairs"].id
    assert set(own) == {"base", "synthesize"}
    added = {"prompt": "none", "checkpoint": "best"}
    assert own["synthesize"].config == {**sbp["synthesize"].config, **added}
    assert len({chain["synthesize"].id for chain in (sbp, pairs, own)}) == 3
    for arm in ("random_pairs", "self_distillation"):
        assert plan.pretrain[arm, 0].config == plan.pretrain["sbp", 0].config


def test_a_control_needs_no_sbp() -> None:
    plan = plan_of("experiment.arms=[repetition, self_distillation]")
    assert plan.bootstrap == {}
    assert {stage.name for stage in plan.stages}.isdisjoint({"embed", "pairs", "tune"})


def test_a_multiple_that_is_the_oracles_is_the_oracle() -> None:
    settings = ("budget.oracle_multiple=4.0", "experiment.repetition_multiples=[4]")
    plan = plan_of(*settings)
    assert plan.pretrain["repetition_4x", 0] is plan.pretrain["oracle", 0]
    assert plan.evaluate["repetition_4x", 0] is plan.evaluate["oracle", 0]


def test_repetition_at_the_same_cost_names_what_it_gets() -> None:
    plan = plan_of("experiment.cost_inclusive=true")
    stage = plan.pretrain["repetition_same_cost", 0]
    for name in PAID_STAGES:
        assert stage.inputs[f"cost_of_{name}"] is plan.bootstrap[name]
    assert planned_cost(stage, plan.recipe) == {"tokens": None, "flops": None}
    assert planned_cost(plan.pretrain["sbp", 0], plan.recipe)["tokens"] == 800_000
    other = plan_of("experiment.cost_inclusive=true", "tune.passes=2")
    assert other.pretrain["repetition_same_cost", 0].id != stage.id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["experiment.repetition_multiples=[1]"], "greater than 1"),
        (["experiment.repetition_multiples=[2, 2.0]"], "no two alike"),
        (
            ["experiment.repetition_multiples=[2]", "experiment.arms=[sbp]"],
            "expected repetition among the arms",
        ),
        (
            ["experiment.cost_inclusive=true", "experiment.arms=[repetition]"],
            "expected sbp among the arms",
        ),
    ],
)
def test_settings_that_contradict_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        plan_of(*settings)


def test_a_multiple_that_the_corpus_does_not_have_names_its_setting() -> None:
    counts = {"train": {"tokens": 900}, "unique": {"tokens": 300}}
    tokens = Artifact(Path("nowhere"), {"counts": counts})
    check_oracle(tokens, 3.0, "experiment.repetition_multiples")
    with pytest.raises(BadInput, match=r"experiment.repetition_multiples: 4 times.* at most 3.00"):
        check_oracle(tokens, 4.0, "experiment.repetition_multiples")
    with pytest.raises(BadInput, match=r"budget.oracle_multiple: 4 times.* or say max"):
        check_oracle(tokens, 4.0)


def test_an_arm_that_no_setting_names_has_no_sources() -> None:
    budget: Any = load_recipe(ROOT / "recipes" / "demo.yaml").budget
    with pytest.raises(ValueError, match="repetition_2x"):
        arm_sources("repetition_2x", budget)
    assert arm_sources("repetition_2x", budget, ExperimentConfig(repetition_multiples=(2,)))
