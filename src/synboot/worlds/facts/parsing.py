"""What a text states, found from the text alone.

A text is cut into units, at line ends and after sentences; a question and its answer are one. A
unit that is a phrase of `phrases`, with any words of the right shape in its slots, is understood,
known values or not: "was born in Nowhereburg" states a birthplace. Anything else is not
understood, and counted. A unit without a name, or with a pronoun for it, is about the person whom
the text named last in a person's place; where there is none yet, it is not understood.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

from synboot.worlds.facts.phrases import PERSON_SLOTS, SLOT, STYLES, Phrase, all_phrases

_NAME = r"[A-Z][a-z]+ [A-Z][a-z]+"
_PLACE = r"[A-Z][a-z]+"
_WORDS = r"[a-z]+(?: [a-z]+)?"
_SHAPES = {
    "e": rf"{_NAME}|[Hh]e|[Ss]he",
    "o": rf"{_NAME}|[Hh]im|[Hh]er",
    "birthplace": _PLACE,
    "year": r"[0-9]+",
    "residence": _PLACE,
    "profession": _WORDS,
    "employer": _NAME,
    "instrument": _WORDS,
    "animal": _WORDS,
    "colour": _WORDS,
    "mentor": _NAME,
}
_PRONOUNS = {"he", "she", "him", "her"}
_CUT = re.compile(r"(?<=[.!?]) (?!A: )")


@dataclass(frozen=True)
class Statement:
    """That `attribute` of `person` is `value`, in the words of `phrase`."""

    person: str
    attribute: str
    value: str
    phrase: Phrase

    @property
    def fact(self) -> tuple[str, str, str]:
        """Person, attribute, value."""
        return self.person, self.attribute, self.value


@dataclass(frozen=True)
class Reading:
    """What was found in a text, in its order. `persons` are those that it is about at some place;
    of `num_units` units, `num_not_understood` are no phrase, or about nobody."""

    statements: tuple[Statement, ...]
    persons: tuple[str, ...]
    num_units: int
    num_not_understood: int

    @property
    def main_person(self) -> str | None:
        """Whom most statements are about, the first of several; without statements, who is named
        first; None in a text that names nobody."""
        if not self.statements:
            return self.persons[0] if self.persons else None
        return Counter(s.person for s in self.statements).most_common(1)[0][0]

    @property
    def everyone(self) -> set[str]:
        """Whom the text is about or mentions as somebody's mentor."""
        mentors = {s.value for s in self.statements if s.attribute == "mentor"}
        return {*self.persons, *mentors}


def read(text: str) -> Reading:
    """What `text` states. Takes any text."""
    either, phrases, patterns = _grammar()
    current: str | None = None
    statements: list[Statement] = []
    persons: dict[str, None] = {}
    num_units = num_not_understood = 0
    for unit in _units(text):
        num_units += 1
        whole = either.fullmatch(unit)
        found = None if whole is None else patterns[int(str(whole.lastgroup)[1:])].fullmatch(unit)
        if whole is None or found is None:
            num_not_understood += 1
            if _brings_up_another(unit, current):
                current = None
            continue
        phrase = phrases[int(str(whole.lastgroup)[1:])]
        slots = found.groupdict()
        named = next((slots[slot] for slot in PERSON_SLOTS if slot in slots), None)
        if named is not None and named.lower() not in _PRONOUNS:
            current = named
            persons[named] = None
        if current is None and (named is not None or phrase.attributes):
            num_not_understood += 1
            continue
        statements += [
            Statement(str(current), attribute, slots[attribute], phrase)
            for attribute in phrase.attributes
        ]
    return Reading(tuple(statements), tuple(persons), num_units, num_not_understood)


def _brings_up_another(unit: str, current: str | None) -> bool:
    """Whether a unit that is no phrase may be about another person: it begins as those do that
    name somebody after their first words, or with another name, or is a question with one."""
    question = unit.startswith("Q: ")
    found = (re.search if question else re.match)(_NAME, unit.partition(" A: ")[0])
    if found is not None:
        return found[0] != current
    return unit.startswith(_heads())


def _units(text: str) -> list[str]:
    """White space within a line counts as one space; an answer's line goes on the line before."""
    lines = filter(None, (" ".join(line.split()) for line in text.split("\n")))
    joined = "\n".join(lines).replace("\nA: ", " A: ")
    return [unit for line in joined.split("\n") for unit in _CUT.split(line) if unit]


def _pattern(phrase: Phrase, *, named: bool) -> str:
    """A regular expression for the phrase; its slots are groups of their names, or no groups."""
    pieces = SLOT.split(phrase.text)  # literal, slot, literal, ...
    made = [
        f"(?{f'P<{piece}>' if named else ':'}{_SHAPES[piece]})" if place % 2 else re.escape(piece)
        for place, piece in enumerate(pieces)
    ]
    return "".join(made)


@cache
def _heads() -> tuple[str, ...]:
    """What stands before the name in the openings of all styles."""
    return tuple(phrase.text.partition("{")[0] for style in STYLES for phrase in style.openings
                 if not phrase.text.startswith(("{", "Q: ")))  # fmt: skip


@cache
def _grammar() -> tuple[re.Pattern[str], list[Phrase], list[re.Pattern[str]]]:
    """One expression for all phrases, whose group gN says which; the phrases; one for each."""
    phrases = list(all_phrases())
    either = "|".join(f"(?P<g{n}>{_pattern(p, named=False)})" for n, p in enumerate(phrases))
    return re.compile(either), phrases, [re.compile(_pattern(p, named=True)) for p in phrases]
