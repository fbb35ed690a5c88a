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
import torch
from torch.nn import functional

from synboot.core.verdict import Drop
from synboot.data.batches import IGNORED
from synboot.model.flops import Cost, forward_flops

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

    @torch.inference_mode()
    def _nats(self, model: Any, before: np.ndarray, draws: Sequence[np.ndarray]) -> list[float]:
        """Of all of each draw after `before`, in float32. One forward pass for the draws of a seed
        document, so that a score depends on no other document."""
        rows = [np.concatenate([before, draw]) for draw in draws]
        shape = len(rows), max(map(len, rows)) - 1
        inputs = np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        for i, row in enumerate(rows):
            inputs[i, : len(row) - 1] = row[:-1]
            targets[i, len(before) - 1 : len(row) - 1] = row[len(before) :]
        ids = torch.from_numpy(inputs).to(model.device)
        logits = model(input_ids=ids, use_cache=False).logits[..., : self.num_tokens]
        losses = functional.cross_entropy(
            logits.float().transpose(1, 2),
            torch.from_numpy(targets).to(model.device),
            ignore_index=IGNORED,
            reduction="none",
        )
        return [float(nats) for nats in losses.double().sum(1).cpu()]


def scoring_flops(synthesizer: Cost, base: Cost, prompt_length: int, num_tokens: int) -> int:
    """FLOPs of the score of a draw of `num_tokens`, END included; all is computed anew."""
    given = forward_flops(synthesizer, 0, prompt_length + num_tokens - 1)
    return given + forward_flops(base, 0, num_tokens)
