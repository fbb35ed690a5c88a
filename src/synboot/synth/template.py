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
from synboot.data.packing import first_fit
from synboot.data.tokens import TokenStore

MIN_CONTEXT = 16


def prompt(d1: np.ndarray, context: int, end_id: int, start_id: int | None = None) -> np.ndarray:
    """start d1 start, int64; `d1` without its END; `start_id` is `end_id` by default. Raises
    BadInput if `context` is below 16."""
    _check_context(context)
    start = end_id if start_id is None else start_id
    return np.concatenate([[start], d1[: context // 2 - 2], [start]]).astype(np.int64)


def _check_context(context: int) -> None:
    if context < MIN_CONTEXT:
        raise BadInput(
            f"field model.context: {context} positions hold no pair; "
            f"expected {MIN_CONTEXT} at least"
        )


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
    """Rows of ordered pairs of documents, a `PackedRows`; each pass in an order of its own.

    Without `packed` a row has one pair. With it, as many as fit, first fit in the order of the
    pass, and padding up to `context`, which carries no loss.
    """

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
        packed: bool = False,
    ) -> None:
        if not pairs:
            raise BadInput("no pair is left to tune on; lower pairs.min_similarity")
        self._store = store
        self._context = context
        self._end_id = end_id
        self._start_id = start_id
        _check_context(context)
        self.packed = packed
        self._rows: list[list[tuple[int, int]]] = []
        for pass_index in range(passes):
            order = rng(seed, "pair order", pass_index).permutation(len(pairs)).tolist()
            lengths = [self._length(pairs[place]) for place in order]
            rows = first_fit(lengths, context) if packed else [[i] for i in range(len(order))]
            self._rows += [[pairs[order[i]] for i in row] for row in rows]
        self.num_rows = len(self._rows)

    def num_pairs(self, position: int) -> int:
        """How many pairs a row has."""
        return len(self._rows[position])

    def num_targets(self, position: int) -> int:
        """Of each pair d2's tokens that fit, with its END if all of them do."""
        return sum(self._length(pair) - self._before(pair) + 1 for pair in self._rows[position])

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets) of the pairs at `position`, int64 [length <= context]."""
        rows = [
            pair_row(
                self._store[d1][:-1],
                self._store[d2][:-1],
                self._context,
                self._end_id,
                self._start_id,
            )
            for d1, d2 in self._rows[position]
        ]
        padding = self._padding(position)
        inputs = [*(row[0] for row in rows), np.zeros(padding, dtype=np.int64)]
        targets = [*(row[1] for row in rows), np.full(padding, IGNORED)]
        return np.concatenate(inputs), np.concatenate(targets)

    def positions(self, position: int) -> np.ndarray:
        """The place of each input in its own pair, int64 [length]; padding counts on its own."""
        lengths = [*map(self._length, self._rows[position]), self._padding(position)]
        return np.concatenate([np.arange(length) for length in lengths])

    def row_lengths(self) -> Counter[int]:
        """How many pairs there are of each length, d1 included, for counting FLOPs: attention is
        within a pair."""
        return Counter(self._length(pair) for row in self._rows for pair in row)

    def _padding(self, position: int) -> int:
        pairs = self._rows[position]
        return self._context - sum(map(self._length, pairs)) if self.packed else 0

    def _before(self, pair: tuple[int, int]) -> int:
        """Positions of the prompt."""
        return min(len(self._store[pair[0]]) - 1, self._context // 2 - 2) + 2

    def _length(self, pair: tuple[int, int]) -> int:
        """Positions of the pair's row."""
        return min(self._before(pair) + len(self._store[pair[1]]) - 1, self._context)
