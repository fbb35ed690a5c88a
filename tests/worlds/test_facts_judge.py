"""The exact judge against texts whose faults are known from how they were made."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.judgement import Judge, Judgement
from synboot.core.storage import canonical_json
from synboot.eval.quality.judged import judged_figures
from synboot.worlds.facts.corruption import corrupted_corpus
from synboot.worlds.facts.judge import FactsJudge
from synboot.worlds.facts.world import FactsConfig, FactsWorld

WORLD = FactsWorld(FactsConfig(persons=40))
JUDGE = FactsJudge(WORLD)
AS_PROTOCOL: Judge = JUDGE
ANNA, BELA = WORLD.persons[0], WORLD.persons[1]
TRUE = f"The life of {ANNA.name}\n{ANNA.name} became a {ANNA.facts['profession']}."
FALSE = f"The life of {ANNA.name}\n{ANNA.name} became a wizard."


def judge(text: str, seed: str | None) -> tuple[bool | None, bool | None]:
    (found,) = JUDGE.judge([text], [seed])
    return found.non_factual, found.irrelevant


@given(st.integers(), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=20)
def test_every_judgement_of_a_corrupted_corpus_is_right(seed: int, false, foreign) -> None:
    corpus = corrupted_corpus(WORLD, 40, seed=seed, non_factual=false, irrelevant=foreign)
    found = JUDGE.judge([s.text for s in corpus], [s.seed for s in corpus])
    assert [Judgement(j.non_factual, j.irrelevant) for j in found] == [s.truth for s in corpus]
    assert {j.problems for j in found} == {()}


def test_rates_of_corruption() -> None:
    """Binomial: each is off by 5 standard deviations with odds of 6e-7."""
    corpus = corrupted_corpus(WORLD, 4000, seed=1)
    for name, rate in (("non_factual", 0.15), ("irrelevant", 0.25)):
        found = sum(getattr(s.truth, name) for s in corpus) / 4000
        assert abs(found - rate) < 5 * (rate * (1 - rate) / 4000) ** 0.5
    both = sum(s.truth == Judgement(True, True) for s in corpus) / 4000
    assert abs(both - 0.0375) < 5 * (0.0375 * 0.9625 / 4000) ** 0.5
    assert corpus[:10] == corrupted_corpus(WORLD, 10, seed=1)
    assert corpus[:10] != corrupted_corpus(WORLD, 10, seed=2)
    sound = corrupted_corpus(WORLD, 50, seed=1, non_factual=0, irrelevant=0)
    assert {s.truth for s in sound} == {Judgement(False, False)}
    assert all(s.text != s.seed for s in sound)


def test_one_document_a_person_cannot_be_corrupted() -> None:
    with pytest.raises(ValueError, match="two documents"):
        corrupted_corpus(FactsWorld(FactsConfig(persons=8, documents_per_person=1)), 1, seed=0)


def test_false_and_true() -> None:
    assert judge(TRUE, TRUE) == (False, False)
    assert judge(FALSE, TRUE) == (True, False)
    assert judge(f"{TRUE} She kept a unicorn.", TRUE) == (True, False)
    assert judge(f"{TRUE} She she kept a unicorn.", TRUE) == (False, False)  # not understood
    assert judge("Xo Yz kept a cat.", TRUE) == (True, True)  # nobody's cat


def test_what_cannot_be_said() -> None:
    assert judge(TRUE, None) == (False, None)
    assert judge(TRUE, "mere noise") == (False, None)
    assert judge("mere noise", TRUE) == (None, None)
    assert judge(f"The life of {ANNA.name}", TRUE) == (None, False)
    assert judge(f"The life of {BELA.name}", TRUE) == (None, True)
    assert judge("", "") == (None, None)


def test_a_mentor_is_relevant() -> None:
    seed = f"{ANNA.name} was taught by {BELA.name}."
    assert judge(f"{BELA.name} kept a {BELA.facts['animal']}.", seed) == (False, False)
    # The other way round too: whom the text is about counts, not whom it mentions.
    text = f"{BELA.name} was taught by {BELA.facts['mentor']}."
    assert judge(text, TRUE) == (False, True)


def test_order_and_numbers() -> None:
    assert list(JUDGE.judge([], [])) == []
    found = JUDGE.judge([TRUE, FALSE, TRUE], [TRUE, None, FALSE])
    assert [j.non_factual for j in found] == [False, True, False]
    assert [j.irrelevant for j in found] == [False, None, False]
    with pytest.raises(ValueError):  # noqa: PT011
        JUDGE.judge([TRUE], [])


def test_description_has_a_canonical_form_and_tells_worlds_apart() -> None:
    other = FactsJudge(FactsWorld(FactsConfig(persons=41)))
    assert canonical_json(JUDGE.describe()) != canonical_json(other.describe())


def test_problems() -> None:
    texts = [TRUE, f"{TRUE} Meow.", "Xo Yz kept a cat.", "Xo Yz kept a cat.\nMeow", "Meow"]
    assert [j.problems for j in JUDGE.judge(texts, [None] * 5)] == [
        (), ("not_understood",), ("nobody",), ("not_understood", "nobody"), ("not_understood",),
    ]  # fmt: skip


def test_shares_of_units_and_statements() -> None:
    """Noise beside one true statement is not said to be factual throughout."""
    texts = [TRUE, FALSE, "Xo Yz kept a cat. Meow.", f"{TRUE} {'Meow. ' * 7}"]
    assert [tuple(j.shares.values()) for j in JUDGE.judge(texts, [None] * 4)] == [
        ((0, 2), (0, 1)), ((0, 2), (1, 1)), ((1, 2), (1, 1)), ((7, 9), (0, 1)),
    ]  # fmt: skip
    pooled = judged_figures(JUDGE.judge([*texts, ""], [None] * 5))["shares"]
    assert {name: (own["count"], own["of"]) for name, own in pooled.items()} == {
        "units_not_understood": (8, 15), "statements_false": (2, 4),
    }  # fmt: skip
