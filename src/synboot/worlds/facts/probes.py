"""Questions about facts, for a trained model: which of several values goes on a beginning.

Everything comes from texts: what they state is what a model of them could know.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from synboot.core.rng import Key, unit_interval
from synboot.worlds.facts.names import pick, shuffled
from synboot.worlds.facts.parsing import read
from synboot.worlds.facts.phrases import STYLES, Phrase, Style
from synboot.worlds.facts.rendering import fill

NUM_CHOICES = 4
MAX_ITEMS = 1000
"""Of a set of probes: the share of right answers is known to 3 percentage points."""


def attribute_probes(
    unique: Iterable[str], everything: Iterable[str], seed: int, max_items: int = MAX_ITEMS
) -> dict[str, list[dict[str, Any]]]:
    """What to ask models of two training texts, as items of choices in three sets.

    `stated`: facts of the unique texts, in words that state the fact somewhere in them;
    `rephrased`: the same facts in words that never do; `unstated`: facts that only the other texts
    state. At most `max_items` a set, a keyed sample; see `StatedFacts.items` for an item.
    """
    known, all_facts = StatedFacts(unique), StatedFacts(everything)
    beyond = all_facts.probes_beyond(known, seed=seed, max_items=max_items)
    return {**known.probes(seed=seed, max_items=max_items), "unstated": beyond}


@dataclass
class _Stated:
    """Values that texts give for one attribute of one person, and the phrases they use."""

    values: Counter[str] = field(default_factory=Counter)
    phrases: set[Phrase] = field(default_factory=set)


class StatedFacts:
    """The facts that some texts state, as a model could learn them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._facts: dict[tuple[str, str], _Stated] = {}
        for text in texts:
            for statement in read(text).statements:
                stated = self._facts.setdefault(statement.fact[:2], _Stated())
                stated.values[statement.value] += 1
                stated.phrases.add(statement.phrase)

    def probes(self, *, seed: int, max_items: int) -> dict[str, list[dict[str, Any]]]:
        """Items about stated facts: `stated` asks in words that state the fact somewhere in the
        texts, `rephrased` in words that never do."""
        asked: dict[str, dict[tuple[str, str], list[tuple[Style, Phrase]]]] = {
            "stated": {},
            "rephrased": {},
        }
        for key, stated in self._facts.items():
            for style, phrase in _beginnings(key[1]):
                name = "stated" if phrase in stated.phrases else "rephrased"
                asked[name].setdefault(key, []).append((style, phrase))
        return {name: self.items(name, found, seed, max_items) for name, found in asked.items()}

    def probes_beyond(
        self, known: StatedFacts, *, seed: int, max_items: int
    ) -> list[dict[str, Any]]:
        """Items, called `unstated`, about the facts here that the texts of `known` do not state."""
        asked = {key: _beginnings(key[1]) for key in self._facts if key not in known._facts}
        return self.items("unstated", asked, seed, max_items)

    def items(
        self,
        name: str,
        asked: dict[tuple[str, str], list[tuple[Style, Phrase]]],
        seed: int,
        max_items: int,
    ) -> list[dict[str, Any]]:
        """At most `max_items` of the facts `asked`, a keyed sample, in the words at hand for each.

        `id`; `query`, the opening of a text about the person and a sentence up to the value;
        `choices`, the value and three other values of the attribute, in a keyed order; `gold`, the
        place of the value; `category`, the attribute; `frequency`, how often the texts state the
        fact. The three are values of other facts `asked`, each value as likely as there are facts
        with it: who knows how frequent values are, and no more, is right by chance. Facts for which
        the texts give several values are left out, and those without three others.
        """
        usable = [key for key in asked if len(self._facts[key].values) == 1]
        values: dict[str, Counter[str]] = {}
        for key in usable:
            values.setdefault(key[1], Counter()).update({*self._facts[key].values})
        usable = [key for key in usable if len(values[key[1]]) >= NUM_CHOICES]
        usable.sort(key=lambda key: unit_interval(seed, "probe", name, *key))
        return [
            self._item(name, key, asked[key], values[key[1]], seed) for key in usable[:max_items]
        ]

    def _item(
        self,
        name: str,
        key: tuple[str, str],
        words: list[tuple[Style, Phrase]],
        values: Mapping[str, int],
        seed: int,
    ) -> dict[str, Any]:
        person, attribute = key
        keyed = (seed, "probe", name, person, attribute)
        ((value, frequency),) = self._facts[key].values.items()
        style, phrase = pick(words, *keyed, "phrase")
        opening = fill(pick(style.openings, *keyed, "opening"), {}, person)
        others = _drawn({v: n for v, n in values.items() if v != value}, *keyed, "others")
        choices = shuffled([value, *others], *keyed, "choices")
        return {
            "id": f"{name}/{person}/{attribute}",
            "query": f"{opening}\n{fill(Phrase(str(phrase.beginning)), {}, person)}",
            "choices": choices,
            "gold": choices.index(value),
            "category": attribute,
            "frequency": frequency,
        }


def _drawn(weights: Mapping[str, int], *key: Key) -> list[str]:
    """Three drawn by weight, one after the other and none twice: those whose exponential waiting
    times are shortest."""
    waits = {v: -math.log1p(-unit_interval(*key, v)) / n for v, n in weights.items()}
    return sorted(waits, key=lambda v: (waits[v], v))[: NUM_CHOICES - 1]


def _beginnings(attribute: str) -> list[tuple[Style, Phrase]]:
    """The phrases that state this attribute alone and end with its value, each with its style."""
    return [
        (style, phrase)
        for style in STYLES
        for phrase in style.sentences
        if phrase.attributes == (attribute,) and phrase.beginning is not None
    ]
