"""Law 10, the synthesizer: tuned on the concept world's pairs it is the exact Bayes posterior, as
far as a small model comes in some seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from calibration.concept import QUICK, measure, summary

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcome() -> dict[str, Any]:
    return measure(QUICK, seed=0)


def test_it_captures_what_d1_holds_about_d2(outcome: dict[str, Any]) -> None:
    found = outcome["likelihood"]["captured"]
    assert QUICK.min_captured <= found["value"] < 1 + 4 * found["standard_error"]


def test_random_pairs_teach_it_nothing(outcome: dict[str, Any]) -> None:
    assert abs(outcome["likelihood"]["captured_of_random"]["value"]) <= QUICK.max_of_random


def test_synthetic_documents_have_the_concepts_of_exact_draws(outcome: dict[str, Any]) -> None:
    joint, marginal = outcome["concepts"]["joint"], outcome["concepts"]["marginal"]
    assert joint["value"] <= QUICK.max_variation
    assert marginal["value"] <= QUICK.max_variation
    # The measure tells a synthesizer that does not read d1.
    assert joint["of_random"] > 4 * QUICK.max_variation


def test_the_summary_says_what_held(outcome: dict[str, Any]) -> None:
    assert outcome["held"]
    text = summary(outcome)
    assert text.count(": held") == len(outcome["held_each"]) == 6
    assert "FELL SHORT" not in text
    fallen = outcome | {"held_each": dict.fromkeys(outcome["held_each"], False)}
    assert summary(fallen).count("FELL SHORT") == 6
