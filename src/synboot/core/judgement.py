"""What a judge says of a synthetic text, and what a judge is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Judgement:
    """Of one text: whether it states something false, and whether it is about something else than
    its seed document. None where the judge cannot say, or was not asked (a text without a seed)."""

    non_factual: bool | None
    irrelevant: bool | None


class Judge(Protocol):
    """Judges texts, each beside the seed document that it was drawn from."""

    def describe(self) -> Mapping[str, Any]:
        """What its judgements depend on: its name, every prompt, model and setting."""
        ...

    def judge(self, texts: Sequence[str], seeds: Sequence[str | None]) -> Sequence[Judgement]:
        """One judgement for each text, in their order; `seeds` are texts of seed documents."""
        ...
