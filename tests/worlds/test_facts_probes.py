"""Probes ask for what texts state, in words that they use or do not use."""

from __future__ import annotations

import itertools
import string
from collections import Counter
from typing import Any

import pytest

from synboot.worlds.facts.parsing import read
from synboot.worlds.facts.probes import NUM_CHOICES, StatedFacts, attribute_probes
from synboot.worlds.facts.world import FactsConfig, FactsWorld

WORLD = FactsWorld(FactsConfig(persons=60))
TEXTS = [document["text"] for document in WORLD.documents()]
UNIQUE = TEXTS[: 20 * 6]
KNOWN = StatedFacts(UNIQUE)
MANY = 10_000


@pytest.fixture(scope="module")
def items() -> dict[str, list[dict[str, Any]]]:
    return attribute_probes(UNIQUE, TEXTS, 0, MANY)


def completed(item: dict[str, Any], choice: int) -> set[tuple[str, str, str]]:
    """What the text of an item states when that choice goes on it."""
    text = f"{item['query']} {item['choices'][choice]}"
    return {s.fact for s in (*read(text).statements, *read(text + ".").statements)}


def test_the_gold_choice_makes_a_true_statement_and_no_other_does(items) -> None:
    for item in (item for found in items.values() for item in found):
        assert len(set(item["choices"])) == NUM_CHOICES
        for place in range(NUM_CHOICES):
            ((person, attribute, value),) = completed(item, place)
            assert value == item["choices"][place]
            assert attribute == item["category"]
            assert WORLD.holds(person, attribute, value) == (place == item["gold"])
    assert set(items) == {"stated", "rephrased", "unstated"}
    assert min(map(len, items.values())) > 100
    assert len({item["id"] for found in items.values() for item in found}) == sum(
        map(len, items.values())
    )


def test_each_set_is_what_it_says(items) -> None:
    stated = [s for text in UNIQUE for s in read(text).statements]
    facts = Counter(s.fact for s in stated)
    everywhere = Counter(s.fact for text in TEXTS for s in read(text).statements)
    phrased = {(s.fact, s.phrase) for s in stated}
    for name, found in items.items():
        for item in found:
            (fact,) = completed(item, item["gold"])
            statement = read(f"{item['query']} {item['choices'][item['gold']]}").statements
            statement = statement or read(f"{item['query']} {fact[2]}.").statements
            assert (fact in facts) == (name != "unstated")
            assert ((fact, statement[0].phrase) in phrased) == (name == "stated")
            assert item["frequency"] == (facts if name != "unstated" else everywhere)[fact]
    asked = {completed(item, item["gold"]).pop() for item in items["rephrased"]}
    assert asked == set(facts)  # no phrase is used so often that none is left


def test_choices_lie_where_they_may(items) -> None:
    """Gold is at each of the places in a quarter of the items; off by 5 deviations: 6e-7 each."""
    places = Counter(item["gold"] for found in items.values() for item in found)
    total = sum(places.values())
    for place in range(NUM_CHOICES):
        assert abs(places[place] - total / 4) < 5 * (total * 3 / 16) ** 0.5


def test_who_knows_only_how_frequent_values_are_is_right_by_chance() -> None:
    """The most frequent choice is right in a quarter; off by 5 deviations of independent items with
    odds of 6e-7. Distractors that are drawn evenly from all values make it 33%."""
    texts = [f"Xo {name.title()} kept a {animal}." for name, animal in _persons(2000)]
    frequent = Counter(read(text).statements[0].value for text in texts)
    found = StatedFacts(texts).probes(seed=0, max_items=MANY)["stated"]
    right = [max(i["choices"], key=frequent.__getitem__) == i["choices"][i["gold"]] for i in found]
    assert len(right) == 2000
    assert abs(sum(right) / 2000 - 0.25) < 5 * (0.1875 / 2000) ** 0.5


def _persons(number: int) -> list[tuple[str, str]]:
    """Names, and animals of which the first is had by four times as many as the last."""
    letters = string.ascii_lowercase
    animals = [letter + "ox" for n, letter in enumerate(letters[:20]) for _ in range(4 - n // 6)]
    names = ("".join(letters) for letters in itertools.product(letters, repeat=3))
    return [
        (name, animals[n % len(animals)]) for n, name in enumerate(itertools.islice(names, number))
    ]


def test_a_sample_depends_on_the_seed_and_not_on_the_order_of_texts(items) -> None:
    few = KNOWN.probes(seed=0, max_items=30)
    assert few == StatedFacts(UNIQUE[::-1]).probes(seed=0, max_items=30)
    for name, found in few.items():
        assert len(found) == 30
        assert all(item in items[name] for item in found)
    assert few != KNOWN.probes(seed=1, max_items=30)


def test_contradictions_and_rare_attributes_are_left_out() -> None:
    texts = [f"Xo Yz kept a {animal}." for animal in ("cat", "dog")]
    texts += [f"Ab C{letter} kept a {letter}x." for letter in "abcd"]
    texts += ["Ab Ca was born in Here."]
    found = StatedFacts(texts).probes(seed=0, max_items=MANY)
    assert {item["id"] for item in found["rephrased"]} == {
        f"rephrased/Ab C{letter}/animal" for letter in "abcd"
    }
    assert StatedFacts([]).probes(seed=0, max_items=MANY) == {"stated": [], "rephrased": []}
