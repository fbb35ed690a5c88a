"""The persons of a facts world, what is true of them, and the corpus that says it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from synboot.core.config import Config
from synboot.core.rng import Key
from synboot.core.storage import atomic_file, digest
from synboot.worlds.facts.names import (
    MAX_PERSONS,
    firm_names,
    person_names,
    pick,
    shuffled,
    town_names,
)
from synboot.worlds.facts.phrases import (
    ANIMALS,
    ATTRIBUTES,
    COLOURS,
    INSTRUMENTS,
    PROFESSIONS,
    STYLES,
    YEARS,
    Style,
)
from synboot.worlds.facts.rendering import render

WORLD_VERSION = 1
"""Raised by hand whenever the same settings would give other documents."""

_NUM_TOWNS = 48
_NUM_FIRMS = 40
_FACTS_OF_A_DOCUMENT = (4, 5, 6)


class FactsConfig(Config):
    """Which facts world it is."""

    persons: int = Field(default=1200, ge=8, le=MAX_PERSONS)
    """People whom its documents are about."""
    documents_per_person: int = Field(default=6, ge=1, le=1000)
    """Documents about each."""
    seed: int = 0
    """Key of names, facts and texts, whatever the seed of the run."""


@dataclass(frozen=True)
class Person:
    """One person: full name, pronoun (he or she), and the value of every attribute."""

    name: str
    pronoun: str
    facts: Mapping[str, str]


class FactsWorld:
    """Persons with nine attributes each, drawn evenly and independently from the values that an
    attribute has; a mentor is another person."""

    def __init__(self, config: FactsConfig | None = None) -> None:
        self.config = config or FactsConfig()
        seed = self.config.seed
        names = person_names(self.config.persons, seed)
        towns = town_names(_NUM_TOWNS, seed)
        self.values: dict[str, tuple[str, ...]] = {
            "birthplace": tuple(towns),
            "year": YEARS,
            "residence": tuple(towns),
            "profession": PROFESSIONS,
            "employer": tuple(firm_names(_NUM_FIRMS, seed)),
            "instrument": INSTRUMENTS,
            "animal": ANIMALS,
            "colour": COLOURS,
            "mentor": tuple(names),
        }
        """The values of every attribute."""
        self.persons = [self._person(name) for name in names]
        self._by_name = {person.name: person for person in self.persons}

    def _person(self, name: str) -> Person:
        facts = {a: self.another_value(a, name, self.config.seed, name, a) for a in ATTRIBUTES}
        pronoun = pick(("she", "he"), self.config.seed, name, "pronoun")
        return Person(name, pronoun, facts)

    def another_value(self, attribute: str, unlike: str, *key: Key) -> str:
        """A value of `attribute` other than `unlike`, drawn evenly by key."""
        values = self.values[attribute]
        attempt = 0
        while (value := pick(values, *key, attempt)) == unlike:
            attempt += 1
        return value

    def knows(self, name: str) -> bool:
        """Whether there is a person of that name."""
        return name in self._by_name

    def holds(self, name: str, attribute: str, value: str) -> bool:
        """Whether it is true. The world is closed: nothing is true of persons who are not in it."""
        person = self._by_name.get(name)
        return person is not None and person.facts[attribute] == value

    def facts_of(self, person: Person, number: int) -> dict[str, str]:
        """What document `number` of a person states: 4 to 6 of the facts, by key."""
        key = (self.config.seed, person.name, number)
        count = pick(_FACTS_OF_A_DOCUMENT, *key, "count")
        return {a: person.facts[a] for a in shuffled(ATTRIBUTES, *key, "facts")[:count]}

    def style_of(self, person: Person, number: int) -> Style:
        """The style of document `number`: all of them in turn, in an order of the person's own."""
        order = shuffled(STYLES, self.config.seed, person.name, "styles")
        return order[number % len(order)]

    def text(self, person: Person, number: int, facts: Mapping[str, str] | None = None) -> str:
        """Document `number` of a person; with `facts` (value by attribute) in place of its own."""
        return render(
            person.name,
            person.pronoun,
            self.facts_of(person, number) if facts is None else facts,
            self.style_of(person, number),
            *(self.config.seed, person.name, number, "text"),
        )

    def documents(self) -> Iterator[dict[str, str]]:
        """Fields id, text, group (the person), source, license, person by person."""
        for place, person in enumerate(self.persons):
            for number in range(self.config.documents_per_person):
                yield {
                    "id": f"p{place:05d}-{number}",
                    "text": self.text(person, number),
                    "group": f"p{place:05d}",
                    "source": "facts-world",
                    "license": "CC0-1.0",
                }


def fingerprint(config: FactsConfig) -> str:
    """A name for what `write_facts` would write, fit for a file name."""
    return f"facts-{WORLD_VERSION}-{digest(config.model_dump(mode='json'))[:12]}"


def write_facts(path: Path, config: FactsConfig) -> int:
    """Write the documents of that world as JSON lines, whole or not at all; returns how many."""
    count = 0
    with atomic_file(path) as file:
        for document in FactsWorld(config).documents():
            file.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count
