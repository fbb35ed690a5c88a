"""Runs beside each other: what is claimed of size, and what the page shows of it."""

from __future__ import annotations

import copy
import itertools
import json
import runpy
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from sample_run import Page, sample_arm, sample_result

import synboot
from synboot.core.errors import BadInput
from synboot.experiment.figures import NARROW, WIDE
from synboot.experiment.figures_statistics import sizes_figure
from synboot.experiment.phrases import run_id
from synboot.experiment.report import render
from synboot.experiment.report_data import ReportData
from synboot.experiment.report_markdown import as_markdown
from synboot.experiment.sizes import (
    advantages,
    by_size,
    sizes_section,
    standing_lines,
    variants_section,
)

ROOT = Path(__file__).parents[2]

HERE = Path(__file__).parent
_statistics = runpy.run_path(str(HERE / "test_report_statistics.py"))


def signed(value: float) -> str:
    return f"{value:+.2f}"


def gain(value: float, margin: float) -> dict[str, Any]:
    return {"bits_per_byte": {"gain": value, "low": value - margin, "high": value + margin}}


def size(
    tokens: int, over: dict[str, float], margin: float = 0.1, seeds: int = 2
) -> dict[str, Any]:
    """A run in which SBP gains `over[arm]`, certain to `margin`."""
    result = sample_result(seeds)
    result["recipe"], result["split"] = f"run-{tokens}", "test"
    result["unique"]["tokens"] = tokens
    result["comparisons"]["sbp"] = gain(over["repetition"], margin)
    controls = {arm: value for arm, value in over.items() if arm != "repetition"}
    result["arms"] |= {arm: sample_arm(2.3, [], 1) for arm in controls}
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
        ((0.5, 0.2), "ahead of repetition in every run that was made."),
        ((0.05, 0.2, 0.3), "ahead of repetition from 2,000 unique tokens on."),
        (
            (0.3, 0.05, 0.3),
            "ahead of repetition in the largest run, of 3,000 unique tokens, alone.",
        ),
        (
            (0.3, 0.05),
            "in smaller runs, not in the largest: at 1,000 unique tokens ahead, +0.30 "
            "[+0.20, +0.40]; at 2,000 unique tokens not clearly ahead, +0.05 [-0.05, +0.15]. "
            "The gain itself, without its interval, falls with size.",
        ),
        (
            (-0.3, 0.0, 0.05),
            "in no run: at 1,000 unique tokens behind, -0.30 [-0.40, -0.20]; at 2,000 unique "
            "tokens not clearly ahead, +0.00 [-0.10, +0.10]; at 3,000 unique tokens not clearly "
            "ahead, +0.05 [-0.05, +0.15]. The gain itself, without its interval, rises with size.",
        ),
        ((0.05, -0.3, 0.05), "at 3,000 unique tokens not clearly ahead, +0.05 [-0.05, +0.15]."),
    ],
)
def test_ahead_from_a_size_on_means_in_every_larger_run(
    gains: tuple[float, ...], said: str
) -> None:
    assert said in standing(*gains)
    assert standing(*gains).endswith(said[-9:])


@given(st.lists(st.sampled_from([-0.3, 0.05, 0.3]), min_size=2, max_size=6))
def test_no_size_is_claimed_beyond_one_that_is_not_clear(gains: list[float]) -> None:
    sentence = standing(*gains)
    clear = list(itertools.takewhile(lambda value: value > 0.1, reversed(gains)))
    if len(clear) == len(gains):
        assert "in every run that was made" in sentence
    elif len(clear) > 1:
        assert f"from {1000 * (len(gains) - len(clear) + 1):,} unique tokens on" in sentence
    elif clear:
        assert f"of {1000 * len(gains):,} unique tokens, alone" in sentence
    else:
        assert "ahead of repetition in no run" in sentence or "not in the largest" in sentence


def said_of(runs: list[dict[str, Any]], place: int = 0) -> str:
    return str(sizes_section(runs, signed=signed, percent=signed)["standing"][place])


def test_a_budget_counts_as_ahead_only_if_all_of_its_runs_are() -> None:
    """Models of several sizes on the same text."""
    small, large = size(5000, {"repetition": -0.3}), size(5000, {"repetition": 0.3})
    large["model"]["parameters"] *= 10
    sentence = said_of([large, small])
    assert "in no run: at 5,000 unique tokens and 590,944 parameters behind" in sentence
    assert "and 5,909,440 parameters ahead, +0.30" in sentence
    figure = sizes_figure([large, small])
    assert figure is not None
    assert "5,000 tokens, 590,944 parameters: repetition -0.3000" in figure
    assert "5.9M" in figure
    other = size(5000, {"repetition": 0.3, "random_pairs": 0.2})
    other["model"] = large["model"]
    assert "5.9M" in str(sizes_figure([other, small])), "labelled where runs share a budget"
    more = said_of([large, small, size(9000, {"repetition": 0.3})])
    assert "in the largest run, of 9,000 unique tokens, alone" in more


def test_what_some_runs_lack_or_have_on_one_seed_is_said() -> None:
    runs = [size(1000, {"repetition": 0.3}), size(9000, {"repetition": 0.3, "random_pairs": 0.3})]
    assert said_of(runs, 1) == "SBP is ahead of random pairs in every run with it (1 of 2)."
    runs += [size(500, {"repetition": 0.3, "random_pairs": -0.3}), size(99000, {"repetition": 0.3})]
    alone = "in the largest run with it (2 of 4), of 9,000 unique tokens, alone."
    assert alone in said_of(runs, 1)
    runs.append(size(10_000, {"repetition": 0.3, "random_pairs": 0.3}))
    rest = "from 9,000 unique tokens on, in the runs with it (3 of 5)."
    assert rest in said_of(runs, 1)
    runs[-1] = size(10_000, {"repetition": 0.3, "random_pairs": -0.3}, seeds=1)
    told = said_of(runs, 1)
    assert "in smaller runs, not in the largest with it (3 of 5): at 500" in told
    assert told.endswith("at 10,000 unique tokens behind, -0.30 [-0.40, -0.20] (on one seed).")
    runs = [size(1000, {"repetition": 0.3}), size(9000, {"repetition": 0.3}, seeds=1)]
    assert said_of(runs) == "SBP is ahead of repetition in every run that was made (on one seed)."


def test_sizes_stand_in_their_order_and_controls_that_a_size_lacks_are_left_out_there() -> None:
    large = size(9000, {"repetition": 0.4, "random_pairs": -0.2})
    small = size(1000, {"repetition": 0.3})
    section = sizes_section([large, small], signed=signed, percent=signed)
    assert [row["unique_tokens"] for row in section["rows"]] == [1000, 9000]
    shown = [(row["over"], row["unique_tokens"], row["verdict"]) for row in section["rivals"]]
    assert shown == [
        ("repetition", 1000, "better"),
        ("repetition", 9000, "better"),
        ("random_pairs", 9000, "worse"),
    ]
    assert section["rivals"][1]["ends"] == "[+0.30, +0.50]"
    assert not section["warning"]
    assert len(standing_lines([large, small])) == 2
    large["corpus"]["bytes"]["test"] += 1
    assert "same test" in sizes_section([large, small], signed=signed, percent=signed)["warning"]
    assert "same test" in standing_lines([large, small])[-1]
    behind = [size(1000, {"repetition": -0.3}), size(9000, {"repetition": -0.2})]
    assert "rises with size" in said_of(behind)
    behind[0]["corpus"]["bytes"]["test"] += 1
    assert "with size" not in said_of(behind)
    assert "same test text" in str(sizes_figure(behind))


def test_the_same_models_beside_other_controls_are_one_size() -> None:
    whole = size(1000, {"repetition": 0.3, "random_pairs": 0.2, "self_distillation": 0.1})
    part = size(1000, {"repetition": 0.3, "real_context": 0.25}) | {"recipe": "part"}
    variant = {**sample_arm(2.3, [], 2), "of": "sbp"}
    part["arms"]["sbp_own"], part["comparisons"]["sbp_own"] = variant, gain(0.2, 0.1)
    part["statistics"]["variants_over"] = {"sbp_own": {"real_context": gain(0.2, 0.1)}}
    part["recovered"], whole["recovered"] = whole["recovered"], None
    large = size(9000, {"repetition": 0.4})
    joined, last = by_size([part, large, whole])
    assert last is large
    gains = {arm: of["gain"] for arm, of in advantages(joined).items()}
    assert gains == {
        **{"repetition": 0.3, "random_pairs": 0.2, "self_distillation": 0.1},
        "real_context": 0.25,
    }
    assert advantages(joined, "sbp_own")["repetition"]["gain"] == 0.2
    assert joined["recovered"] == part["recovered"]
    assert "real_context" not in whole["arms"], "what was given stays as it was"
    section = sizes_section([part, large, whole], signed=signed, percent=signed)
    recipes = {row["over"]: row["recipe"] for row in section["rivals"] if row["method"] == "sbp"}
    assert recipes["real_context"] == "part"
    assert recipes["random_pairs"] == "run-1000"
    again = copy.deepcopy(whole) | {"recipe": "the same once more"}
    assert by_size([whole, again]) == [whole]


@pytest.mark.parametrize("changed", ["sbp", "random_pairs", "no seeds", "test text"])
def test_other_models_of_a_size_stand_beside_it(changed: str) -> None:
    whole = size(1000, {"repetition": 0.3, "random_pairs": 0.2})
    part = size(1000, {"repetition": 0.3, "random_pairs": 0.1, "real_context": 0.2})
    for run in (whole, part):
        run["arms"]["random_pairs"]["seeds"] = {"0": {"test": {"bits_per_byte": 2.3}}}
    assert len(by_size([whole, part])) == 1
    if changed == "test text":
        part["corpus"]["bytes"]["test"] += 1
    elif changed == "no seeds":
        for run in (whole, part):
            run["arms"]["sbp"]["seeds"] = {}
    else:
        part["arms"][changed]["seeds"] = {"0": {"test": {"bits_per_byte": 9.0}}}
    assert len(by_size([whole, part])) == 2


def test_a_variant_of_several_runs_stands_beside_sbp() -> None:
    runs = [size(1000 * place, {"repetition": 0.3, "random_pairs": 0.3}) for place in (1, 2, 3)]
    for run, value in zip(runs[:2], (-0.3, 0.3), strict=True):
        run["arms"]["sbp_own"] = {**sample_arm(2.3, [], 2), "of": "sbp"}
        run["comparisons"]["sbp_own"] = gain(value, 0.1)
        own = {"random_pairs": gain(value, 0.1), "random_pairs_own": gain(0.0, 0.1)}
        run["statistics"]["variants_over"] = {"sbp_own": own}
    section = sizes_section(runs, signed=signed, percent=signed)
    assert section["standing"] == [
        "SBP is ahead of repetition in every run that was made.",
        "SBP is ahead of random pairs in every run that was made.",
        "SBP own is ahead of repetition in the largest run with it (2 of 3), of 2,000 unique "
        "tokens, alone.",
        "SBP own is ahead of random pairs in the largest run with it (2 of 3), of 2,000 unique "
        "tokens, alone.",
        "SBP own is ahead of random pairs own in no run with it (2 of 3): at 1,000 unique tokens "
        "not clearly ahead, +0.00 [-0.10, +0.10]; at 2,000 unique tokens not clearly ahead, +0.00 "
        "[-0.10, +0.10].",
    ]
    assert standing_lines(runs)[3].startswith("SBP own is ahead of random pairs in the largest")
    shown = [row for row in section["rivals"] if row["method"] == "sbp_own"]
    assert [(row["over"], row["unique_tokens"], row["verdict"]) for row in shown] == [
        ("repetition", 1000, "worse"),
        ("repetition", 2000, "better"),
        ("random_pairs", 1000, "worse"),
        ("random_pairs", 2000, "better"),
        ("random_pairs_own", 1000, "unclear"),
        ("random_pairs_own", 2000, "unclear"),
    ]
    runs[0]["arms"]["sbp_own"]["settings"] = {"pretrain.weight_decay": 3.0}
    assert len(standing_lines(runs)) == 5, "pretraining is each size's own"
    runs[0]["arms"]["sbp_own"]["settings"] = {"synthesize.writers": 3}
    assert len(standing_lines(runs)) == 2, "another variant of the same name"
    del runs[0]
    assert len(standing_lines(runs)) == 2, "a variant of one run has no size to go by"


def test_one_size_or_a_run_on_validation_text_has_no_curve() -> None:
    one, other = size(1000, {"repetition": 0.3}), size(9000, {"repetition": 0.3})
    other["split"] = "valid"
    without = copy.deepcopy(one)
    del without["comparisons"]["sbp"]
    compared = copy.deepcopy(one)  # models that were trained one by one
    del compared["unique"], compared["model"]
    assert by_size([other, one, without, compared]) == [one]
    assert sizes_section([compared], signed=signed, percent=signed) == {}
    assert sizes_section([one, other], signed=signed, percent=signed) == {}
    assert sizes_figure([one, other]) is None
    assert "From which size on" not in _statistics["text_of"](one)


def test_variants_are_shown_over_plain_sbp_with_their_settings() -> None:
    run = size(1000, {"repetition": 0.3, "sbp_top_p_1": 0.25})
    run["split"] = "valid"
    run["arms"]["sbp_top_p_1"] |= {"of": "sbp", "settings": {"synthesize.top_p": 1.0}}
    shown = variants_section([size(1000, {"repetition": 1.0}), run], signed=signed)
    assert [each["recipe"] for each in shown] == ["run-1000"]
    run["arms"]["sbp_top_p_1"]["test"]["bits_per_byte"] = 0.5  # the last arm
    (sorted_run,) = variants_section([run], signed=signed)
    assert sorted_run["rows"][0]["arm"] == "sbp_top_p_1"
    values = [float(row["bits_per_byte"]) for row in sorted_run["rows"]]
    assert values == sorted(values)
    rows = {row["arm"]: row for row in shown[0]["rows"]}
    assert rows["sbp_top_p_1"]["settings"] == "synthesize.top_p 1"
    assert rows["sbp_top_p_1"]["over_sbp"] == "-0.25"
    assert rows["sbp_top_p_1"]["ends"] == "[-0.35, -0.15]"
    assert rows["sbp"]["over_sbp"] == rows["oracle"]["over_sbp"] == ""
    assert rows["repetition"]["over_sbp"] == "-0.30"
    assert rows["sbp_top_p_1"]["verdict"] == "Worse than plain SBP, over documents."
    assert rows["sbp"]["verdict"] == ""
    over = run["statistics"]["sbp_over"]["sbp_top_p_1"]["bits_per_byte"]
    for gain, verdict in ((-0.3, "Better than plain SBP, over"), (0.05, "Not to be told from")):
        over |= {"gain": gain, "low": gain - 0.1, "high": gain + 0.1}
        rows = {row["arm"]: row for row in variants_section([run], signed=signed)[0]["rows"]}
        assert rows["sbp_top_p_1"]["verdict"].startswith(verdict)


def test_variants_of_a_control_stand_without_sbp() -> None:
    first, run = size(1000, {"repetition": 0.3}), size(1000, {"repetition": 0.3})
    run |= {"split": "valid", "recipe": "controls"}
    del run["arms"]["sbp"], run["comparisons"]["sbp"]
    run["arms"]["real_context_2"] = sample_arm(2.3, [], 1)
    (shown,) = variants_section([run], signed=signed)
    assert not shown["beside_sbp"]
    assert "real_context_2" in [row["arm"] for row in shown["rows"]]
    text = " ".join(Page(render(ReportData(first, [], {}, {}, beside=[run]))).text.split())
    assert "controls" in text
    assert "Gain over SBP" not in text


def test_the_page_has_both_and_its_figures_are_valid() -> None:
    first = size(1000, {"repetition": 0.3, "random_pairs": -0.2, "self_distillation": 0.0})
    second = size(9000, {"repetition": 0.4, "random_pairs": 0.2, "repetition_same_cost": 0.0})
    third = size(2000, {"repetition": 0.3, "sbp_<b>": 0.2})
    third["split"] = "valid"
    data = ReportData(first, [], {}, {}, beside=[second, third])
    page = Page(render(data))
    assert not page.open
    text = " ".join(page.text.split())
    for shown in (
        "From which size on",
        "SBP is ahead of repetition in every run that was made.",
        "SBP is ahead of random pairs in the largest run, of 9,000 unique tokens, alone.",
        "SBP is ahead of same-cost repetition in no run",
        "Variants on validation text",
        "run-2000",
        "Gain over SBP",
        "SBP <b>",
    ):
        assert shown in text, shown
    for width in (WIDE, NARROW):
        figure = sizes_figure([first, second, third], width)
        assert figure is not None
        ElementTree.fromstring(figure)
        assert "over random pairs" in figure
        parameters = f"{first['model']['parameters']:,} parameters"
        assert f"1,000 tokens, {parameters}: repetition +0.3000 [+0.2000, +0.4000]" in figure


def test_runs_beside_the_first_have_their_own_tables() -> None:
    """Those on test text; drawings and samples, which they have on their own pages, are not."""
    first = size(1000, {"repetition": 0.3})
    second = size(9000, {"repetition": 0.4, "random_pairs": 0.2})
    second["arms"]["sbp"]["test"]["bits_per_byte"] = 1.9876
    second["recipe"], second["caveats"] = "<larger>", ["Only so much."]
    second["stages"] = {"corpus": "a"}
    third = size(2000, {"repetition": 0.3, "sbp_top_p_1": 0.2})
    third["split"] = "valid"
    page = render(ReportData(first, [], {}, {}, beside=[second, third]))
    read = Page(page)
    assert not read.open
    ids = [value for _, name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = {value for tag, name, value in read.attributes if (tag, name) == ("a", "href")}
    assert "#run-1-run" in links
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    own = page[page.index('id="run-1-run"') : page.index('id="reading"')]
    text = " ".join(Page(f"<main><section {own}<section></section></main>").text.split())
    for shown in (
        "<larger>: SBP recovers 23%",
        "Only so much.",
        str(run_id(second)),
        "<larger>: The arms",
        "1.9876",
        "<larger>: What it cost",
    ):
        assert shown in text, shown
    assert "<svg" not in own
    assert "<figure" not in own
    assert "run-2-" not in page
    assert "1.9876" in as_markdown(page)
    assert "run-1-" not in render(ReportData(first, [], {}, {}))


def test_the_verb_puts_runs_beside_the_first(finished_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    result = json.loads((finished_run / "small" / "result.json").read_text())
    result["recipe"] = "another"
    result["unique"]["tokens"] *= 10
    (other / "result.json").write_text(json.dumps(result))
    page = tmp_path / "page.html"
    alone = synboot.report(finished_run / "small", page)
    assert "From which size on" not in page.read_text()
    assert not page.with_suffix(".svg").exists()
    with pytest.raises(BadInput, match="overwrite"):
        synboot.report([finished_run / "small", other], page)
    made = synboot.report([finished_run / "small", other], page, overwrite=True)
    assert made.counts == {
        **alone.counts,
        "beside": [result],
        "standing": made.text.removeprefix(alone.text + "\n").splitlines(),
    }
    assert "unique tokens, alone" not in alone.text
    assert made.text.startswith(alone.text + "\nSBP is ")
    assert "From which size on" in page.read_text()
    assert "another" in page.read_text()
    curve = page.with_suffix(".svg")
    ElementTree.fromstring(curve.read_text())
    for text, hint in ((curve.read_text() + " ", "say --overwrite"), ("<svg/>", r"output$")):
        curve.write_text(text)
        with pytest.raises(BadInput, match=rf"page\.svg: is there already; .*{hint}"):
            synboot.report(
                [finished_run / "small", other], page, overwrite=hint != "say --overwrite"
            )
        assert curve.read_text() == text

    curve.unlink()
    curve.mkdir()
    with pytest.raises(BadInput, match=r"page\.svg: is there already and no file"):
        synboot.report([finished_run / "small", other], page, overwrite=True)

    trials = copy.deepcopy(result) | {"split": "valid", "recipe": "trials of a control"}
    del trials["arms"]["sbp"], trials["comparisons"]["sbp"]
    (other / "result.json").write_text(json.dumps(trials))
    synboot.report([finished_run / "small", other], tmp_path / "trials.html")
    assert "trials of a control" in (tmp_path / "trials.html").read_text()
    for break_it, said in (
        ("[]", "field corpus.documents.test: expected a number, got None"),
        (json.dumps(result | {"unique": {}}), "field unique.tokens: expected a number"),
        (json.dumps(result | {"arms": {}}), "field arms.repetition.test.bits_per_byte"),
        (json.dumps(trials | {"split": "test"}), "field arms.sbp.test.bits_per_byte"),
        (json.dumps(result | {"comparisons": {}}), "compares sbp with repetition"),
    ):
        (other / "result.json").write_text(break_it)
        with pytest.raises(BadInput, match=said):
            synboot.report([finished_run / "small", other], tmp_path / "never.html")
    for source, said in (
        ([finished_run / "small", finished_run / "small"], "each run and each search once"),
        ([finished_run / "small", tmp_path], "a finished run with its result.json"),
        (
            [f"{finished_run / 'small'}", "sbp=scores.parquet"],
            "directories of runs and search.json of searches, or ARM=",
        ),
    ):
        with pytest.raises(BadInput, match=said):
            synboot.report(source, tmp_path / "never.html")
    assert not (tmp_path / "never.html").exists()


def test_the_verb_shows_searches_and_writes_markdown(finished_run: Path, tmp_path: Path) -> None:
    run, page = finished_run / "small", tmp_path / "page.md"
    search = ROOT / "docs" / "experiment" / "cpu-small-all.search.json"
    alone = synboot.report(run, page)
    without = page.read_text()
    assert alone.counts["recipe"] == "small"
    with pytest.raises(BadInput, match=r"page\.md: is there already; .*--overwrite"):
        synboot.report([run, search], page)
    assert page.read_text() == without
    synboot.report([run, search], page, overwrite=True)
    assert "## How settings were chosen" in page.read_text()
    assert "## How settings were chosen" not in without
    assert page.read_text().startswith("<!-- synboot report -->\n")
    (tmp_path / "mine.md").write_text("# Mine\n")
    for source, output, said in (
        ([run, search, search], page, "each search once"),
        ([search], page, r"search\.json: expected the directory of a run beside it"),
        ([run, tmp_path / "mine.md"], page, r"mine\.md: expected the search\.json of a search"),
        ([run], tmp_path / "mine.md", "is no report of synboot"),
        ([run], tmp_path / "page.txt", r"ends in \.html or \.md"),
    ):
        with pytest.raises(BadInput, match=said):
            synboot.report(source, output, overwrite=True)
    assert (tmp_path / "mine.md").read_text() == "# Mine\n"
