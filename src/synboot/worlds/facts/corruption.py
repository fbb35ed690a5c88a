"""Corpora of a facts world with known shares of false and of irrelevant texts.

What is wrong with a text is known from how it is made, never from reading it.
"""

from __future__ import annotations

from dataclasses import dataclass

from synboot.core.judgement import Judgement
from synboot.core.rng import unit_interval
from synboot.worlds.facts.names import pick, shuffled
from synboot.worlds.facts.world import FactsWorld, Person


@dataclass(frozen=True)
class Sample:
    """A text beside the seed document that it is said to come from, and the truth about it."""

    text: str
    seed: str
    truth: Judgement


def corrupted_corpus(
    world: FactsWorld, count: int, *, seed: int, non_factual: float = 0.15, irrelevant: float = 0.25
) -> list[Sample]:
    """`count` texts, each made by itself: its seed document is any of the world's.

    With probability `irrelevant` it is about somebody whom the seed document does not mention,
    otherwise it is another document of the same person; with probability `non_factual`,
    independently of that, one of its facts has another value. The rates of the corpus thus spread
    about these numbers as those of a sample do. Raises ValueError for a world with one document a
    person.
    """
    if world.config.documents_per_person < 2:
        raise ValueError("expected at least two documents a person")
    return [_sample(world, seed, number, non_factual, irrelevant) for number in range(count)]


def _sample(
    world: FactsWorld, seed: int, number: int, non_factual: float, irrelevant: float
) -> Sample:
    key = (seed, "corrupted", number)
    false = unit_interval(*key, "false?") < non_factual
    foreign = unit_interval(*key, "foreign?") < irrelevant
    person = pick(world.persons, *key, "person")
    first, second = shuffled(range(world.config.documents_per_person), *key, "documents")[:2]
    subject = _stranger(world, person, *key) if foreign else person
    facts = world.facts_of(subject, second)
    if false:
        attribute = pick(sorted(facts), *key, "attribute")
        facts[attribute] = world.another_value(attribute, facts[attribute], *key, "value")
    return Sample(
        text=world.text(subject, second, facts),
        seed=world.text(person, first),
        truth=Judgement(non_factual=false, irrelevant=foreign),
    )


def _stranger(world: FactsWorld, person: Person, *key: int | str) -> Person:
    """Anyone but the person and their mentor."""
    attempt = 0
    while True:
        found = pick(world.persons, *key, "stranger", attempt)
        if found.name not in (person.name, person.facts["mentor"]):
            return found
        attempt += 1
