"""Invented names of persons, towns and firms, from syllables, by key.

Names of a kind have one length, so that none is the beginning of another.
"""

from __future__ import annotations

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
"""Family names are unique; there are 39,200."""

Item = TypeVar("Item")


def pick(items: Sequence[Item], *key: Key) -> Item:
    """One of `items`, by key."""
    return items[int(unit_interval(*key) * len(items))]


def shuffled(items: Sequence[Item], *key: Key) -> list[Item]:
    """`items` in an order by key."""
    ranked = sorted(range(len(items)), key=lambda place: unit_interval(*key, place))
    return [items[place] for place in ranked]


def person_names(count: int, seed: int) -> list[str]:
    """`count` names, given and family; given names recur, family names do not."""
    given = _distinct(min(64, count), _GIVEN, 1, seed, "given")
    family = _distinct(count, _FAMILY, 2, seed, "family")
    return [f"{pick(given, seed, 'given of', i)} {name}" for i, name in enumerate(family)]


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
