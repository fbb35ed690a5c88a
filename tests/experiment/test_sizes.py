"""What is claimed of size by runs beside each other, and the rows that the page has of them."""

from __future__ import annotations

import copy
import itertools
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from sample_run import gain, sample_arm, signed, size

from synboot.experiment.figures_statistics import sizes_figure
from synboot.experiment.sizes import (
    advantages,
    by_size,
    sizes_section,
    standing_lines,
    variants_section,
)

HERE = Path(__file__).parent
_statistics = runpy.run_path(str(HERE / "test_report_statistics.py"))


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
    for value, verdict in ((-0.3, "Better than plain SBP, over"), (0.05, "Not to be told from")):
        over |= {"gain": value, "low": value - 0.1, "high": value + 0.1}
        rows = {row["arm"]: row for row in variants_section([run], signed=signed)[0]["rows"]}
        assert rows["sbp_top_p_1"]["verdict"].startswith(verdict)
