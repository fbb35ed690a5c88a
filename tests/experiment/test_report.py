"""The report and its figures, on data of the shape that a run leaves behind."""

from __future__ import annotations

import copy
import itertools
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synboot.eval.quality.figures import rate_of
from synboot.eval.quality.summary import quality_of
from synboot.experiment import figures, report
from synboot.experiment.report import ReportData, headline, render, write_report

ARXIV = "https://arxiv.org/abs/2509.15248"
HOSTILE = [
    "<script>alert(1)</script>",
    "</p></main><img src=x onerror=alert(1)>",
    "{{ 7*7 }}{% raw %}",
    "<!-- ]]> <style>*{display:none}</style>",
    "\"' onmouseover='alert(1)",
    "\u202eright to left override \u05e9\u05dc\u05d5\u05dd",
    "W" * 5000,
    "\x00\x1b[31m \ud800 \uffff",
]


def words(seed: int, count: int) -> str:
    """Prose of made-up words, the same for the same seed."""
    generator = np.random.Generator(np.random.Philox(seed))
    syllables = ["ka", "ri", "mo", "ten", "sul", "ba", "vi", "no", "lar", "pe", "du", "ash"]
    text = ["".join(generator.choice(syllables, generator.integers(1, 4))) for _ in range(count)]
    return " ".join(text).capitalize() + "."


def arm(bits: float, mixture: list[dict[str, Any]], seeds: int) -> dict[str, Any]:
    def test(shift: float) -> dict[str, float]:
        nats = (bits + shift) * 2.1
        return {"nats_per_token": nats, "perplexity": math.exp(nats), "bits_per_byte": bits + shift}

    shifts = [0.004 * (i - (seeds - 1) / 2) for i in range(seeds)]
    return {
        "trained_tokens": 1_000_000,
        "flops": 3.1e12,
        "mixture": mixture,
        "seeds": {
            str(i): {"test": test(s), "best_step": 120 + i, "final_validation_loss": 4.4 + s}
            for i, s in enumerate(shifts)
        },
        "test": test(0.0),
    }


def sample_result(seeds: int = 1) -> dict[str, Any]:
    """A `result.json` in which SBP recovers 23% of the oracle's gain."""

    def gain(estimate: float, margin: float) -> dict[str, Any]:
        return {
            metric: {
                "gain": k * estimate,
                "low": k * (estimate - margin),
                "high": k * (estimate + margin),
            }
            for metric, k in (("bits_per_byte", 1.0), ("nats_per_token", 2.1))
        }

    share = {"value": 0.2327, "low": 0.0512, "high": 0.4019, "refused": None}
    ledger = [
        ("pretrain", "pretrain repetition, seed 0", ["repetition", "sbp"], 1_000_000, 3.1e12),
        ("pretrain", "pretrain sbp, seed 0", ["sbp"], 1_000_000, 3.1e12),
        ("pretrain", "pretrain oracle, seed 0", ["oracle"], 1_000_000, 3.1e12),
        ("tune", "tune the synthesizer", ["sbp"], 260_000, 8.2e11),
        ("synthesize", "sample", ["sbp"], 510_000, 1.2e12),
    ]
    return {
        "schema": 1,
        "recipe": "demo",
        "seed": 0,
        "corpus": {
            "documents": {"train": 2611, "valid": 140, "test": 149},
            "bytes": {"train": 1_600_123, "valid": 91_200, "test": 98_311},
            "exact_duplicates": {"train": 10, "valid": 1, "test": 1},
            "near_heldout": 5,
            "bad": {"no text": 2},
        },
        "unique": {
            "requested_tokens": 50_000,
            "tokens": 49_871,
            "documents": 283,
            "bytes": 171_234,
        },
        "oracle": {
            "requested_multiple": "max",
            "multiple": 8.9,
            "tokens": 443_852,
            "documents": 2611,
        },
        "model": {
            "preset": "0.6m",
            "parameters": 590_944,
            "non_embedding_parameters": 394_336,
            "vocab_size": 2048,
            "context": 256,
        },
        "training_tokens": 1_000_000,
        "checkpoint": "last",
        "pairs": {"kept": 812, "dropped_low_similarity": 4000},
        "synthesizer": {
            "initial_weights": "base, checkpoint best at step 120",
            "validation_loss_start": 4.61,
            "validation_loss_best": 4.21,
            "validation_loss_last": 4.32,
            "validated_on": "validation_text",
            "best_step": 90,
            "steps": 120,
        },
        "synthetic": {
            "requested_tokens": 400_000,
            "tokens": 400_000,
            "documents": 3120,
            "candidates": 3900,
            "draws_per_seed": 14,
            "share_requested": 0.4,
            "share": 0.4,
        },
        "arms": {
            "repetition": arm(
                2.3123, [{"source": "real", "tokens": 1_000_000, "passes": 20.05}], seeds
            ),
            "sbp": arm(
                2.2851,
                [
                    {"source": "real", "tokens": 600_000, "passes": 12.03},
                    {"source": "synthetic", "tokens": 400_000, "passes": 1.0},
                ],
                seeds,
            ),
            "oracle": arm(2.1954, [{"source": "real", "tokens": 1_000_000, "passes": 2.25}], seeds),
        },
        "comparisons": {"sbp": gain(0.0272, 0.0189), "oracle": gain(0.1169, 0.0151)},
        "recovered": {"bits_per_byte": share, "nats_per_token": share},
        "ledger": [
            {"stage": stage, "label": label, "arms": arms, "tokens": tokens, "flops": flops}
            for stage, label, arms, tokens, flops in ledger
        ],
        "caveats": ["One small corpus and one small model."],
        "quality": sample_quality(),
    }


def sample_quality() -> dict[str, Any]:
    """Of synthetic text of which a quarter is beside the point."""

    def side(rates: dict[str, int]) -> dict[str, Any]:
        found = {name: rate_of(count, 3120) for name, count in rates.items()}
        return {
            "repetition": found["repetition"],
            "pair_copying": found["copying"],
            "duplicates": dict.fromkeys(("seed", "corpus", "draws"), found["repetition"]),
            "novelty": {"seed": {"4": found["new"]}, "corpus": {"8": found["new"]}},
            "without_spaces": rate_of(0, 3120),
            "relevance": {"auc": {"auc": 0.71, "low": 0.69, "high": 0.73}},
            "judged": {
                "asked": 500,
                "non_factual": rate_of(75, 490),
                "irrelevant": rate_of(125, 490),
                "problems": {"unparsed_non_factual": 10},
            },
        }

    documents = {"synthetic": 3120, "real": 283, "real_pairs": 812, "synthetic_looked_at": 3120,
                 "with_seed": 3120, "real_looked_at": 283, "pairs_looked_at": 812}  # fmt: skip
    judge = {"judge": "endpoint", "model": "reader", "prompts": {"non_factual": "Is it?\n{text}"}}
    ours, real = ({"repetition": n, "copying": n // 9, "new": 2400} for n in (134, 20))
    return quality_of(documents, {}, side(ours), side(real), judge)


def sample_curves(seeds: int = 1) -> list[dict[str, Any]]:
    shapes = {"repetition": (3.2, 0.25), "sbp": (3.18, 0.02), "oracle": (2.9, 0.0)}
    return [
        {
            "arm": name,
            "seed": seed,
            "points": [
                {
                    "step": step,
                    "tokens": step * 4096,
                    "train_loss": 3.0,
                    "validation_loss": None
                    if step % 10
                    else 4.4 * math.exp(-step / 25) + floor + rise * step / 244 + 0.02 * seed,
                }
                for step in range(245)
            ],
        }
        for name, (floor, rise) in shapes.items()
        for seed in range(seeds)
    ]


def sample_pairs() -> dict[str, Any]:
    edges = [i / 20 for i in range(21)]
    every = [int(4000 * math.exp(-(((edge - 0.35) / 0.15) ** 2))) for edge in edges[:-1]]
    kept = [n if edge >= 0.45 else 0 for n, edge in zip(every, edges, strict=False)]
    numbers = itertools.count()

    def pair() -> dict[str, Any]:
        n = next(numbers)
        return {
            "d1": f"module.{n}",
            "d2": f"module.{n + 1}",
            "similarity": 0.45 + n / 100,
            "text1": words(n, 60 + 9 * n),
            "text2": words(n + 100, 90),
        }

    return {
        "counts": {"kept": sum(kept), "dropped_min_similarity": sum(every) - sum(kept)},
        "similarity_edges": edges,
        "similarity_all": every,
        "similarity_kept": kept,
        "degree": {str(i): int(60 * math.exp(-i / 5)) for i in range(16)},
        "kept_samples": [pair() for _ in range(12)],
        "dropped_samples": [
            pair() | {"reason": reason, "score": 0.3}
            for reason in ("min_similarity", "near_duplicate")
            for _ in range(5)
        ],
    }


def sample_synthetic() -> dict[str, Any]:
    return {
        "counts": {"kept": 3120, "dropped_too_short": 300, "dropped_copy_of_seed": 480},
        "samples": [
            {
                "id": f"synthetic-{n}",
                "seed_id": f"module.{n}",
                "draw": n,
                "seed_text": words(n, 80),
                "text": words(n + 200, 70),
                "num_tokens": 140 + n,
                "finish_reason": "end_token",
            }
            for n in range(10)
        ],
        "dropped_samples": [
            {
                "reason": "too_short",
                "score": 3.0,
                "seed_id": "module.1",
                "seed_text": words(1, 80),
                "text": "Ka.",
            }
        ],
    }


def report_data(seeds: int = 1) -> ReportData:
    return ReportData(
        sample_result(seeds), sample_curves(seeds), sample_pairs(), sample_synthetic()
    )


def light_data(seeds: int = 1) -> ReportData:
    """Sample data without the figures that are slow to draw."""
    data = report_data(seeds)
    return ReportData(
        data.result, [], data.pairs | {"similarity_edges": [], "degree": {}}, data.synthetic
    )


class Page(HTMLParser):
    """Tags, attributes and visible text of a page, and whether its elements nest."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


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


def test_drawing_does_not_depend_on_or_change_global_settings() -> None:
    expected = figures.comparison_figure(sample_result())
    with matplotlib.rc_context({"font.size": 31, "svg.fonttype": "path", "axes.grid": True}):
        assert figures.comparison_figure(sample_result()) == expected
        assert matplotlib.rcParams["font.size"] == 31


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


def test_hostile_arm_and_stage_names_do_not_break_a_figure() -> None:
    result = sample_result()
    result["arms"]['$x^{2}$ <b onload="x">'] = result["arms"].pop("sbp")
    ElementTree.fromstring(figures.comparison_figure(result))
    for name in ("ink", "paper", "sbp2"):
        assert figures.arm_role(name) == "other"
    assert figures.arm_role("repetition_2x") == "repetition"
    assert figures.arm_role("random_pairs_hot") == "random-pairs"
    assert figures.arm_role("real_context") == "real-context"
    long = [figures.short_name(f"sbp_with_something_else_{i}") for i in range(3)]
    assert len(set(long)) == 3
    assert max(map(len, long)) == 20


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
        "SBP beat repetition here: its gain is +0.0272 [+0.0083, +0.0461] bits per byte. "
        "Without an oracle there is no share to state."
    )
    page = render(data)
    assert "share of the oracle's gain" not in figures.comparison_figure(data.result)
    assert "times the unique tokens" not in page
    assert not Page(page).open


def test_refused_share_shows_the_reason() -> None:
    data = light_data()
    reason = "the oracle's gain, 0.0010 [-0.0100, 0.0120], is not clear of zero"
    refused = {"value": None, "low": None, "high": None, "refused": reason}
    data.result["recovered"] = {"bits_per_byte": refused, "nats_per_token": refused}
    assert reason in headline(data.result)
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


def test_figures_are_valid_xml_with_text_as_text() -> None:
    data = report_data()
    for width in (figures.WIDE, figures.NARROW):
        for svg, label in (
            (figures.comparison_figure(data.result, width), "repetition"),
            (figures.curves_figure(data.curves, width), "trained tokens"),
            (figures.flops_figure(data.result["ledger"], ["sbp"], width), "synthesize"),
        ):
            assert svg is not None
            root = ElementTree.fromstring(svg)
            assert root.get("role") == "img"
            assert root.get("viewBox", "").startswith(f"0 0 {width} ")
            assert label in [e.text for e in root.iter() if e.tag.endswith("text")]
            assert "var(" in figures.inline(svg)
            assert not any(colour in figures.inline(svg) for colour in figures.PALETTE.values())


def test_standalone_colours_read_on_white_and_on_black() -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    used = set(re.findall(r"#[0-9a-f]{6}\b", figures.comparison_figure(sample_result())))
    assert used <= set(figures.PALETTE.values())
    for background in ("#ffffff", "#0d1117"):
        for colour in used | {figures.PALETTE[role] for role in figures.ARM_ROLES}:
            dark, light = sorted((luminance(background), luminance(colour)))
            needed = 3 if colour == figures.PALETTE["rule"] else 4
            assert (light + 0.05) / (dark + 0.05) >= needed, (colour, background)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6, unique=True),
    st.floats(0.01, 0.15),
)
def test_labels_spread_apart_keep_their_order_and_stay_inside(
    places: list[float], gap: float
) -> None:
    spread = figures.spread({str(i): place for i, place in enumerate(places)}, gap, 0, 1)
    assert [places[int(name)] for name in spread] == sorted(places)
    found = list(spread.values())
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(found))
    assert found[0] >= -1e-9
    assert found[-1] <= 1 + 1e-9
    if all(b - a >= gap for a, b in itertools.pairwise(sorted(places))):
        assert found == pytest.approx(sorted(places))


def test_histogram_turns_logarithmic_only_where_kept_pairs_would_vanish() -> None:
    edges, every = [0.0, 0.5, 1.0], [1000, 400]
    linear = figures.similarity_figure(edges, every, [0, 300])
    logarithmic = figures.similarity_figure(edges, every, [0, 20])
    assert linear is not None
    assert "log scale" not in linear
    assert logarithmic is not None
    assert "log scale" in logarithmic
    assert figures.similarity_figure(edges, [0, 0], [0, 0]) is None
    with pytest.raises(ValueError, match="2 edges"):
        figures.similarity_figure([0.0, 1.0], every, every)


def test_a_shared_entry_counts_in_full_for_each_arm_and_data_stay_as_they_are() -> None:
    data = light_data()
    before = copy.deepcopy(data)
    totals = report._ledger_totals(data.result)
    assert totals == {"repetition": 3.1e12, "sbp": 2 * 3.1e12 + 8.2e11 + 1.2e12, "oracle": 3.1e12}
    render(data)
    assert data == before
