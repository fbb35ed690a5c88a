"""What result.json says of the arms' scores."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from synboot.core.rng import rng
from synboot.experiment.findings import doubts, findings
from synboot.experiment.phrases import rivals, times, times_ends, verdict_of
from synboot.experiment.statistics.scores import Scores

LEVELS = {
    "repetition": 100.0,
    "sbp": 96.0,
    "oracle": 80.0,
    "self_distillation": 97.5,
    "random_pairs": 96.0,
    "repetition_2x": 94.0,
    "repetition_same_cost": 99.0,
}
MULTIPLES = {"repetition": 1.0, "repetition_2x": 2.0, "oracle": 8.0}


def arms(*names: str, seeds: int = 3, documents: int = 80) -> dict[str, list[Scores]]:
    draw = rng(0, "findings")
    ids = [f"d{i}" for i in range(documents)]
    sizes = np.full(documents, 40)
    base = draw.normal(0, 20, documents)
    found: dict[str, list[Scores]] = {}
    for name in names or LEVELS:
        own = draw.normal(0, 2, documents)
        found[name] = [
            Scores(ids, sizes, 4 * sizes, LEVELS[name] + base + own + draw.normal(0, 0.3))
            for _ in range(seeds)
        ]
    return found


def found(*names: str, seeds: int = 3, **options: Any) -> dict[str, Any]:
    result = findings(arms(*names, seeds=seeds), seed=0, num_resamples=500, **options)
    return dict(json.loads(json.dumps(result, allow_nan=False)))


def test_every_arm_has_three_intervals_and_each_seeds_value() -> None:
    result = found(multiples=MULTIPLES)
    assert set(result["comparisons"]) == set(LEVELS) - {"repetition"}
    for gains in result["comparisons"].values():
        for gain in gains.values():
            assert len(gain["by_seed"]) == 3
            assert gain["gain"] == pytest.approx(np.mean(gain["by_seed"]))
            for bounds in (gain, gain["seeds"], gain["both"]):
                assert bounds["low"] < gain["gain"] < bounds["high"]
            assert gain["both"]["low"] <= gain["low"]
            assert gain["both"]["high"] >= gain["high"]
    assert result["comparisons"]["oracle"]["bits_per_byte"]["verdict"] == "better"
    assert result["recovered"]["bits_per_byte"]["value"] == pytest.approx(0.2, abs=0.05)
    assert set(result["statistics"]["recovered"]) == set(LEVELS) - set(MULTIPLES)
    assert result["statistics"]["seeds"] == 3
    assert "synthetic text" in result["statistics"]["covers"]["seeds"]
    assert "base model" in found(text_per_seed=True)["statistics"]["covers"]["seeds"]


def test_sbp_is_compared_with_each_rival_directly() -> None:
    result = found(multiples=MULTIPLES)
    over = result["statistics"]["sbp_over"]
    assert set(over) == {"self_distillation", "random_pairs", "repetition_same_cost"}
    for arm, gains in over.items():
        own, other = (result["comparisons"][a]["bits_per_byte"]["gain"] for a in ("sbp", arm))
        assert gains["bits_per_byte"]["gain"] == pytest.approx(own - other)
    assert rivals(result) == (
        "SBP is ahead of self-distillation and same-cost repetition; not clearly ahead of "
        "random pairs."
    )
    assert rivals(found("repetition", "sbp")) == ""


def test_a_variant_is_compared_with_the_controls_as_sbp_is() -> None:
    plain = found(multiples=MULTIPLES)
    controls = ["random_pairs", "repetition_same_cost"]
    result = found(multiples=MULTIPLES, rivals_of={"self_distillation": controls})
    over = result["statistics"].pop("variants_over")
    assert plain["statistics"].pop("variants_over") == {}
    assert result == plain
    assert list(over["self_distillation"]) == controls
    for arm, gains in over["self_distillation"].items():
        own, other = (
            result["comparisons"][a]["bits_per_byte"]["gain"] for a in ("self_distillation", arm)
        )
        assert gains["bits_per_byte"]["gain"] == pytest.approx(own - other)
        assert {"verdict", "both", "by_seed"} <= set(gains["bits_per_byte"])
    result["statistics"]["variants_over"] = over
    said = rivals(result)
    assert said.startswith(rivals(plain))
    assert "self-distillation is " in said
    assert rivals(result | {"split": "valid"}) == rivals(plain)


def test_data_efficiency_is_of_arms_that_are_not_more_data() -> None:
    result = found(multiples=MULTIPLES)["data_efficiency"]
    assert [run["multiple"] for run in result["runs"]] == [1, 2, 8]
    assert set(result["arms"]) == {"sbp", "self_distillation", "random_pairs"}
    sbp = result["arms"]["sbp"]
    assert 1 < sbp["documents"]["low"] < sbp["value"] < sbp["documents"]["high"] < 2
    assert times(sbp, result["runs"]) == f"{sbp['value']:.2f}x"
    # The same text under two names is one run, and one run is nothing to interpolate between.
    twice = found(multiples=MULTIPLES | {"repetition_2x": 8.0})["data_efficiency"]
    assert [run["arm"] for run in twice["runs"]] == ["repetition", "repetition_2x"]
    assert found("repetition", "sbp", multiples={"repetition": 1.0})["data_efficiency"] is None
    assert found("repetition", "sbp")["data_efficiency"] is None


def test_what_lies_outside_of_the_runs_is_said_to_lie_there() -> None:
    runs = [{"multiple": 1.0}, {"multiple": 8.91}]
    above = {"value": None, "beyond": "above"}
    assert times(above, runs) == "more than 8.91x"
    assert times(above | {"beyond": "below"}, runs) == "below 1x"
    assert times_ends({"low": 8.91, "high": None}, runs) == "[above 8.91]"
    assert times_ends({"low": None, "high": 1.0}, runs) == "[below 1]"
    assert times_ends({"low": None, "high": 1.7}, runs) == "[below 1, 1.70]"
    assert times_ends({"low": 7.5, "high": None}, runs) == "[7.50, above 8.91]"
    assert times_ends({"refused": "why"}, runs) == ""


def test_with_several_seeds_a_claim_needs_the_interval_over_both() -> None:
    clear, unclear = {"low": 0.1, "high": 0.3}, {"low": -0.1, "high": 0.5}
    assert verdict_of({"gain": 0.2, **clear}) == "better"
    assert verdict_of({"gain": 0.2, **clear, "both": {"refused": "one seed"}}) == "better"
    assert verdict_of({"gain": 0.2, **clear, "both": clear}) == "better"
    assert verdict_of({"gain": 0.2, **clear, "both": unclear}) == "unclear"
    assert verdict_of({"gain": 0.2, "low": None, "high": None}) == "unclear"
    worse = {"low": -0.3, "high": -0.1}
    assert verdict_of({"gain": -0.2, **worse, "both": worse}) == "worse"


def test_one_seed_says_why_there_is_no_interval_over_seeds() -> None:
    result = found("repetition", "sbp", "oracle", seeds=1)
    for figure in (
        result["comparisons"]["sbp"]["nats_per_token"],
        result["recovered"]["nats_per_token"],
    ):
        for kind in ("seeds", "both"):
            assert "one training seed" in figure[kind]["refused"]
        assert figure["low"] < figure["high"]


def test_few_documents_have_no_interval_over_documents() -> None:
    few = findings(arms("repetition", "sbp", documents=5), seed=0, num_resamples=100)
    gain = few["comparisons"]["sbp"]["bits_per_byte"]
    assert (gain["low"], gain["high"]) == (None, None)
    assert gain["verdict"] == "unclear"


def test_doubts_are_said() -> None:
    result = found(multiples=MULTIPLES)
    assert doubts(result) == [
        f"Intervals over seeds cover {result['statistics']['covers']['seeds']}."
    ]
    assert doubts(found("repetition", "sbp", seeds=1)) == []
    worse = {"repetition": 1.0, "oracle": 2.0, "repetition_2x": 8.0}
    assert any("did worse with more text" in line for line in doubts(found(multiples=worse)))
    table = arms("repetition", "sbp", documents=60)
    sizes = np.full(60, 40)
    sizes[0] = 9000
    long = {
        arm: [Scores(one.ids, sizes, 4 * sizes, one.nats) for one in own]
        for arm, own in table.items()
    }
    assert "weigh as 2 equally long" in doubts(findings(long, seed=0, num_resamples=100))[0]


def test_more_repetition_is_no_rival_where_its_multiple_is_not_known() -> None:
    result = found()
    over = set(LEVELS) - {"repetition", "sbp", "oracle", "repetition_2x"}
    assert set(result["statistics"]["sbp_over"]) == over
    assert set(result["statistics"]["recovered"]) == over | {"sbp"}


def test_groups_are_counted_and_said() -> None:
    table = arms("repetition", "sbp")
    groups = [f"g{i // 5}" for i in range(80)]
    grouped = {arm: [replace(one, groups=groups) for one in own] for arm, own in table.items()}
    result = findings(grouped, seed=0, num_resamples=100)
    statistics = result["statistics"]
    assert (statistics["groups"], statistics["effective_groups"]) == (16, pytest.approx(16))
    assert statistics["effective_documents"] == pytest.approx(80)
    assert "other groups of documents like" in statistics["covers"]["documents"]
    assert "other groups of documents and" in statistics["covers"]["both"]
    assert "80 scored documents come from 16 groups, which weigh as 16" in doubts(result)[0]
    plain = findings(table, seed=0, num_resamples=100)["statistics"]
    assert (plain["groups"], plain["effective_groups"]) == (None, None)
    assert "groups" not in plain["covers"]["documents"]


def test_without_repetition_there_is_nothing_to_gain_over() -> None:
    result = found("sbp", "oracle")
    assert result["comparisons"] == {}
    assert result["recovered"] is None
    assert result["statistics"]["recovered"] == {}
