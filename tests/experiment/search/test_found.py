"""Searches on the page: every trial of every arm, who won, and what is no search."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).parents[1]))

from sample_run import HOSTILE, Page, light_data

from synboot.core.errors import BadInput
from synboot.experiment.figures import NARROW, WIDE
from synboot.experiment.figures_statistics import trials_figure
from synboot.experiment.report import render
from synboot.experiment.report_data import ReportData
from synboot.experiment.search.found import losses_by_arm, read_search, searches_section


def trials(*losses: float | None, before: float | None = None) -> dict[str, Any]:
    """An arm, or tuning, with a learning rate for each loss; None diverged."""
    known = {loss: place for place, loss in enumerate(losses) if loss is not None}
    winner = known[min(known)]
    rate = "tune.learning_rate" if before else "pretrain.learning_rate"
    return {
        "winner": winner,
        "settings": {rate: (winner + 1) / 1000},
        "validation_loss": losses[winner],
        "at_the_edge": {rate: "highest"} if winner == len(losses) - 1 else {},
        "trials": [
            {"trial": place, "settings": {rate: (place + 1) / 1000}, "validation_loss": loss}
            | ({} if loss else {"diverged": "step 3: the loss is not finite"})
            | ({"initial_validation_loss": before} if before else {})
            for place, loss in enumerate(losses)
        ],
    }


def sample_search() -> dict[str, Any]:
    return {
        "schema": 1,
        "recipe": "a-recipe",
        "seed": 1000,
        "training_tokens": 4096,
        "trials_per_arm": 3,
        "has_the_winner_of": {"repetition_same_cost": "repetition"},
        "tune": {**trials(2.5, 2.25, before=2.75), "on_the_pairs_of": "sbp", "seed": 0},
        "arms": {
            "repetition": trials(4.5, 4.25, 4.75),
            "sbp": trials(4.5, 4.625, 4.125),
            "self_distillation": trials(4.375, None, 4.5),
        },
    }


def test_a_row_for_each_combination_and_a_column_for_each_arm() -> None:
    (section,) = searches_section([sample_search()])
    table = section["trials"]
    assert table["settings"] == ["learning rate"]
    assert table["columns"] == ["repetition", "SBP", "self-distillation"]
    rows = {row["settings"][0]: row["cells"] for row in table["rows"]}
    assert [cell["value"] for cell in rows["0.001"]] == [4.5, 4.5, 4.375]
    assert [cell["value"] for cell in rows["0.003"]] == [4.75, 4.125, 4.5]
    won = {
        rate: [cell["best"] for cell in cells] for rate, cells in rows.items()
    }  # each arm has one winner
    assert won == {
        "0.001": [False, False, True],
        "0.002": [True, False, False],
        "0.003": [False, True, False],
    }
    assert rows["0.002"][2] == {"value": None, "best": False, "diverged": True}
    assert section["remarks"] == [
        "Better ones may lie beyond learning rate 0.003, the highest that was tried: it won for "
        "SBP.",
        "Better ones may lie beyond learning rate 0.002, the highest that was tried: it won for "
        "the synthesizer.",
        "self-distillation, trial 1: step 3: the loss is not finite",
        "The settings of same-cost repetition are those of repetition.",
    ]


def test_tuning_stands_beside_what_was_before_it() -> None:
    (section,) = searches_section([sample_search()])
    table = section["tune"]
    assert table["columns"] == ["before tuning", "after it"]
    assert [[cell["value"] for cell in row["cells"]] for row in table["rows"]] == [
        [2.75, 2.5],
        [2.75, 2.25],
    ]
    assert [[cell["best"] for cell in row["cells"]] for row in table["rows"]] == [
        [False, False],
        [False, True],
    ]
    without = {name: value for name, value in sample_search().items() if name != "tune"}
    assert searches_section([without])[0]["tune"] is None


def test_a_tuning_that_diverged_says_why() -> None:
    found = sample_search()
    found["tune"] |= trials(None, 2.25, before=2.75)
    del found["tune"]["trials"][0]["initial_validation_loss"]
    (section,) = searches_section([found])
    assert [[cell["diverged"] for cell in row["cells"]] for row in section["tune"]["rows"]] == [
        [False, True],
        [False, False],
    ]
    assert "the synthesizer, trial 0: step 3: the loss is not finite" in section["remarks"]


def test_the_figure_has_every_arm_with_its_best() -> None:
    assert losses_by_arm(sample_search())["self_distillation"] == [4.375, 4.5]
    for width in (WIDE, NARROW):
        figure = trials_figure(sample_search(), "trials-0", width)
        ElementTree.fromstring(figure)
        for shown in ("self-distillation 4.3750", ">4.1250<", ">SBP<"):
            assert shown in figure


def test_the_page_shows_several_searches_and_escapes_what_they_say() -> None:
    data, first, second = light_data(), sample_search(), sample_search()
    second["recipe"] = second["arms"]["self_distillation"]["trials"][1]["diverged"] = HOSTILE[0]
    page = render(ReportData(data.result, [], data.pairs, data.synthetic, searches=[first, second]))
    parsed = Page(page)
    assert not parsed.open
    assert "script" not in parsed.tags
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    assert page.count("<strong>4.1250</strong>") == page.count("<strong>2.2500</strong>") == 2
    assert parsed.text.count("diverged") == 2
    assert '<a href="#trials">' in page
    assert 'href="#trials"' not in render(data)


def test_what_is_no_search_is_refused_with_its_field(tmp_path: Path) -> None:
    file = tmp_path / "search.json"
    for text, said in (
        ("[]", r"expected the search\.json of a search, got \[\]"),
        ("{", "expected the search.json of a search: "),
        ("{}", "field recipe: "),
    ):
        file.write_text(text)
        with pytest.raises(BadInput, match=f"{re.escape(str(file))}: {said}"):
            read_search(file)
    with pytest.raises(BadInput, match=r"no\.json: expected the search"):
        read_search(tmp_path / "no.json")

    good = sample_search()
    for where, value, said in (
        (("arms",), {}, "field arms: "),
        (("arms", "sbp", "winner"), "first", "field arms.sbp.winner: .*got 'first'"),
        (("arms", "sbp", "trials"), [], "field arms.sbp.trials: "),
        (("arms", "sbp", "at_the_edge"), {"x": "highest"}, "at_the_edge: expected some of"),
        (("arms", "sbp", "settings"), {"x": 1}, "expected each to have the settings x"),
        (("arms", "sbp"), trials(1.0, before=2.0), "arms: expected the same settings for all"),
        (("tune", "seed"), None, "field tune.seed: "),
        (("schema",), 2, "field schema: "),
        (("arms", "sbp", "winner"), 99, "winner: expected a trial with a loss, got 99"),
        (("arms", "self_distillation", "winner"), 1, "expected a trial with a loss, got 1"),
    ):
        broken: Any = copy.deepcopy(good)
        at = broken
        for key in where[:-1]:
            at = at[key]
        at[where[-1]] = value
        file.write_text(json.dumps(broken))
        with pytest.raises(BadInput, match=said):
            read_search(file)
    file.write_text(json.dumps(good))
    assert read_search(file) == good


def test_the_searches_of_the_experiment_can_be_shown() -> None:
    files = sorted((Path(__file__).parents[3] / "docs" / "experiment").glob("*.search.json"))
    assert len(files) >= 2
    for file in files:
        found = read_search(file)
        (section,) = searches_section([found])
        cells = [cell for row in section["trials"]["rows"] for cell in row["cells"]]
        assert len(cells) == sum(len(one["trials"]) for one in found["arms"].values())
        assert sum(cell["best"] for cell in cells) == len(found["arms"])
