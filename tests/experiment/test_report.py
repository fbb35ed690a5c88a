"""The page of a run, on data of the shape that a run leaves behind."""

from __future__ import annotations

import copy
import math
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from sample_run import HOSTILE, Page, light_data, report_data, sample_quality, sample_result

from synboot.experiment import figures, report
from synboot.experiment.report import headline, render, write_report
from synboot.experiment.report_data import ReportData

ARXIV = "https://arxiv.org/abs/2509.15248"


@pytest.fixture(scope="module")
def page() -> str:
    return render(report_data())


def test_page_loads_nothing_and_runs_nothing(page: str) -> None:
    parsed = Page(page)
    assert not parsed.open
    assert not {"script", "link", "img", "iframe", "object", "embed", "form"} & set(parsed.tags)
    for tag, name, value in parsed.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert value.startswith("#") or (tag == "a" and value == ARXIV), (tag, name, value)
        assert name == "content" or "url(" not in value.replace("url(#", "")
    assert re.findall(r"https?://[^\"'<\s]+", page) == [ARXIV]
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    parsed = Page(page)
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    links = [
        value[1:] for _, name, value in parsed.attributes if name == "href" and value[0] == "#"
    ]
    clips = re.findall(r"url\(#([^)]+)\)", page)
    assert links
    assert set(links + clips) <= set(ids)


def test_equal_data_give_equal_bytes_and_no_trace_of_time_or_place(
    page: str, tmp_path: Path
) -> None:
    write_report(report_data(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == page.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert not re.search(r"\b20\d\d-\d\d-\d\d|\b\d\d:\d\d:\d\d", page)
    assert str(tmp_path) not in page
    assert str(Path(__file__).parents[2]) not in page
    assert "matplotlib" not in page.lower()


def test_page_shows_the_figures_of_the_result(page: str) -> None:
    text = " ".join(Page(page).text.split())
    for shown in (
        "SBP recovers 23% [5%, 40%] of the oracle's gain.",
        "149 test documents",
        "one training seed",
        "2.7 times the FLOPs of repetition",
        "2.2851",
        "+0.0272 [+0.0083, +0.0461]",
        "600,000 (12.03)",
        "8.22 \N{MULTIPLICATION SIGN} 10¹²",
        "dropped: copy of seed",
        "8 shown of 12 sampled",
        "3 shown of 5 sampled",
        "ended by end token",
        "12 duplicates, 5 near to validation or test text, 2 bad records",
        "8.90 times the unique tokens",
        "One small corpus and one small model.",
    ):
        assert shown in text, shown


def test_hostile_text_stays_text(page: str) -> None:
    hostile = " ".join(HOSTILE)
    data = report_data()
    names = ("d1", "d2", "text1", "text2", "id", "seed_id", "seed_text", "text", "reason")
    for samples in (
        data.pairs["kept_samples"],
        data.pairs["dropped_samples"],
        data.synthetic["samples"],
        data.synthetic["dropped_samples"],
    ):
        for sample in samples:
            sample.update({name: hostile for name in names if name in sample})
        samples[0]["finish_reason"] = hostile
    data.pairs["counts"] = {f"dropped_{hostile}": 3}
    data.result["caveats"] = [hostile]
    data.result["ledger"][0]["label"] = data.result["ledger"][0]["stage"] = hostile
    data.result["recipe"] = data.result["model"]["preset"] = hostile
    written = render(data)
    written.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", written)
    parsed, clean = Page(written), Page(page)
    assert not parsed.open
    assert set(parsed.tags) == set(clean.tags)
    assert {name for _, name, _ in parsed.attributes} == {name for _, name, _ in clean.attributes}
    for text in HOSTILE[:-1]:
        assert text in parsed.text


def test_a_large_document_is_cut_at_the_stated_limit(page: str) -> None:
    data = light_data()
    data.synthetic["samples"][0]["text"] = "kari mosul " * 100_000
    longer = render(data)
    assert len(longer) < len(page)
    assert "The first 900 of 1,100,000 characters." in Page(longer).text
    assert "of 1,100,000" not in Page(page).text


def test_missing_oracle() -> None:
    data = light_data()
    data.result["oracle"] = data.result["recovered"] = None
    del data.result["arms"]["oracle"], data.result["comparisons"]["oracle"]
    assert headline(data.result) == (
        "SBP beat repetition here: its gain is +0.0272 [+0.0083, +0.0461] bits per byte."
    )
    page = render(data)
    assert "Without an oracle there is no share of its gain to state." in Page(page).text
    assert "share of the oracle's gain" not in figures.comparison_figure(data.result)
    assert "times the unique tokens" not in page
    assert not Page(page).open


def test_refused_share_shows_the_reason() -> None:
    data = light_data()
    reason = "the oracle's gain, 0.0010 [-0.0100, 0.0120], is not clear of zero"
    refused = {"value": None, "low": None, "high": None, "refused": reason}
    data.result["recovered"] = {"bits_per_byte": refused, "nats_per_token": refused}
    assert headline(data.result).startswith("SBP beat repetition here")
    assert "recovers" not in headline(data.result)
    assert reason in " ".join(Page(render(data)).text.split())
    assert "share of the oracle's gain" not in figures.comparison_figure(data.result)


@pytest.mark.parametrize(
    ("gain", "share", "expected"),
    [
        ((0.03, 0.01, 0.05), (0.4, 0.1, 0.7), "SBP recovers 40% [10%, 70%]"),
        (
            (0.01, -0.01, 0.03),
            (0.1, -0.1, 0.3),
            "SBP did not clearly beat repetition here: it recovers 10% [-10%, 30%]",
        ),
        (
            (-0.03, -0.05, -0.01),
            (-0.4, -0.7, -0.1),
            "SBP did worse than repetition here: it recovers -40% [-70%, -10%]",
        ),
    ],
)
def test_headline_claims_what_the_interval_allows(
    gain: tuple[float, ...], share: tuple[float, ...], expected: str
) -> None:
    result = sample_result()
    result["comparisons"]["sbp"]["bits_per_byte"] = dict(
        zip(("gain", "low", "high"), gain, strict=True)
    )
    result["recovered"]["bits_per_byte"] = {
        **dict(zip(("value", "low", "high"), share, strict=True)),
        "refused": None,
    }
    expected = expected.replace("-", "\N{MINUS SIGN}")
    assert headline(result) == f"{expected} of the oracle's gain."
    result["recovered"] = None
    assert ("its gain is " + report._signed(gain[0])) in headline(result)


def test_quality_stands_beside_the_papers_figures() -> None:
    page = " ".join(Page(render(light_data())).text.split())
    for expected in ("4.3 [3.6, 5.1]", "duplicate@3120", "15.3 [12.4, 18.8]", "25.6", "reader",
                     "0.710 [0.690, 0.730]", "10 unparsed non factual, in no rate"):  # fmt: skip
        assert expected in page, expected
    assert 'id="quality"' not in render(
        ReportData(light_data().result | {"quality": None}, [], {}, {})
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_the_name_of_a_judge_is_text(name: str) -> None:
    quality = sample_quality()
    quality["judge"]["model"] = name
    found = render(ReportData(light_data().result | {"quality": quality}, [], {}, {}))
    assert found.count("<script") == render(light_data()).count("<script")
    assert "<img" not in found
    assert "onmouseover='" not in found


def test_bare_result_still_makes_a_page() -> None:
    result = sample_result()
    bare = {
        key: result[key] for key in ("recipe", "seed", "corpus", "unique", "model", "checkpoint")
    }
    empty = {"trained_tokens": None, "flops": None, "mixture": None, "seeds": None, "test": None}
    bare |= {"arms": {"repetition": empty}, "ledger": None, "corpus": {"documents": {}}}
    page = render(ReportData(bare, [], {}, {}))
    assert "there is no comparison" in page
    assert "Nothing to draw" in page
    assert not Page(page).open


def test_values_that_are_no_numbers_show_as_a_dash() -> None:
    data = light_data()
    data.result["arms"]["sbp"]["test"] = {
        "bits_per_byte": math.nan,
        "nats_per_token": None,
        "perplexity": math.inf,
    }
    page = render(data)
    assert not re.search(r">\s*(nan|inf|None|Undefined)\b", page)


def test_single_seeds_are_listed_and_drawn() -> None:
    three = render(light_data(seeds=3))
    text = " ".join(Page(three).text.split())
    assert "3 training seeds, averaged" in text
    assert "a tick is one training seed" in text
    assert "2.2811" in text
    assert "2.2891" in text


def test_a_shared_entry_counts_in_full_for_each_arm_and_data_stay_as_they_are() -> None:
    data = light_data()
    before = copy.deepcopy(data)
    totals = report._ledger_totals(data.result)
    assert totals == {"repetition": 3.1e12, "sbp": 2 * 3.1e12 + 8.2e11 + 1.2e12, "oracle": 3.1e12}
    render(data)
    assert data == before
