"""The drawings of a run."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from sample_run import report_data, sample_result

from synboot.experiment import figures


def test_drawing_does_not_depend_on_or_change_global_settings() -> None:
    expected = figures.comparison_figure(sample_result())
    with matplotlib.rc_context({"font.size": 31, "svg.fonttype": "path", "axes.grid": True}):
        assert figures.comparison_figure(sample_result()) == expected
        assert matplotlib.rcParams["font.size"] == 31


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


def test_a_row_has_the_whole_name_of_a_control_of_a_variant() -> None:
    assert figures.row_name("self_distillation_writers") == "self-distillation\nwriters"
    assert figures.row_name("sbp_writers") == "SBP writers"
    assert max(map(len, figures.row_name("sbp_" + "ab_" * 90).splitlines())) <= 20
    assert len(figures.row_name("sbp_" + "ab_" * 90).splitlines()) <= 3


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
