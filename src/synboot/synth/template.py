"""How a pair (d1, d2) becomes a row, and a seed document a prompt.

    inputs     start  d1  start  d2
    targets      -    -    d2   END     (- carries no loss)

Where a tokenizer has no start token, END is that too: END d1 END d2 END. The row frames documents
as every training row does, so the base model's weights know what start and END mean; what tuning
adds is that d2 depends on d1. Truncation, for a context of C input positions:

- d1 is cut to its first `C // 2 - 2` tokens, in rows and in prompts alike;
- d2 gets the rest. If it does not fit, it is cut and carries no END, so that the synthesizer
  learns no early end;
- the loss is on d2's tokens and its END, d1 is context (paper, synthesizer-tuning).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.data.batches import IGNORED
from synboot.data.tokens import TokenStore

MIN_CONTEXT = 16


def prompt(d1: np.ndarray, context: int, end_id: int, start_id: int | None = None) -> np.ndarray:
    """start d1 start, int64; `d1` without its END; `start_id` is `end_id` by default. Raises
    BadInput if `context` is below 16."""
    if context < MIN_CONTEXT:
        raise BadInput(
            f"field model.context: {context} positions hold no pair; "
            f"expected {MIN_CONTEXT} at least"
        )
    start = end_id if start_id is None else start_id
    return np.concatenate([[start], d1[: context // 2 - 2], [start]]).astype(np.int64)


def pair_row(
    d1: np.ndarray, d2: np.ndarray, context: int, end_id: int, start_id: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, targets) of a pair, int64 [length <= context]; `d1`, `d2` without their END."""
    before = prompt(d1, context, end_id, start_id)
    sequence = np.concatenate([before, d2, [end_id]])[: context + 1].astype(np.int64)
    targets = sequence[1:].copy()
    targets[: len(before) - 1] = IGNORED
    return sequence[:-1], targets


class PairRows:
    """Rows of ordered pairs of documents, a `Rows`; each pass in an order of its own."""

    def __init__(
        self,
        store: TokenStore,
        pairs: Sequence[tuple[int, int]],
        *,
        context: int,
        end_id: int,
        start_id: int | None = None,
        passes: int = 1,
        seed: int,
    ) -> None:
        if not pairs:
            raise BadInput("no pair is left to tune on; lower pairs.min_similarity")
        self._store = store
        self._context = context
        self._end_id = end_id
        self._start_id = start_id
        self._order = [
            pairs[place]
            for pass_index in range(passes)
            for place in rng(seed, "pair order", pass_index).permutation(len(pairs)).tolist()
        ]
        self.num_rows = len(self._order)

    def num_targets(self, position: int) -> int:
        """d2's tokens that fit, with its END if all of them do."""
        d1, d2 = self._order[position]
        before = len(prompt(self._store[d1][:-1], self._context, self._end_id, self._start_id))
        return min(len(self._store[d2]), self._context + 1 - before)

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets) of the pair at `position`."""
        d1, d2 = self._order[position]
        texts = self._store[d1][:-1], self._store[d2][:-1]
        return pair_row(*texts, self._context, self._end_id, self._start_id)

    def row_lengths(self) -> Counter[int]:
        """How many rows there are of each length, context included, for counting FLOPs."""
        return Counter(len(self.row(position)[0]) for position in range(self.num_rows))
