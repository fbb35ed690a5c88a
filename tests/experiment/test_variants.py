"""Variants and settings of single arms: what they fork, what they share, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from synboot.core.errors import BadInput
from synboot.experiment.arms import rivals_of_variants
from synboot.experiment.plan import Plan, make_plan
from synboot.experiment.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
CONTENT = "0" * 64
ALL = (
    "experiment.arms=[repetition, sbp, oracle, self_distillation, random_pairs, real_context]",
    "experiment.seeds=[0, 1]",
    "experiment.repetition_multiples=[2]",
    "experiment.cost_inclusive=true",
)


def recipe_of(*settings: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / "demo.yaml", settings)


def plan_of(*settings: str) -> Plan:
    return make_plan(recipe_of(*settings), Path("nowhere"), CONTENT)


def variant(name: str, of: str = "sbp", **more: str) -> str:
    """A setting of a variant, as the command line has it."""
    listed = ", ".join(f"{key}: {value}" for key, value in {"of": of, **more}.items())
    return f"experiment.variants.{name}={{{listed}}}"


def ids(plan: Plan) -> dict[str, str]:
    assert len({stage.label for stage in plan.stages}) == len(plan.stages), "labels are unique"
    return {stage.label: stage.id for stage in plan.stages}


def test_a_variant_of_a_control_is_a_rival_as_far_as_it_can_be_alike() -> None:
    """Settings that a control cannot have are not asked of it; repetition at the same cost pays for
    plain SBP and is none."""
    experiment = recipe_of(
        *ALL,
        variant("a", set="{synthesize.top_p: 1.0, pairs.top_k: 3, synthesize.best_of: 2}"),
        variant("b", set="{synthesize.top_p: 1.0}", rounds="2"),
        variant("c", set="{synthesize.megadocuments: 2}"),
        variant("plain", "self_distillation", set="{synthesize.top_p: 1.0}"),
        variant("twice", "self_distillation", set="{synthesize.top_p: 1.0}", rounds="2"),
        variant("random", "random_pairs", set="{synthesize.top_p: 1.0, pairs.top_k: 3}"),
        variant(
            "alike", "random_pairs",
            set="{pairs.top_k: 3, synthesize.best_of: 2, synthesize.top_p: 1.0}",
        ),
        variant("pairs", "real_context", set="{pairs.top_k: 3}"),
        variant("oracle_too", "oracle", set="{pretrain.dropout: 0.1}"),
    ).experiment  # fmt: skip
    controls = ["self_distillation", "random_pairs", "real_context"]
    assert rivals_of_variants(experiment) == {
        "a": [*controls, "plain", "alike", "pairs"],
        "b": [*controls, "twice"],
        "c": controls,
    }


@pytest.fixture(scope="module")
def plain() -> dict[str, str]:
    return ids(plan_of(*ALL))


def test_variants_add_stages_and_change_none(plain: dict[str, str]) -> None:
    plan = plan_of(
        *ALL,
        variant("top_p_1", set="{synthesize.top_p: 1.0}"),
        variant("scratch", set="{tune.initial: scratch, tune.passes: 4}"),
        variant("more", set="{budget.synthetic_share: 0.6}"),
        variant("first", set="{pretrain.order: synthetic_first}"),
        variant("alike", set="{pairs.min_similarity: 0.5}"),
        variant("alike_random", "random_pairs", set="{pairs.min_similarity: 0.5}"),
        variant("own_top_p_1", "self_distillation", set="{synthesize.top_p: 1.0}"),
        variant("thrice", rounds="3"),
        variant("heavy", "repetition", set="{pretrain.weight_decay: 3.0}"),
    )
    more = ids(plan)
    assert plain.items() <= more.items()
    added = set(more) - set(plain)
    shared = {name.split()[0] for name in added if "top_p_1" in name and "own" not in name}
    assert shared == {"synthesize", "pretrain", "evaluate"}  # pairs and tuning are those of sbp
    of_scratch = {"tune scratch", "seed use scratch", "synthesize scratch"}
    assert {n for n in added if n.endswith(" scratch")} == of_scratch
    assert [n for n in added if n.endswith((" first", " heavy"))] == []  # no text of their own
    assert {"pairs alike", "random pairs alike_random"} <= added
    assert "embed alike" not in added
    assert plan.chains["alike", 0]["embed"] is plan.chains["sbp", 0]["embed"]
    judged = plan.chains["alike_random", 0]["pairs"].inputs["pairs"]
    assert judged is plan.chains["alike", 0]["pairs"]


def test_a_variant_has_the_settings_of_its_arm_and_its_own() -> None:
    recipe = recipe_of(
        "experiment.overrides.sbp={pretrain.dropout: 0.1, synthesize.top_p: 0.8}",
        "experiment.overrides.repetition={pretrain.weight_decay: 3.0}",
        "experiment.overrides.repetition_2x.pretrain.weight_decay=2.0",
        "experiment.repetition_multiples=[2, 4]",
        variant("a", set="{synthesize: {top_p: 1.0, filters: {min_tokens: 3}}}"),
    )
    own = recipe.of_arm("a")
    assert (own.pretrain.dropout, own.synthesize.top_p) == (0.1, 1.0)
    assert own.synthesize.filters.min_tokens == 3
    assert own.synthesize.temperature == recipe.synthesize.temperature
    assert own.pretrain.weight_decay == recipe.pretrain.weight_decay
    weight_decay = {
        arm: recipe.of_arm(arm).pretrain.weight_decay
        for arm in ("repetition", "repetition_2x", "repetition_4x", "repetition_same_cost")
    }
    assert list(weight_decay.values()) == [3.0, 2.0, 3.0, 3.0]
    assert recipe.of_arm("oracle") == recipe.model_copy()
    assert Recipe.model_validate(recipe.dump()) == recipe


def test_the_base_of_every_chain_is_the_runs_repetition() -> None:
    settings = ("experiment.overrides.repetition={pretrain.weight_decay: 3.0}",)
    plan = plan_of(*ALL, *settings, variant("a", set="{pretrain.weight_decay: 2.0}"))
    assert plan.pretrain["repetition", 0].config["loop"]["weight_decay"] == 3.0
    assert plan.pretrain["a", 0].config["loop"]["weight_decay"] == 2.0
    for arm in ("sbp", "a", "self_distillation", "random_pairs"):
        assert plan.chains[arm, 0]["base"] is plan.pretrain["repetition", 0]
    assert plan.pretrain["repetition_2x", 0].config["loop"]["weight_decay"] == 3.0
    assert plan.pretrain["oracle", 0].config["loop"]["weight_decay"] == 1.0


def test_from_scratch_needs_no_base() -> None:
    plan = plan_of(
        "experiment.arms=[oracle]", variant("a", set="{tune.initial: scratch, tune.passes: 9}")
    )
    assert "base" not in plan.chains["a", 0]
    assert [s.label for s in plan.stages if s.name == "pretrain"] == [
        "pretrain oracle, seed 0",
        "pretrain a, seed 0",
    ]
    tuned = plan.chains["a", 0]["tune"].config
    assert tuned["initial"] == "scratch"
    assert "initial_checkpoint" not in tuned


def test_rounds_go_on_from_the_jointly_trained_model() -> None:
    plan = plan_of(*ALL, "pairs.encoder=lm", variant("a", rounds="2"))
    last = plan.chains["a", 0]
    joint = plan.pretrain["sbp", 0]
    assert last["base"] is joint  # the first round is the sbp arm's
    assert last["tune"].inputs["base"] is joint
    assert last["embed"].inputs["base"] is joint
    assert plan.pretrain["a", 1].inputs["synthesize"] is last["synthesize"]
    assert len(ids(plan)) == len(plan.stages)


def test_real_pairs_take_the_place_of_the_synthetic_text() -> None:
    plan = plan_of(*ALL)
    stage, sbp = plan.pretrain["real_context", 0], plan.pretrain["sbp", 0]
    kinds = [(s["documents"], s["tokens"]) for s in stage.config["sources"]]
    assert kinds == [("unique", 480_000), ("paired", 320_000)]
    assert [s["tokens"] for s in sbp.config["sources"]] == [480_000, 320_000]
    assert plan.chains["real_context", 0]["pairs"] is plan.bootstrap["pairs"]
    assert "base" not in plan.chains["real_context", 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([variant("a", set="{model.preset: 1m}")], r"variants.a.set: model.preset cannot be set"),
        ([variant("a", set="{budget.unique_tokens: 9}")], r"budget.unique_tokens cannot be set"),
        ([variant("a", set="{evaluate.split: valid}")], r"evaluate.split cannot be set for sbp"),
        ([variant("a", "oracle", set="{tune.passes: 2}")], r"tune.passes cannot .* oracle alone"),
        ([variant("a", "repetition", set="{pretrain.order: synthetic_first}")], "pretrain.order"),
        ([variant("a", "self_distillation", set="{synthesize.best_of: 2}")], "best_of cannot"),
        ([variant("a", set="{tune.pases: 2}")], r"a, section tune: .*did you mean passes\?"),
        ([variant("a", set="{tune.passes: 0}")], r"a, section tune: .*greater than or equal to 1"),
        ([variant("a", set="{synthesize.best_of: 3}")], "3 draws do not divide the 4"),
        ([variant("a", sets="{}")], r"variants.a.sets: unknown key; did you mean set\?"),
        ([variant("a")], "expected set or rounds: without them it is sbp"),
        ([variant("a", "real_context", rounds="2")], "no text that a model writes"),
        ([variant("a", "sbpp", rounds="2")], r"variants.a.of: .*'sbp'"),
        ([variant("oracle", set="{tune.passes: 2}")], "that no arm has, got oracle"),
        (["experiment.overrides.spb={tune.passes: 2}"], "overrides: expected one of .*, got spb"),
        (["experiment.overrides.spb=null"], "overrides: expected an arm to take out, got spb"),
        (["experiment.overrides={1: null}"], "overrides: expected an arm to take out, got 1"),
        (["experiment.overrides={repetition_1e+x: null}"], "to take out, got repetition_1e"),
        (["experiment.overrides.sbp={tune.passes: no}"], r"sbp, section tune: field passes"),
        (["experiment.ensembles=true"], "ensembles: expected several seeds"),
    ],
)
def test_what_cannot_be_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        recipe_of(*settings)
