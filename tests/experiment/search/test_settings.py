"""Which settings are tried: the same for every arm, none twice, and only of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synboot.core.errors import BadInput
from synboot.experiment.recipe import Recipe, TuneConfig, load_recipe
from synboot.experiment.search.settings import SearchConfig, edges, fewer_trials, tried_settings
from synboot.train.settings import LoopConfig

ROOT = Path(__file__).parents[3]
SPACE = {"pretrain.learning_rate": [0.002, 0.004], "pretrain.weight_decay": [0.3, 1.0, 3.0]}
BOTH = "search={trials: 2, space: {pretrain.dropout: [0.1]}}"
PRETRAIN = LoopConfig(learning_rate=0.004, weight_decay=1.0, batch_rows=8)

rates = st.lists(st.sampled_from([0.001, 0.002, 0.004, 0.008]), min_size=1, max_size=4, unique=True)
decays = st.lists(st.sampled_from([0, 0.3, 1, 3]), min_size=1, max_size=4, unique=True)


def demo(*settings: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / "demo.yaml", settings)


@given(rates, decays, st.integers(0, 5), st.data())
def test_a_sample_of_the_grid_without_repetition_after_the_own_settings(
    learning_rates: list[float], weight_decays: list[float], seed: int, data: Any
) -> None:
    space = {"pretrain.weight_decay": weight_decays, "pretrain.learning_rate": learning_rates}
    own = {"pretrain.learning_rate": 0.004, "pretrain.weight_decay": 1.0}
    most = len({*[(a, b) for a in learning_rates for b in weight_decays], (0.004, 1.0)})
    trials = data.draw(st.integers(1, most))
    tried = tried_settings(SearchConfig(trials=trials, space=space), PRETRAIN, seed)
    assert len(tried) == trials
    assert tried[0] == own
    assert len({tuple(sorted(settings.items())) for settings in tried}) == trials
    for settings in tried[1:]:
        assert settings["pretrain.learning_rate"] in learning_rates
        assert settings["pretrain.weight_decay"] in weight_decays
    fewer = SearchConfig(trials=data.draw(st.integers(1, trials)), space=space)
    assert tried_settings(fewer, PRETRAIN, seed) == tried[: fewer.trials]  # more go on
    reordered = {name: values[::-1] for name, values in reversed(space.items())}
    other = SearchConfig(trials=trials, space=reordered, seed=7)
    assert tried_settings(other, PRETRAIN, seed) == tried


def test_the_recipe_seed_keys_the_sample() -> None:
    search = SearchConfig(trials=3, space=SPACE)
    assert len({str(tried_settings(search, PRETRAIN, seed)) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["search.space={tune.learning_rate: [0.1]}"], "space: tune.learning_rate cannot be sea"),
        (["search.space={pretrain.num_validations: [2]}"], "pretrain.num_validations cannot be"),
        (["search.space={pretrain.dropout: [0.1, 0.1]}"], "space.pretrain.dropout: expected at"),
        (["search.space={pretrain.dropout: []}"], "space.pretrain.dropout: expected at least"),
        (["search.space={pretrain.dropout: [1.5]}"], "search.space: pretrain: field dropout"),
        (["search.space={pretrain.dropout: [0.1]}", "search.trials=3"], "search.trials: 3 asked"),
        (["search.space={pretrain.dropout: [0.1]}", "search.seed=0"], "search.seed: expected none"),
        (
            [
                "search.space={pretrain.dropout: [0.1]}",
                "search.trials=2",
                "search.training_tokens=900000",
            ],
            "search.training_tokens: expected at most budget.training_tokens, 800000",
        ),
        (["search.trials=3"], "field search.space"),
        ([BOTH, "search.tune_space={pretrain.dropout: [0.1]}"], "tune_space: pretrain.dropout can"),
        ([BOTH, "search.tune_space={tune.schedule: [1]}"], "tune.schedule cannot be searched"),
        ([BOTH, "search.tune_space={tune.num_validations: [2]}"], "tune.num_validations cannot be"),
        ([BOTH, "search.tune_space={tune.validation_fraction: [0.2]}"], "fraction cannot be sea"),
        ([BOTH, "search.tune_space={}"], "field search.tune_space"),
        (
            [BOTH, "search.tune_space={tune.passes: [2, 2.0]}"],
            "tune_space.tune.passes: expected at",
        ),
        (
            [BOTH, "search.tune_space={tune.passes: [0, 1]}"],
            "search.tune_space: tune: field passes",
        ),
        ([BOTH, "search.tune_space={tune.passes: [1.5]}"], "search.tune_space: tune: field passes"),
        (
            [BOTH, "search.tune_space={tune.passes: [1, 7]}"],
            "search.tune_trials: 8 asked, but tune_",
        ),
        ([BOTH, "search.tune_trials=0"], "field search.tune_trials"),
    ],
)
def test_bad_searches_are_said(settings: list[str], expected: str) -> None:
    with pytest.raises(BadInput) as error:
        demo(*settings)
    assert expected in str(error.value)


def test_a_winner_at_the_edge_is_said_but_for_zero() -> None:
    search = SearchConfig(
        space={**SPACE, "pretrain.dropout": [0.0, 0.1], "pretrain.warmup_fraction": [0.1]}
    )
    own = {
        "pretrain.learning_rate": 0.008,
        "pretrain.weight_decay": 1.0,
        "pretrain.dropout": 0.0,
        "pretrain.warmup_fraction": 0.1,
    }
    assert edges(own, search, own) == {"pretrain.learning_rate": "highest"}
    lowest = {
        **own,
        "pretrain.learning_rate": 0.004,
        "pretrain.weight_decay": 0.3,
        "pretrain.dropout": 0.1,
    }
    expected = {"pretrain.weight_decay": "lowest", "pretrain.dropout": "highest"}
    assert edges(lowest, search, own) == expected


def test_settings_of_tuning_are_drawn_alike_and_one_pass_is_no_edge() -> None:
    space = {"tune.passes": [4, 1], "tune.learning_rate": [1e-4, 3e-4]}
    search = SearchConfig(space=SPACE, tune_trials=5, tune_space=space)
    tune = TuneConfig(learning_rate=1e-3, batch_rows=8)
    tried = tried_settings(search, tune, 0, "tune")
    own = {"tune.learning_rate": 1e-3, "tune.passes": 2}
    assert tried[0] == own
    assert sorted(tuple(t.values()) for t in tried[1:]) == [
        (1e-4, 1), (1e-4, 4), (3e-4, 1), (3e-4, 4)
    ]  # fmt: skip
    alone = SearchConfig(space=SPACE)
    assert tried_settings(alone, tune, 0, "tune") == []
    few = {"tune.learning_rate": 3e-4, "tune.passes": 1}
    many = {"tune.learning_rate": 1e-4, "tune.passes": 4}
    assert edges(few, search, own) == {}
    assert edges(many, search, own) == {"tune.learning_rate": "lowest", "tune.passes": "highest"}


def test_a_winner_that_is_one_of_the_combinations_leaves_fewer_trials() -> None:
    search = SearchConfig(trials=7, space=SPACE)
    assert fewer_trials(search, PRETRAIN.model_copy(update={"dropout": 0.1}), "pretrain") == {
        "trials": 6
    }
    other = PRETRAIN.model_copy(update={"learning_rate": 0.1})
    assert fewer_trials(search, other, "pretrain") == {}
    assert fewer_trials(search, PRETRAIN, "tune") == {}
