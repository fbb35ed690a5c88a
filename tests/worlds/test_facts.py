"""Texts of the facts world say what they were made to say, and are read from themselves alone."""

from __future__ import annotations

import hashlib
import json
import re
import string
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from synboot.worlds.facts.names import MAX_PERSONS, person_names
from synboot.worlds.facts.parsing import _grammar, read
from synboot.worlds.facts.phrases import ATTRIBUTES, PERSON_SLOTS, SLOT, STYLES, all_phrases
from synboot.worlds.facts.rendering import PRONOUNS, fill, render
from synboot.worlds.facts.world import FactsConfig, FactsWorld, fingerprint, write_facts

PHRASES = list(all_phrases())
SMALL = FactsConfig(persons=40)
WORLD = FactsWorld(SMALL)

lower = st.text(string.ascii_lowercase, min_size=1, max_size=8)
capital = st.text(string.ascii_lowercase, min_size=2, max_size=8).map(str.capitalize)
names = st.tuples(capital, capital).map(" ".join)
words = st.lists(lower, min_size=1, max_size=2).map(" ".join)
SHAPES = {
    "birthplace": capital, "residence": capital, "employer": names, "mentor": names,
    "year": st.integers(0, 10**6).map(str),
}  # fmt: skip
every_value = st.fixed_dictionaries({a: SHAPES.get(a, words) for a in ATTRIBUTES})
some_facts = st.builds(
    lambda values, kept: {a: values[a] for a in kept},
    every_value,
    st.sets(st.sampled_from(ATTRIBUTES)),
)


@given(names, st.sampled_from(sorted(PRONOUNS)), some_facts, st.sampled_from(STYLES), st.integers())
@settings(max_examples=300)
def test_what_is_written_is_read(name, pronoun, facts, style, key) -> None:
    reading = read(render(name, pronoun, facts, style, key))
    assert sorted(s.fact for s in reading.statements) == sorted((name, *f) for f in facts.items())
    assert reading.num_not_understood == 0
    assert reading.persons == (name,)
    assert reading.main_person == name


@given(names, every_value, st.sampled_from([None, *PRONOUNS]))
@settings(max_examples=20, deadline=None)
def test_no_sentence_is_another(name, values, pronoun) -> None:
    """Whatever stands in the slots, exactly one pattern fits; what it states is read."""
    _, phrases, patterns = _grammar()
    for phrase in PHRASES:
        text = fill(phrase, values, name, pronoun)
        fitting = [n for n, pattern in enumerate(patterns) if pattern.fullmatch(text)]
        assert [phrases[n] for n in fitting] == [phrase]
        named = pronoun is None and re.search(r"\{[eo]\}", phrase.text)
        person = name if named else "Somebody Else"
        found = read(f"The life of Somebody Else\n{text}").statements
        assert [s.fact for s in found] == [(person, a, values[a]) for a in phrase.attributes]
        assert {s.phrase for s in found} <= {phrase}


def test_phrases_are_what_rendering_and_probes_need() -> None:
    assert len({phrase.text for phrase in PHRASES}) == len(PHRASES)
    for phrase in PHRASES:
        assert sum(slot in PERSON_SLOTS for slot in SLOT.findall(phrase.text)) <= 1
    for style in STYLES:
        for attribute in ATTRIBUTES:
            assert any(p.attributes == (attribute,) for p in style.sentences), (style, attribute)
        assert all(re.search(r"\{[eo]\}", p.text) for p in style.openings)
        assert not any(SLOT.search(p.text) for p in style.closings)
    for attribute in ATTRIBUTES:
        assert sum(p.attributes == (attribute,) and p.beginning is not None for p in PHRASES) >= 5


@given(st.lists(st.sampled_from(PHRASES).map(lambda p: p.text) | st.text() | names, max_size=8))
def test_any_text_is_read(pieces: list[str]) -> None:
    for text in ("".join(pieces), " ".join(pieces), "\n".join(pieces)):
        reading = read(text)
        assert 0 <= reading.num_not_understood <= reading.num_units
        assert {s.person for s in reading.statements} <= set(reading.persons)


READ = {
    # Unknown persons and values of the right shape are statements like any other.
    "Xo Yz was born in Nowhere.": [("Xo Yz", "birthplace", "Nowhere")],
    "Xo Yz was born in the year 3.": [("Xo Yz", "year", "3")],
    "Xo Yz became a wolf tamer.\nShe kept a emu.": [
        ("Xo Yz", "profession", "wolf tamer"), ("Xo Yz", "animal", "emu")],
    # A broken sentence is passed over, and what follows it is read.
    "Xo Yz was was born in Nowhere. She became a judge.": [],
    "Name: Xo Yz\nTrade:\nAnimal: cat cat cat\nAnimal: cat": [("Xo Yz", "animal", "cat")],
    "The life of Xo Yz\nHe was born in nowhere. He became a judge": [],
    # Nobody is meant: no pronoun without a name, no line of a register without its head.
    "She became a judge.": [],
    "Trade: judge\nName: Xo Yz": [],
    "News of the week: the town celebrates her\nShe became a judge.": [],
    # The person named last is meant, and a mentor is not in a person's place.
    "Xo Yz was taught by Ab Cd. She became a judge. Ef Gh became a hero. He kept a cat.": [
        ("Xo Yz", "mentor", "Ab Cd"), ("Xo Yz", "profession", "judge"),
        ("Ef Gh", "profession", "hero"), ("Ef Gh", "animal", "cat")],
    # A sentence that is broken may have been about another person, who is meant by what follows.
    "The life of Xo Yz\nAb Cd was boorn in Here. He lived in There.": [],
    "The life of Xo Yz\nQ: Where was Ab Cd boorn?\nQ: Where does he live? A: In There.": [],
    "Name: Xo Yz\nName: Ab Cdd Ee\nTrade: judge": [],
    "The life of Xo Yz\nAb Cd was boorn in Here. Xo Yz kept a cat. She became a judge.": [
        ("Xo Yz", "animal", "cat"), ("Xo Yz", "profession", "judge")],
    # Not so one about the person who is meant already, or a firm in an answer.
    "The life of Xo Yz\nXo Yz was boorn in Here. He lived in There.": [
        ("Xo Yz", "residence", "There")],
    "The life of Xo Yz\nQ: Who hires her? A: Ab Mills.\nShe kept a cat.": [
        ("Xo Yz", "animal", "cat")],
    # A question goes with its answer only.
    "Q: Where was Xo Yz born? Q: Who taught Xo Yz?": [],
    "Q: Where was Xo Yz born?\nA: In Nowhere.": [("Xo Yz", "birthplace", "Nowhere")],
    "Q: Where was Xo Yz born? \n\n  A: In\tNowhere.  ": [("Xo Yz", "birthplace", "Nowhere")],
    "Q: Who taught Xo Yz? A: In Nowhere. A: In Nowhere.": [],
    "": [], " \n\n. ": [],
}  # fmt: skip


@pytest.mark.parametrize("text", READ)
def test_malformed_texts(text: str) -> None:
    assert [s.fact for s in read(text).statements] == READ[text]


@pytest.mark.parametrize("piece", [" ", "\n", "a", "A: ", ". ", "? A: ", "Xo Yz kept a ", "\nA: "])
def test_long_texts_take_no_longer_than_they_are(piece: str) -> None:
    """A step for each pair of characters would take minutes here."""
    assert read(piece * 200_000 + "\nXo Yz kept a cat.").statements[0].value == "cat"


def test_units_that_are_no_phrase_are_counted() -> None:
    reading = read("Name: Xo Yz\nTrade: judge\nTrade: 7\nWhat? Friends, let us drink to Xo Yz!")
    assert (reading.num_units, reading.num_not_understood) == (5, 2)
    assert read("She became a judge. Write soon.").num_not_understood == 1


def test_main_person_and_everyone() -> None:
    text = "The life of Xo Yz\nAb Cd kept a cat. She became a judge. Xo Yz was taught by Ef Gh."
    assert read(text).main_person == "Ab Cd"
    assert read(text).everyone == {"Xo Yz", "Ab Cd", "Ef Gh"}
    assert read("The life of Xo Yz\nThe life of Ab Cd").main_person == "Xo Yz"
    assert read("Ab Cd kept a cat. Xo Yz kept a cat.").main_person == "Ab Cd"
    assert read("Write soon.").main_person is None


def test_the_corpus_states_the_truth_and_nothing_else() -> None:
    documents = list(WORLD.documents())
    assert [d["id"] for d in documents] == [f"p{i:05d}-{n}" for i in range(40) for n in range(6)]
    assert len({d["text"] for d in documents}) == len(documents)
    for place, document in enumerate(documents):
        person = WORLD.persons[place // 6]
        reading = read(document["text"])
        assert reading.persons == (person.name,)
        assert reading.num_not_understood == 0
        assert 4 <= len(reading.statements) <= 6
        assert all(WORLD.holds(*s.fact) for s in reading.statements)
        assert document["group"] == document["id"].partition("-")[0]
    styles = [WORLD.style_of(WORLD.persons[0], number).name for number in range(12)]
    assert sorted(styles[:6]) == sorted({style.name for style in STYLES})
    assert styles[:6] == styles[6:]


def test_names_and_values() -> None:
    world = FactsWorld(FactsConfig(persons=500))
    assert len({p.name for p in world.persons}) == len(world.persons) == 500
    for half in (0, 1):  # of 28 each
        assert 20 <= len({p.name.split()[half] for p in world.persons}) <= 28
    for attribute, values in world.values.items():
        assert len(set(values)) == len(values) >= 16
        if attribute != "mentor":
            pairs = permutations(values, 2)
            assert not [pair for pair in pairs if pair[0].startswith(pair[1])]
    for person in world.persons:
        assert person.facts["mentor"] != person.name
        assert all(person.facts[a] in world.values[a] for a in ATTRIBUTES)
        assert world.holds(person.name, "year", person.facts["year"])
    assert not world.holds("Xo Yz", "year", "1900")
    assert world.knows(world.persons[7].name)
    assert not world.knows("Xo Yz")


def test_the_world_is_its_settings(tmp_path: Path) -> None:
    """A corpus with another digest needs another WORLD_VERSION: runs know the world by it."""
    path = tmp_path / "deep" / "facts.jsonl"
    assert write_facts(path, SMALL) == 240
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == list(WORLD.documents())
    assert fingerprint(SMALL) == "facts-1-edd19a72e6f6"
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == "b08d2c820b74327c"
    others = [{"seed": 1}, {"persons": 41}, {"documents_per_person": 5}]
    found = {fingerprint(SMALL.model_copy(update=other)) for other in others}
    assert len(found | {fingerprint(SMALL)}) == 4
    texts = {next(FactsWorld(SMALL.model_copy(update={"seed": n})).documents())["text"]
             for n in range(3)}  # fmt: skip
    assert len(texts) == 3


@pytest.mark.parametrize(
    "wrong", [{"persons": 7}, {"persons": 20_001}, {"documents_per_person": 0}]
)
def test_impossible_worlds(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        FactsConfig(**wrong)


def test_the_largest_world_has_names_for_all() -> None:
    everyone = person_names(MAX_PERSONS, 0)
    assert len(set(everyone)) == MAX_PERSONS
