"""Best of several draws: the one of a seed document that it says most of.

A draw's score is (log p(d2|d1) - log p(d2)) / tokens of d2, its END among them where it was drawn,
in nats: what d1 adds to the likelihood of d2, the pointwise mutual information, a token. In sum it
would mostly choose the longest draw, since what d1 adds grows with d2. p(d2|d1) is the
synthesizer's and p(d2) the base model's: it has learned documents from their start, which a
synthesizer that was never given a pair without d1 has not. Both as they are, at temperature 1 and
without top-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synboot.core.verdict import Drop
from synboot.model.flops import Cost, forward_flops
from synboot.synth.likelihood import nats_after

NOT_BEST = "not_best"


@dataclass(frozen=True)
class BestOf:
    """Of every `size` draws that follow each other, all of one seed document, the best that the
    filters keep; the others are dropped as `not_best`."""

    size: int
    synthesizer: Any
    base: Any
    start_id: int
    num_tokens: int
    """How many first ids may be drawn, as of an engine."""

    def scores(self, prompt: np.ndarray, draws: Sequence[np.ndarray]) -> list[float]:
        """Of each of `draws`, ids with their END where they have one, after `prompt`."""
        given = self._nats(self.synthesizer, prompt, draws)
        alone = self._nats(self.base, np.array([self.start_id], dtype=np.int64), draws)
        return [(b - a) / len(d) for a, b, d in zip(given, alone, draws, strict=True)]

    def verdicts(
        self, prompt: np.ndarray, draws: Sequence[np.ndarray]
    ) -> list[tuple[float, Drop | None]]:
        """The score of each draw that the filters kept, and why it goes; the first of equal ones
        stays."""
        scores = self.scores(prompt, draws)
        best = int(np.argmax(scores))
        return [(s, None if i == best else Drop(NOT_BEST, s)) for i, s in enumerate(scores)]

    def _nats(self, model: Any, before: np.ndarray, draws: Sequence[np.ndarray]) -> list[float]:
        return nats_after(model, [before] * len(draws), draws, self.num_tokens)


def scoring_flops(synthesizer: Cost, base: Cost, prompt_length: int, num_tokens: int) -> int:
    """FLOPs of the score of a draw of `num_tokens`, END included; all is computed anew."""
    given = forward_flops(synthesizer, 0, prompt_length + num_tokens - 1)
    return given + forward_flops(base, 0, num_tokens)
