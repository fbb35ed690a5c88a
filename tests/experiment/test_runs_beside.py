"""Runs beside each other on the page and in the verb: tables, curve, variants and searches."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).parent))

from sample_run import Page, sample_arm, signed, size

import synboot
from synboot.core.errors import BadInput
from synboot.experiment.figures import NARROW, WIDE
from synboot.experiment.figures_statistics import sizes_figure
from synboot.experiment.phrases import run_id
from synboot.experiment.report import render
from synboot.experiment.report_data import ReportData
from synboot.experiment.report_markdown import as_markdown
from synboot.experiment.sizes import variants_section

ROOT = Path(__file__).parents[2]


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
