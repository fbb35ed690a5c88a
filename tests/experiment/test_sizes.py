"""Runs beside each other: what is claimed of size, and what the page shows of it."""

from __future__ import annotations

import copy
import itertools
import json
import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import synboot
from synboot.core.errors import BadInput
from synboot.experiment.figures import NARROW, WIDE
from synboot.experiment.figures_statistics import sizes_figure
from synboot.experiment.report import ReportData, render
from synboot.experiment.sizes import by_size, sizes_section, variants_section

HERE = Path(__file__).parent
_page = runpy.run_path(str(HERE / "test_report.py"))
_statistics = runpy.run_path(str(HERE / "test_report_statistics.py"))


def signed(value: float) -> str:
    return f"{value:+.2f}"


def gain(value: float, margin: float) -> dict[str, Any]:
    return {"bits_per_byte": {"gain": value, "low": value - margin, "high": value + margin}}


def size(tokens: int, over: dict[str, float], margin: float = 0.1) -> dict[str, Any]:
    """A run in which SBP gains `over[arm]`, certain to `margin`."""
    result: dict[str, Any] = _page["sample_result"]()
    result["recipe"], result["split"] = f"run-{tokens}", "test"
    result["unique"]["requested_tokens"] = tokens
    result["comparisons"]["sbp"] = gain(over["repetition"], margin)
    controls = {arm: value for arm, value in over.items() if arm != "repetition"}
    result["arms"] |= {arm: _page["arm"](2.3, [], 1) for arm in controls}
    result["statistics"] = {"sbp_over": {arm: gain(v, margin) for arm, v in controls.items()}}
    return result


def standing(*gains: float) -> str:
    """What is said of repetition for SBP's gains at sizes that rise."""
    runs = [size(1000 * (i + 1), {"repetition": value}) for i, value in enumerate(gains)]
    sentences = sizes_section(runs, signed=signed, percent=signed)["standing"]
    assert len(sentences) == 1
    return str(sentences[0])


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((0.5, 0.2), "ahead of repetition at every size that was run."),
        ((0.05, 0.2, 0.3), "ahead of repetition from 2,000 unique tokens on."),
        ((0.3, 0.05, 0.3), "ahead of repetition from 3,000 unique tokens on."),
        ((0.3, 0.05), "at smaller sizes, not at the largest; its gain by size falls: +0.30, +0.05"),
        ((-0.3, 0.0, 0.05), "at no size; its gain by size rises: -0.30, +0.00, +0.05"),
        ((0.05, -0.3, 0.05), "at no size; its gain by size has no one direction"),
    ],
)
def test_ahead_from_a_size_on_means_at_every_larger_one(
    gains: tuple[float, ...], said: str
) -> None:
    assert said in standing(*gains)


@given(st.lists(st.sampled_from([-0.3, 0.05, 0.3]), min_size=2, max_size=6))
def test_no_size_is_claimed_beyond_one_that_is_not_clear(gains: list[float]) -> None:
    sentence = standing(*gains)
    clear = list(itertools.takewhile(lambda value: value > 0.1, reversed(gains)))
    if len(clear) == len(gains):
        assert "at every size" in sentence
    elif clear:
        assert f"from {1000 * (len(gains) - len(clear) + 1):,} unique tokens on" in sentence
    else:
        assert "ahead of repetition at no size" in sentence or "not at the largest" in sentence


def test_sizes_stand_in_their_order_and_controls_that_a_size_lacks_are_left_out_there() -> None:
    large = size(9000, {"repetition": 0.4, "random_pairs": -0.2})
    small = size(1000, {"repetition": 0.3})
    section = sizes_section([large, small], signed=signed, percent=signed)
    assert [row["unique_tokens"] for row in section["rows"]] == [1000, 9000]
    assert section["rivals"] == ["repetition", "random_pairs"]
    assert section["rows"][0]["over"][1] == {}
    assert section["rows"][1]["over"][1]["verdict"] == "worse"
    assert section["rows"][1]["over"][0]["ends"] == "[+0.30, +0.50]"
    assert section["same_test"]
    large["corpus"]["bytes"]["test"] += 1
    assert not sizes_section([large, small], signed=signed, percent=signed)["same_test"]


def test_one_size_or_a_run_on_validation_text_has_no_curve() -> None:
    one, other = size(1000, {"repetition": 0.3}), size(9000, {"repetition": 0.3})
    other["split"] = "valid"
    without = copy.deepcopy(one)
    del without["comparisons"]["sbp"]
    assert by_size([other, one, without]) == [one]
    assert sizes_section([one, other], signed=signed, percent=signed) == {}
    assert sizes_figure([one, other]) is None
    assert "From which size on" not in _statistics["text_of"](one)


def test_variants_are_shown_over_plain_sbp_with_their_settings() -> None:
    run = size(1000, {"repetition": 0.3, "sbp_top_p_1": 0.25})
    run["split"] = "valid"
    run["arms"]["sbp_top_p_1"] |= {"of": "sbp", "settings": {"synthesize.top_p": 1.0}}
    shown = variants_section([size(1000, {"repetition": 1.0}), run], signed=signed)
    assert [each["recipe"] for each in shown] == ["run-1000"]
    rows = {row["arm"]: row for row in shown[0]["rows"]}
    assert rows["sbp_top_p_1"]["settings"] == "synthesize.top_p 1"
    assert rows["sbp_top_p_1"]["over_sbp"] == "-0.25"
    assert rows["sbp_top_p_1"]["ends"] == "[-0.35, -0.15]"
    assert rows["sbp"]["over_sbp"] == rows["oracle"]["over_sbp"] == ""
    assert rows["repetition"]["over_sbp"] == "-0.30"


def test_the_page_has_both_and_its_figures_are_valid() -> None:
    first = size(1000, {"repetition": 0.3, "random_pairs": -0.2, "self_distillation": 0.0})
    second = size(9000, {"repetition": 0.4, "random_pairs": 0.2, "repetition_same_cost": 0.0})
    third = size(2000, {"repetition": 0.3, "sbp_<b>": 0.2})
    third["split"] = "valid"
    data = ReportData(first, [], {}, {}, beside=[second, third])
    page = _page["Page"](render(data))
    assert not page.open
    text = " ".join(page.text.split())
    for shown in (
        "From which size on",
        "SBP is ahead of repetition at every size that was run.",
        "SBP is ahead of random pairs from 9,000 unique tokens on.",
        "SBP is ahead of same-cost repetition at no size",
        "Variants on validation text",
        "run-2000",
        "Gain over SBP",
        "sbp <b>",
    ):
        assert shown in text, shown
    for width in (WIDE, NARROW):
        figure = sizes_figure([first, second, third], width)
        assert figure is not None
        ElementTree.fromstring(figure)
        assert "over random pairs" in figure


def test_the_verb_puts_runs_beside_the_first(finished_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    result = json.loads((finished_run / "small" / "result.json").read_text())
    result["recipe"] = "another"
    result["unique"]["requested_tokens"] *= 10
    (other / "result.json").write_text(json.dumps(result))
    page = tmp_path / "page.html"
    alone = synboot.report(finished_run / "small", page)
    assert "From which size on" not in page.read_text()
    with pytest.raises(BadInput, match="overwrite"):
        synboot.report([finished_run / "small", other], page)
    made = synboot.report([finished_run / "small", other], page, overwrite=True)
    assert made.counts == alone.counts, "the first run has the page"
    assert "From which size on" in page.read_text()
    assert "another" in page.read_text()

    (other / "result.json").write_text('{"recipe": "another"}')
    for source, said in (
        ([finished_run / "small", finished_run / "small"], "each run once"),
        ([finished_run / "small", tmp_path], "a finished run with its result.json"),
        ([finished_run / "small", other], "other/result.json: expected corpus, unique"),
        ([f"{finished_run / 'small'}", "sbp=scores.parquet"], "directories of runs, or ARM="),
    ):
        with pytest.raises(BadInput, match=said):
            synboot.report(source, tmp_path / "never.html")
    assert not (tmp_path / "never.html").exists()
