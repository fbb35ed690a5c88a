"""What page and terminal say of intervals, data efficiency and cost."""

from __future__ import annotations

import copy
import itertools
import runpy
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).parent))

from sample_run import Page, sample_arm, sample_result

from synboot.experiment import figures, figures_statistics
from synboot.experiment.findings import doubts, findings
from synboot.experiment.phrases import rivals
from synboot.experiment.report import headline, render
from synboot.experiment.report_data import ReportData
from synboot.experiment.summary import comparison_table

HERE = Path(__file__).parent
_scores = runpy.run_path(str(HERE / "test_findings.py"))
COST = {
    "arm": "repetition_same_cost",
    "flops_paid": {"embed": 21, "neighbours": 0, "tune": 8.2e11, "synthesize": 1.2e12},
    "extra_tokens": 650_000,
    "tokens": 1_650_000,
    "not_counted": ["the base model"],
}


def result_of(seeds: int, *names: str) -> dict[str, Any]:
    """The sample of the report's tests with the scores of the findings' tests."""
    result = sample_result(seeds)
    table = _scores["arms"](*names, seeds=seeds)
    found = findings(table, seed=0, num_resamples=200, multiples=_scores["MULTIPLES"])
    for arm in table:
        result["arms"][arm] = sample_arm(2.3, [], seeds)
        result["arms"][arm]["test"]["bits_per_byte"] = table[arm][0].bits_per_byte()
    result |= found | {"split": "test", "caveats": doubts(found)}
    return result | {"cost_inclusive": COST if "repetition_same_cost" in table else None}


def text_of(result: dict[str, Any]) -> str:
    page = Page(render(ReportData(result, [], {}, {})))
    assert not page.open
    return " ".join(page.text.split())


@pytest.fixture(scope="module")
def three() -> dict[str, Any]:
    return result_of(3)


def test_the_page_shows_every_interval_and_what_it_covers(three: dict[str, Any]) -> None:
    text = text_of(three)
    for shown in (
        "How surely",
        "Over seeds: other training seeds",
        "and of the training seed (3 training seeds, averaged)",
        "SBP is ahead of self-distillation and same-cost repetition",
        "Share of the oracle's gain",
        "How much more unique text repetition would need",
        "trained on 650,000 tokens more, 1,650,000 in all",
        "Not counted: the base model.",
        "the same number but for same-cost repetition",
        "Intervals over seeds cover",
    ):
        assert shown in text, shown
    gain = three["comparisons"]["sbp"]["bits_per_byte"]
    for bounds in (gain, gain["seeds"], gain["both"]):
        assert (
            f"[{bounds['low']:+.4f}, {bounds['high']:+.4f}]".replace("-", "\N{MINUS SIGN}") in text
        )
    for value in gain["by_seed"]:
        assert f"{value:+.4f}" in text
    sbp = three["data_efficiency"]["arms"]["sbp"]
    assert f"{sbp['value']:.2f}x [{sbp['documents']['low']:.2f}" in text.replace("SBP ", "")


def test_one_seed_says_why_there_is_no_interval_over_seeds() -> None:
    text = text_of(result_of(1, "repetition", "sbp", "oracle"))
    assert "Where no interval stands: one training seed says nothing of others." in text
    assert "they do not cover the choice of training seed (one training seed)" in text
    assert "same cost" not in text


def test_the_headline_claims_what_the_interval_over_both_allows(three: dict[str, Any]) -> None:
    share = three["recovered"]["bits_per_byte"]
    ends = f"[{share['both']['low']:.0%}, {share['both']['high']:.0%}]"
    assert headline(three) == f"SBP recovers {share['value']:.0%} {ends} of the oracle's gain."
    gain = three["comparisons"]["sbp"]["bits_per_byte"]
    unclear = gain | {"both": {"low": -0.01, "high": 0.09}}
    comparisons = three["comparisons"] | {"sbp": {"bits_per_byte": unclear}}
    assert headline(three | {"comparisons": comparisons}).startswith("SBP did not clearly beat")


def test_figures_have_a_row_for_any_number_of_arms(three: dict[str, Any]) -> None:
    few = result_of(1, "repetition", "sbp")
    for result, rows in ((three, 7), (few, 1)):
        for width in (720, 360):
            svg = figures_statistics.gains_figure(result, width)
            assert svg is not None
            texts = [e.text or "" for e in ElementTree.fromstring(svg).iter()]
            assert sum(text.startswith(("+", "\N{MINUS SIGN}0.0")) for text in texts) >= rows
    assert figures_statistics.efficiency_figure(few) is None
    assert figures_statistics.gains_figure({}) is None
    curve = figures_statistics.efficiency_figure(three)
    assert curve is not None
    texts = [e.text for e in ElementTree.fromstring(curve).iter()]
    assert {"1", "2", "8", "SBP", "self-distillation"} <= set(texts)


VARIANTS = [f"sbp_variant_{i}" for i in range(9)]


def with_variants(result: dict[str, Any]) -> dict[str, Any]:
    """The same with variants of SBP that are all as good as it is."""
    result = copy.deepcopy(result)
    statistics, efficiency = result["statistics"], result["data_efficiency"]
    for name in VARIANTS:
        own = {"of": "sbp", "settings": {"synthesize.top_p": 1.0, "tune.initial": "scratch"}}
        result["arms"][name] = result["arms"]["sbp"] | own
        result["comparisons"][name] = result["comparisons"]["sbp"]
        statistics["sbp_over"][name] = statistics["sbp_over"]["random_pairs"]
        efficiency["arms"][name] = efficiency["arms"]["sbp"]
    models = {"models": 3, "arms": {"sbp": {"test": {"bits_per_byte": 0.5}}}}
    return result | {"ensembles": models}


def test_many_variants_have_labels_that_can_be_told_apart(three: dict[str, Any]) -> None:
    result = with_variants(three)
    curves = [
        {"arm": arm, "seed": 0, "points": [{"tokens": t, "validation_loss": 3 - t} for t in (1, 2)]}
        for arm in result["arms"]
    ]
    for width in (720, 360):
        for svg in (
            figures_statistics.efficiency_figure(result, width),
            figures.curves_figure(curves, width),
        ):
            assert svg is not None
            root = ElementTree.fromstring(svg)
            height = float(root.attrib["height"])
            texts = [e for e in root.iter() if (e.text or "").startswith("SBP variant")]
            assert len(texts) == len(VARIANTS)
            places = sorted(float(e.attrib["y"]) for e in texts)
            assert places[0] > 0
            assert places[-1] < height
            assert min(b - a for a, b in itertools.pairwise(places)) > 11
    svg = figures_statistics.gains_figure(result)
    assert svg is not None
    assert "variant" in svg
    assert svg.count("SBP over") == figures_statistics.gains_figure(three).count("SBP over")


def test_variants_and_ensembles_are_said(three: dict[str, Any]) -> None:
    result = with_variants(three)
    text, table = text_of(result), comparison_table(result)
    assert "synthesize.top_p 1, tune.initial scratch" in text
    assert "Ensembles of seeds" in text
    for shown in (text, table):
        assert "The mean probability of each arm's 3 seeds beside one of them" in shown
        assert rivals(three) in shown  # no variant among the controls
    one = three["arms"]["sbp"]["test"]["bits_per_byte"]
    assert f"{'sbp':{max(20, *map(len, result['ensembles']['arms']))}}    0.5000" in table
    assert f"{one:7.4f} {one - 0.5:+.4f}" in table
    assert "Ensembles" not in text_of(three)
    assert "Settings of single arms" not in text_of(three)


def test_an_arm_beyond_the_runs_is_drawn_and_said_to_be(three: dict[str, Any]) -> None:
    found = three["data_efficiency"]
    beyond = {"value": None, "beyond": "above"}
    beyond |= {kind: {"low": 8.0, "high": None} for kind in ("documents", "seeds", "both")}
    result = three | {"data_efficiency": found | {"arms": {"sbp": beyond}}}
    assert figures_statistics.efficiency_figure(result) is not None
    assert "more than 8x [above 8]" in text_of(result)
    assert "SBP: worth more than 8x the unique text [above 8] over documents, " in comparison_table(
        result
    )


def test_where_the_runs_do_not_tell_what_an_arm_is_worth_it_says_so(three: dict[str, Any]) -> None:
    found = three["data_efficiency"]
    refused = {"refused": "more text did no better"}
    untold = {
        "value": None,
        "beyond": None,
        **dict.fromkeys(("documents", "seeds", "both"), refused),
    }
    result = three | {"data_efficiency": found | {"arms": {"sbp": untold}}}
    assert figures_statistics.efficiency_figure(result) is not None
    assert "not stated" in text_of(result)
    assert "more text did no better" in text_of(result)
    line = "SBP: what unique text it is worth is not stated: more text did no better, "
    assert line in comparison_table(result)


def test_the_terminal_shows_them_too(three: dict[str, Any]) -> None:
    table = comparison_table(three)
    gain = three["comparisons"]["sbp"]["bits_per_byte"]
    (line,) = [line for line in table.splitlines() if line.startswith("sbp ")]
    for bounds in (gain, gain["seeds"], gain["both"]):
        assert f"[{bounds['low']:+.4f}, {bounds['high']:+.4f}]" in line
    assert "3 training seeds" in table
    assert "[over both]" in table
    assert "650,000 tokens more" in table
    assert "SBP is ahead of self-distillation" in table
    one = comparison_table(result_of(1, "repetition", "sbp", "oracle"))
    assert "[over both]" not in one
    assert "gain in bits/byte [95%]" in one


def test_the_table_of_arms_says_what_its_brackets_are_over(three: dict[str, Any]) -> None:
    def row(result: dict[str, Any]) -> tuple[str, str]:
        section = text_of(result).split("The arms Each arm")[1].split("Each training seed")[0]
        return section, section.split(" SBP ")[1].split("self-distillation")[0]

    gain = three["comparisons"]["sbp"]["bits_per_byte"]
    section, shown = row(three)
    assert "Gain, bits per byte [95% over documents and seeds]" in section
    assert f"[{gain['both']['low']:+.4f}, {gain['both']['high']:+.4f}]" in shown
    single = result_of(1)
    gain = single["comparisons"]["sbp"]["bits_per_byte"]
    section, shown = row(single)
    assert "Gain, bits per byte [95% over documents]" in section
    assert f"[{gain['low']:+.4f}, {gain['high']:+.4f}]" in shown


def test_no_line_says_that_all_arms_train_alike_where_one_does_not(three: dict[str, Any]) -> None:
    ledger = [{"stage": "pretrain", "arms": [arm], "flops": 9} for arm in ("repetition", "sbp")]
    sample = three | {"training_tokens": 900_000, "ledger": ledger}
    alone = sample | {"cost_inclusive": None}
    but = "(but for same-cost repetition)"
    for text in (text_of(sample), comparison_table(sample)):
        assert but in text
    assert "for every arm (but for same-cost repetition)," in comparison_table(sample)
    assert f"matched in trained tokens {but}, not in compute" in text_of(sample)
    assert but not in text_of(alone) + comparison_table(alone)


def test_the_terminal_labels_intervals_also_where_some_are_refused() -> None:
    table = _scores["arms"]("repetition", "sbp", "oracle", "repetition_2x")
    found = findings(
        table | {"sbp": table["sbp"][:2]},
        seed=0,
        num_resamples=200,
        multiples=_scores["MULTIPLES"],
    )
    result = result_of(3, "repetition", "sbp", "oracle", "repetition_2x") | found
    lines = comparison_table(result).splitlines()
    columns = [lines[1].index(head) for head in ("[95% over doc", "[over seeds]", "[over both]")]
    rows = {line.split()[0]: line for line in lines[2:]}
    sbp, oracle = rows["sbp"], rows["oracle"]
    assert sbp.split("]")[-1].split() == ["-", "-"]
    assert oracle.count("[") == 3
    assert oracle.index("[", columns[0] + 20) == columns[1]
    (share,) = (line for line in lines if line.startswith("recovered"))
    assert share.endswith("over documents")
    (worth,) = (line for line in lines if line.startswith("SBP: worth"))
    assert "] over documents, by repetition" in worth
    full = comparison_table(result_of(3))
    assert "] over documents, [" in full
    assert "] over seeds, [" in full
