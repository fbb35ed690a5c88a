"""The trials of a search: equal for every arm, on one synthetic text, and blind to test text."""

from __future__ import annotations

from pathlib import Path

import pytest

from synboot.core.errors import BadInput
from synboot.experiment.plan import make_plan
from synboot.experiment.recipe import load_recipe
from synboot.experiment.search.trials import Trials, with_ancestors

ROOT = Path(__file__).parents[3]
CONTENT = "0" * 64
SEARCH = (
    "search={trials: 3, training_tokens: 100000, "
    "space: {pretrain.weight_decay: [0.3, 3.0], pretrain.dropout: [0.0, 0.1]}}"
)
ARMS = "experiment.arms=[sbp, oracle, self_distillation, random_pairs]"


def trials_of(*settings: str) -> Trials:
    recipe = load_recipe(ROOT / "recipes" / "demo.yaml", [SEARCH, *settings])
    return Trials(recipe, Path("nowhere"), CONTENT)


def test_every_arm_has_the_same_settings_and_tokens() -> None:
    trials = trials_of(ARMS, "experiment.cost_inclusive=true")
    assert trials.arms == ["repetition", "sbp", "oracle", "self_distillation", "random_pairs"]
    seen: dict[str, list[object]] = {}
    for arm in trials.arms:
        own = trials.of_arm(arm, trials.plan)
        seen[arm] = [trial.settings for trial in own]
        for trial in own:
            assert trial.stage.seed == 1000
            assert sum(source["tokens"] for source in trial.stage.config["sources"]) == 100_000
            loop = trial.stage.config["loop"]
            assert loop["weight_decay"] == trial.settings["pretrain.weight_decay"]
            assert loop["dropout"] == trial.settings["pretrain.dropout"]
    assert all(settings == seen["sbp"] for settings in seen.values())
    assert seen["sbp"][0] == {"pretrain.dropout": 0.0, "pretrain.weight_decay": 1.0}


def test_all_trials_share_the_text_of_the_recipe_with_the_winning_base() -> None:
    """What is written for the search is what the frozen recipe needs: equal ids."""
    trials = trials_of(ARMS)
    winner = trials.settings[1]
    plan = trials.of_base(winner)
    changed = [f"{name}={value}" for name, value in winner.items()]
    frozen = make_plan(
        load_recipe(ROOT / "recipes" / "demo.yaml", [ARMS, *changed]), Path("nowhere"), CONTENT
    )
    for arm in ("sbp", "self_distillation", "random_pairs"):
        text = frozen.chains[arm, 0]["synthesize"].id
        for trial in trials.of_arm(arm, plan):
            assert trial.stage.inputs["synthesize"].id == text
    trained = [trial.stage for trial in trials.of_arm("sbp", plan)]
    assert frozen.chains["sbp", 0]["base"].id in {stage.id for stage in with_ancestors(trained)}


def test_without_synthetic_text_repetition_is_searched_only_if_it_is_an_arm() -> None:
    assert trials_of("experiment.arms=[oracle]").arms == ["oracle"]
    more = trials_of("experiment.arms=[oracle, repetition]", "experiment.repetition_multiples=[2]")
    assert more.arms == ["repetition", "oracle", "repetition_2x"]
    assert not more.needs_base


def test_nothing_that_reads_test_text_can_be_run() -> None:
    trials = trials_of(ARMS)
    stages = [t.stage for arm in trials.arms for t in trials.of_arm(arm, trials.plan)]
    names = [stage.name for stage in with_ancestors(stages)]
    assert not {"evaluate", "tasks", "contamination", "quality"} & set(names)
    assert names.index("corpus") < names.index("tune") < names.index("synthesize")
    with pytest.raises(AssertionError, match="may not run evaluate"):
        with_ancestors([next(s for s in trials.plan.stages if s.name == "evaluate")])


def test_a_search_is_no_part_of_any_identity() -> None:
    plain = load_recipe(ROOT / "recipes" / "demo.yaml", [ARMS])
    searched = load_recipe(ROOT / "recipes" / "demo.yaml", [ARMS, SEARCH])
    ids = [
        [stage.id for stage in make_plan(one, Path("nowhere"), CONTENT).stages]
        for one in (plain, searched)
    ]
    assert ids[0] == ids[1]


def test_trials_that_would_all_be_alike_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where an arm's own settings win over those that are tried."""
    trials = trials_of()
    alike = trials.of_arm("oracle", trials.plan)[0].stage
    monkeypatch.setattr(trials, "_stage", lambda *_: alike)
    with pytest.raises(BadInput, match="oracle has settings of its own"):
        trials.of_arm("oracle", trials.plan)


def test_a_recipe_without_a_search_is_refused() -> None:
    recipe = load_recipe(ROOT / "recipes" / "demo.yaml")
    with pytest.raises(BadInput, match="field search: expected a section"):
        Trials(recipe, Path("nowhere"), CONTENT)
