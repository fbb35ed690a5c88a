"""Invented names of persons, towns and firms, from syllables, by key.

Names of a kind have one length, so that none is the beginning of another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from synboot.core.rng import Key, unit_interval

_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"
_OPEN = tuple(consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS)
_GIVEN = ("lin", "mir", "nas", "ran", "rik", "sel", "tan", "vor")
_FAMILY = ("an", "ar", "el", "ev", "ik", "im", "os", "un")
_TOWN = ("burg", "dale", "ford", "gard", "holm", "mere", "stad", "wick")
_FIRM = ("ax", "ex", "ix", "ox")
_TRADE = ("Bakery", "Foundry", "Mills", "Museum", "Press", "Railway", "School", "Shipyard")

MAX_PERSONS = 20_000
_PAIRS_OF_A_PERSON = 1.5

Item = TypeVar("Item")


def pick(items: Sequence[Item], *key: Key) -> Item:
    """One of `items`, by key."""
    return items[int(unit_interval(*key) * len(items))]


def shuffled(items: Sequence[Item], *key: Key) -> list[Item]:
    """`items` in an order by key."""
    ranked = sorted(range(len(items)), key=lambda place: unit_interval(*key, place))
    return [items[place] for place in ranked]


def person_names(count: int, seed: int) -> list[str]:
    """`count` names, no two alike. Given and family names both recur, about as often: two thirds
    of their pairs are persons, so that a name is known by both halves and by neither alone."""
    size = math.ceil(math.sqrt(_PAIRS_OF_A_PERSON * count))
    given = _distinct(size, _GIVEN, 1, seed, "given")
    family = _distinct(size, _FAMILY, 2, seed, "family")
    found: dict[str, None] = {}
    attempt = 0
    while len(found) < count:
        key = (seed, "person", attempt)
        found[f"{pick(given, *key, 'given')} {pick(family, *key, 'family')}"] = None
        attempt += 1
    return list(found)


def town_names(count: int, seed: int) -> list[str]:
    """`count` towns, such as Koreburg."""
    return _distinct(count, _TOWN, 2, seed, "town")


def firm_names(count: int, seed: int) -> list[str]:
    """`count` firms, such as Talox Mills."""
    firms = _distinct(count, _FIRM, 2, seed, "firm")
    return [f"{name} {pick(_TRADE, seed, 'trade of', i)}" for i, name in enumerate(firms)]


def _distinct(count: int, endings: Sequence[str], syllables: int, *key: Key) -> list[str]:
    """`count` capitalised words of so many open syllables and an ending, no two alike."""
    found: dict[str, None] = {}
    attempt = 0
    while len(found) < count:
        opening = "".join(pick(_OPEN, *key, attempt, place) for place in range(syllables))
        found[(opening + pick(endings, *key, attempt, "ending")).capitalize()] = None
        attempt += 1
    return list(found)
