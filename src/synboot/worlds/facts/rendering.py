"""Facts about one person as a text of a style."""

from __future__ import annotations

from collections.abc import Mapping

from synboot.core.rng import Key, unit_interval
from synboot.worlds.facts.names import pick, shuffled
from synboot.worlds.facts.phrases import PERSON_SLOTS, SLOT, Phrase, Style

PRONOUNS = {"she": "her", "he": "him"}
"""Subject and object."""

_PRONOUN_SHARE = 0.1


def fill(phrase: Phrase, values: Mapping[str, str], person: str, pronoun: str | None = None) -> str:
    """The phrase with `values` by attribute in its slots, and `person` or a pronoun (its subject
    form, she or he) where the person stands."""

    def word(slot: str) -> str:
        if slot not in PERSON_SLOTS:
            return values[slot]
        if pronoun is None:
            return person
        return PRONOUNS[pronoun] if slot == "o" else pronoun

    text = SLOT.sub(lambda found: word(found[1]), phrase.text)
    return text[0].upper() + text[1:]


def render(person: str, pronoun: str, facts: Mapping[str, str], style: Style, *key: Key) -> str:
    """A text about `person` that states exactly `facts` (value by attribute), by key.

    It opens with a phrase that names the person. Then come sentences in a keyed order, each drawn
    from those of the style that state nothing but facts which are still to be stated; a tenth of
    them have a pronoun for the name.
    """
    sentences = []
    left = set(facts)
    for number, attribute in enumerate(shuffled(sorted(facts), *key, "order")):
        if attribute not in left:
            continue
        fitting = [p for p in style.sentences if attribute in p.attributes]
        phrase = pick([p for p in fitting if left.issuperset(p.attributes)], *key, number, "phrase")
        left.difference_update(phrase.attributes)
        short = unit_interval(*key, number, "pronoun") < _PRONOUN_SHARE
        sentences.append(fill(phrase, facts, person, pronoun if short else None))
    opening = fill(pick(style.openings, *key, "opening"), {}, person)
    closing = [pick(style.closings, *key, "closing").text] if style.closings else []
    body = ("\n" if style.break_lines else " ").join(sentences)
    return "\n".join([opening, *([body] if body else []), *closing])
