"""A base model of an arm's text that is not repetition: its stages, cost, what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from synboot.core.errors import BadInput
from synboot.experiment.arms import rivals_of_variants
from synboot.experiment.costs.outlook import outlook
from synboot.experiment.plan import Plan, make_plan, planned_cost
from synboot.experiment.recipe import load_recipe
from synboot.experiment.search.trials import Trials
from synboot.model.settings import num_parameters, shape_of

ROOT = Path(__file__).parents[2]
NOWHERE = Path("nowhere")
ALL = "experiment.arms=[repetition, sbp, oracle, self_distillation, random_pairs, real_context]"
COST = "experiment.cost_inclusive=true"
LARGER = "base_model.preset: 1m, base_model.weight_decay: 0.5"


def plan_of(*settings: str) -> Plan:
    recipe = load_recipe(ROOT / "recipes" / "demo.yaml", settings)
    plan = make_plan(recipe, NOWHERE, "0" * 64)
    assert len({stage.label for stage in plan.stages}) == len(plan.stages), "labels are unique"
    return plan


def variant(settings: str = LARGER, of: str = "sbp", more: str = "") -> str:
    return f"experiment.variants.own={{of: {of}, set: {{{settings}}}{more}}}"


def preset(stage: Any) -> str:
    return str(stage.config["model"]["preset"])


def ids(plan: Plan) -> dict[str, str]:
    return {stage.label: stage.id for stage in plan.stages}


@pytest.mark.parametrize("arm", ["sbp", "random_pairs", "self_distillation"])
def test_the_writer_has_its_size_and_settings_and_the_arm_those_of_the_recipe(arm: str) -> None:
    plan = plan_of(ALL, variant(of=arm))
    assert ids(plan_of(ALL)).items() <= ids(plan).items()
    chain, repetition = plan.chains["own", 0], plan.pretrain["repetition", 0]
    base = chain["base"]
    assert base.label == "pretrain base of own, seed 0"
    assert base.config["model"] == {**repetition.config["model"], "preset": "1m"}
    assert base.config["loop"] == {**repetition.config["loop"], "weight_decay": 0.5}
    assert base.config["sources"] == repetition.config["sources"]
    assert (base.seed, base.inputs) == (repetition.seed, repetition.inputs)
    assert preset(chain["synthesize"]) == "1m"
    if arm != "self_distillation":
        assert preset(chain["tune"]) == preset(plan.seed_use["own"]) == "1m"
        assert chain["pairs"].id == plan.chains[arm, 0]["pairs"].id
    joint = plan.pretrain["own", 0]
    assert preset(joint) == preset(plan.evaluate["own", 0]) == "0.6m"
    assert joint.config == plan.pretrain[arm, 0].config


def test_settings_of_repetition_alone_make_no_other_model() -> None:
    plan = plan_of(variant("base_model.preset: 0.6m, tune.passes: 9"), "seed=1")
    assert plan.chains["own", 0]["base"] is plan.pretrain["repetition", 0]
    assert plan.pretrain["repetition", 0].label == "pretrain repetition, seed 0"
    override = "experiment.overrides.repetition={pretrain.learning_rate: 0.007}"
    base = plan_of(override, variant()).chains["own", 0]["base"]
    assert base.config["loop"]["learning_rate"] == 0.007  # repetition's, under base_model


def test_every_writer_has_such_a_base_and_an_encoder_reads_with_it() -> None:
    plan = plan_of("pairs.encoder=lm", variant(f"{LARGER}, synthesize.writers: 2"))
    chain = plan.chains["own", 0]
    bases = [chain["base"], chain["base of writer 2"]]
    assert [(preset(base), base.seed) for base in bases] == [("1m", 0), ("1m", 1)]
    embeds = [chain["embed"], chain["embed of writer 2"]]
    assert [embed.inputs["base"] for embed in embeds] == bases
    assert embeds[0].id != plan.chains["sbp", 0]["embed"].id


def test_of_several_rounds_it_is_the_first_one_s() -> None:
    plan = plan_of(variant(more=", rounds: 2"))
    last = plan.chains["own", 0]
    assert preset(last["base"]) == preset(last["tune"]) == preset(last["synthesize"]) == "0.6m"
    first = last["base"].inputs["synthesize"]
    assert preset(first) == preset(first.inputs["tune"].inputs["base"]) == "1m"


def test_repetition_at_the_same_cost_pays_for_bases_that_no_arm_has() -> None:
    own, shared = plan_of(COST, "base_model.preset=1m"), plan_of(COST, "synthesize.writers=2")
    both = plan_of(COST, "synthesize.writers=2", "experiment.seeds=[0, 1]")

    def paid(plan: Plan) -> set[str]:
        stage = plan.pretrain["repetition_same_cost", 0]
        names = stage.config["sources"][0]["and_flops_of"]
        assert set(stage.inputs) == {"tokenizer", "tokens", *(f"cost_of_{name}" for name in names)}
        return {name for name in names if name.startswith("base")}

    assert paid(own) == {"base"}
    assert paid(shared) == {"base of writer 2"}
    assert paid(both) == paid(plan_of(COST)) == set()
    reads = ("pairs.encoder=lm", "tune.initial=scratch", "base_model.preset=1m")
    assert paid(plan_of(COST, *reads)) == {"base"}, "read with by the encoder alone"
    assert paid(plan_of(COST, *reads, "synthesize.writers=2")) == {"base", "base of writer 2"}
    lighter = "experiment.variants.light={of: repetition, set: {pretrain.weight_decay: 0.5}}"
    assert paid(plan_of(COST, lighter, "base_model.weight_decay=0.5")) == set(), "it is an arm"
    alone = plan_of(COST, "experiment.arms=[sbp]")
    assert paid(alone) == {"base"}, "trained for the text alone"


def test_an_override_of_sbp_has_labels_of_its_own() -> None:
    override = "experiment.overrides.sbp={base_model.preset: 1m}"
    plan = plan_of(ALL, "pairs.encoder=lm", override)
    assert plan.chains["sbp", 0]["embed"].label == "embed sbp"
    assert plan.chains["random_pairs", 0]["embed"].label == "embed"
    assert preset(plan.chains["sbp", 0]["base"]) == "1m"


def test_a_search_trains_it_from_the_winner_of_repetition() -> None:
    search = "search={trials: 2, space: {pretrain.learning_rate: [0.01]}}"
    trials = Trials(
        load_recipe(ROOT / "recipes" / "demo.yaml", [ALL, search, "base_model.weight_decay=0.5"]),
        NOWHERE,
        "0" * 64,
    )
    base = trials.of_base({"pretrain.learning_rate": 0.01}).chains["sbp", 0]["base"]
    assert (base.config["loop"]["learning_rate"], base.config["loop"]["weight_decay"]) == (
        0.01,
        0.5,
    )


def test_controls_can_be_alike() -> None:
    settings = f"{{{LARGER}, pairs.top_k: 3}}"
    plan = plan_of(
        ALL,
        f"experiment.variants={{own: {{of: sbp, set: {settings}}}, "
        f"alike: {{of: self_distillation, set: {{{LARGER}}}}}, "
        f"random: {{of: random_pairs, set: {settings}}}, "
        "other: {of: self_distillation, set: {base_model.preset: 1m}}}",
    )
    controls = ["self_distillation", "random_pairs", "real_context"]
    assert rivals_of_variants(plan.recipe.experiment) == {"own": [*controls, "alike", "random"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["base_model.preset=9m"], "settings of base_model of .*: expected one of .*0.6m"),
        ([variant("base_model.preset: 9m")], "base_model of own, section model.*expected one of"),
        (["base_model.weight_decay=-1"], "base_model.weight_decay: .*greater than or equal"),
        (["base_model.passes=2"], "base_model.passes: unknown key"),
        ([variant("base_model: 3m")], "own.set: base_model: expected a mapping of its settings"),
        ([variant("synthesize: null")], "own.set: synthesize: expected a mapping of its settings"),
        ([variant(of="real_context")], "base_model.preset cannot be set for real_context alone"),
        ([variant(of="oracle")], "base_model.preset cannot be set for oracle alone"),
    ],
)
def test_what_cannot_be_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        plan_of(*settings)


def test_it_costs_what_its_size_does() -> None:
    plan = plan_of(variant())
    chain = plan.chains["own", 0]
    costs = [planned_cost(stage, plan.recipe)["flops"] or 0
             for stage in (plan.pretrain["repetition", 0], chain["base"])]  # fmt: skip
    sizes = [num_parameters(shape_of(name), 2048)[0] for name in ("0.6m", "1m")]
    assert costs[1] / costs[0] == pytest.approx(sizes[1] / sizes[0], rel=0.15)


@pytest.mark.slow
def test_a_run_with_it_says_so(finished_run: Path, synboot: Any) -> None:
    """Of the recipe itself; the plan knew what its stages would cost."""
    values = yaml.safe_load((finished_run / "small.yaml").read_text())
    values |= {
        "name": "larger-base",
        "base_model": {"preset": "1m", "weight_decay": 0.5},
        "experiment": {"arms": ["repetition", "sbp", "self_distillation"], "cost_inclusive": True},
    }
    path = finished_run / "larger-base.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    found = outlook(load_recipe(path), finished_run, measure=False)
    planned = {stage["label"]: stage for stage in found["stages"]}
    outcome = synboot("run", str(path), "--runs", str(finished_run), "--json")
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    everything, rest = num_parameters(shape_of("1m"), 384)
    own = {
        "preset": "1m",
        "parameters": everything,
        "non_embedding_parameters": rest,
        "settings": {"model.preset": "1m", "pretrain.weight_decay": 0.5},
    }
    assert result["base_model"] == result["controls"]["self_distillation"]["base_model"] == own
    assert result["model"]["preset"] == "0.6m"

    ledger = {entry["label"]: entry for entry in result["ledger"]}
    base = ledger["pretrain base of sbp, seed 0"]
    assert base["arms"] == ["sbp", "self_distillation"]
    assert base["flops"] > 1.5 * ledger["pretrain repetition, seed 0"]["flops"]
    assert planned["pretrain base of sbp, seed 0"]["flops"] == base["flops"]
    for label in ("tune", "synthesize", "seed use"):
        assert 0.5 < planned[label]["flops"] / ledger[label]["flops"] < 2
    cost = result["cost_inclusive"]
    assert cost["flops_paid"]["base"] == base["flops"]
    assert len(cost["not_counted"]) == 1
    assert cost["extra_tokens"] > 8000  # its base model alone costs more than repetition did
    page = (finished_run / "larger-base" / "report.html").read_text()
    assert f"Not repetition: 1m, {everything:,} parameters; model.preset 1m" in page
    stages = json.loads((finished_run / "larger-base" / "stages.json").read_text())
    directories = {stage["label"]: stage["directory"] for stage in stages}
    sizes = [
        json.loads((finished_run / directories[label] / "best" / "config.json").read_text())
        for label in ("tune", "pretrain sbp, seed 0")
    ]
    assert sizes[0]["hidden_size"] > sizes[1]["hidden_size"]
