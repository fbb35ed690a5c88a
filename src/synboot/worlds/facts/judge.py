"""The exact judge of the facts world: reads a text and compares what it states with the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from synboot.core.judgement import Judgement
from synboot.worlds.facts.parsing import Reading, read
from synboot.worlds.facts.world import FactsWorld, fingerprint

_RULES = {
    "non_factual": "a statement is false; the world is closed, so one about a person who is not in "
    "it is; none can be said of a text that states nothing",
    "irrelevant": "the person whom most statements are about is nobody that the seed document is "
    "about or names as a mentor; none can be said of a text that names nobody",
}


@dataclass(frozen=True)
class FactsJudgement(Judgement):
    """A judgement, and what else was met: `not_understood` (a unit is no phrase of the world),
    `nobody` (a statement is about a person who does not exist). `shares`: how many of the text's
    units are not understood, and how many of its statements false, each of how many."""

    problems: tuple[str, ...] = ()
    shares: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class FactsJudge:
    """A `Judge` for texts of a facts world, made from the world's settings."""

    def __init__(self, world: FactsWorld) -> None:
        self._world = world

    def describe(self) -> Mapping[str, Any]:
        """The world and the two rules."""
        settings = self._world.config.model_dump(mode="json")
        return {
            "name": "facts",
            "world": fingerprint(self._world.config),
            **settings,
            "rules": _RULES,
        }

    def judge(self, texts: Sequence[str], seeds: Sequence[str | None]) -> list[FactsJudgement]:
        """One judgement a text. Raises ValueError where there are not as many seeds as texts."""
        readings: dict[str, Reading] = {}  # a seed document has several draws
        found = []
        for text, seed in zip(texts, seeds, strict=True):
            if seed is not None and seed not in readings:
                readings[seed] = read(seed)
            about = None if seed is None else readings[seed].everyone
            found.append(self._judge(read(text), about))
        return found

    def _judge(self, reading: Reading, seed_persons: set[str] | None) -> FactsJudgement:
        stated = reading.statements
        main = reading.main_person
        num_false = sum(not self._world.holds(*s.fact) for s in stated)
        problems = {
            "not_understood": reading.num_not_understood > 0,
            "nobody": any(not self._world.knows(s.person) for s in stated),
        }
        return FactsJudgement(
            num_false > 0 if stated else None,
            main not in seed_persons if main and seed_persons else None,
            tuple(name for name, met in problems.items() if met),
            {
                "units_not_understood": (reading.num_not_understood, reading.num_units),
                "statements_false": (num_false, len(stated)),
            },
        )
