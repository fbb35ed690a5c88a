"""An exact plan of training rows from several sources, to the token (laws 4, 7, 14).

The documents of a source, shuffled anew in every pass, form one endless stream that is cut into
rows of `context` targets. A row's input is its targets shifted by one, with the start token (END
itself, where a tokenizer has none) in the place of END, and before the first token of the stream:
a document contributes the inputs `start, text` and the targets `text, END`, and every token of
every document, its END included, is a target exactly once. The budget counts those targets.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.data.tokens import TokenStore

MixtureOrder = Literal["mixed", "synthetic_first"]
REAL = "real"
"""The name of a source of single real documents, which `synthetic_first` has after the others."""

_CACHED_PASSES = 4


@dataclass(frozen=True)
class Source:
    """The first `num_documents` documents of a store, trained on for `budget_tokens` tokens."""

    name: str
    store: TokenStore
    num_documents: int
    budget_tokens: int
    max_passes: float = float("inf")

    @property
    def unique_tokens(self) -> int:
        """Tokens of one pass."""
        return self.store.num_tokens(self.num_documents)


class Stream:
    """The endless token stream of a source; any range of it can be read."""

    def __init__(self, source: Source, seed: int) -> None:
        self._source = source
        self._seed = seed
        self._passes: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` of the stream, int64."""
        per_pass = self._source.unique_tokens
        out = np.empty(stop - start, dtype=np.int64)
        place = start
        while place < stop:
            pass_index, first = divmod(place, per_pass)
            last = min(first + stop - place, per_pass)
            ends, moves = self._pass(pass_index)
            here = slice(ends.searchsorted(first, "right"), ends.searchsorted(last, "left") + 1)
            bounds = np.minimum(ends[here], last)
            counts = np.diff(bounds, prepend=first)
            tokens = np.arange(first, last) + np.repeat(moves[here], counts)
            out[place - start : place - start + last - first] = self._source.store.tokens[tokens]
            place += last - first
        return out

    def _pass(self, pass_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each document of a pass ends in it, and how far from there its place in the store
        is; int64 [documents] both."""
        found = self._passes.get(pass_index)
        if found is None:
            source = self._source
            shuffle = rng(self._seed, "mixture", source.name, pass_index)
            order = shuffle.permutation(source.num_documents)
            ends = np.cumsum(source.store.lengths(source.num_documents)[order])
            moves = source.store.offsets[order + 1] - ends
            if len(self._passes) >= _CACHED_PASSES:
                self._passes.pop(next(iter(self._passes)))
            found = self._passes[pass_index] = (ends, moves)
        return found


class Mixture:
    """The rows of one training run, a `Rows`: which they are and their order depend on seed and
    position alone.

    Rows of all sources are spread evenly over the run, in each source's own order, so that its
    passes follow each other. With the order `synthetic_first`, rows of real documents come after
    all others. Raises BadInput if a source has fewer tokens than its budget and
    may not be repeated, if it is empty, or if no source is left.
    """

    def __init__(
        self,
        sources: list[Source],
        context: int,
        end_id: int,
        seed: int,
        start_id: int | None = None,
        order: MixtureOrder = "mixed",
    ) -> None:
        """`start_id` is `end_id` by default."""
        self.sources = [source for source in sources if source.budget_tokens != 0]
        if not self.sources:
            raise BadInput("no source has a token to train on")
        self.context = context
        self._end_id = end_id
        self._start_id = end_id if start_id is None else start_id
        for source in self.sources:
            unique = source.unique_tokens
            if source.budget_tokens < 0:
                raise BadInput(f"source {source.name}: {source.budget_tokens} tokens asked")
            if unique == 0 or source.budget_tokens > source.max_passes * unique:
                raise BadInput(
                    f"source {source.name}: {source.budget_tokens} tokens asked of "
                    f"{unique}, which may be passed {source.max_passes:g} times"
                )
        self._streams = [Stream(source, seed) for source in self.sources]
        rows = [-(-source.budget_tokens // context) for source in self.sources]
        times = [
            (np.arange(count) + rng(seed, "interleave", source.name).random(count)) / count
            + (order == "synthetic_first" and source.name == REAL)
            for source, count in zip(self.sources, rows, strict=True)
        ]
        self._order = np.argsort(np.concatenate(times), kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(rows)])
        self.num_rows = int(self._starts[-1])

    @property
    def num_tokens(self) -> int:
        """The budget: trained positions over all rows."""
        return sum(source.budget_tokens for source in self.sources)

    def locate(self, position: int) -> tuple[int, int]:
        """(index of the source, first token of the row in its stream) at a position."""
        row = int(self._order[position])
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return index, (row - int(self._starts[index])) * self.context

    def num_targets(self, position: int) -> int:
        """Trained positions of a row: `context`, fewer in the last row of a source."""
        index, start = self.locate(position)
        return min(self.context, self.sources[index].budget_tokens - start)

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets) of a row, int64 [num_targets]."""
        index, start = self.locate(position)
        stop = min(start + self.context, self.sources[index].budget_tokens)
        tokens = self._streams[index].read(max(start - 1, 0), stop)
        if start == 0:
            tokens = np.concatenate([[self._end_id], tokens])
        inputs, targets = tokens[:-1], tokens[1:]
        if self._start_id != self._end_id:
            inputs = np.where(inputs == self._end_id, self._start_id, inputs)
        return inputs, targets

    def row_lengths(self) -> Counter[int]:
        """How many rows there are of each length, for counting FLOPs."""
        lengths: Counter[int] = Counter()
        for source in self.sources:
            lengths[self.context] += source.budget_tokens // self.context
            if rest := source.budget_tokens % self.context:
                lengths[rest] += 1
        return lengths

    def plan(self) -> list[dict[str, int | str | float]]:
        """For each source: tokens of one pass, tokens trained, passes. Their sum is the budget."""
        return [
            {
                "source": source.name,
                "documents": source.num_documents,
                "unique_tokens": source.unique_tokens,
                "tokens": source.budget_tokens,
                "passes": source.budget_tokens / source.unique_tokens,
            }
            for source in self.sources
        ]
