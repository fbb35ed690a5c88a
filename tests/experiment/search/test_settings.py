"""Which settings are tried: the same for every arm, none twice, and only of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synboot.core.errors import BadInput
from synboot.experiment.recipe import Recipe, load_recipe
from synboot.experiment.search.settings import SearchConfig, edges, tried_settings
from synboot.train.loop import LoopConfig

ROOT = Path(__file__).parents[3]
SPACE = {"pretrain.learning_rate": [0.002, 0.004], "pretrain.weight_decay": [0.3, 1.0, 3.0]}
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
