"""One text of several writers: how much each writes, and whose document comes next."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def shares(tokens: int, writers: int) -> list[int]:
    """What each of so many writers writes of a need: equal to the token, the first ones have one
    more where it does not divide (law 7)."""
    each, rest = divmod(tokens, writers)
    return [each + (writer < rest) for writer in range(writers)]


def interleaved(lengths: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(writer, document) of all documents in one order: the next one is of the writer that has the
    fewest tokens so far, the first of such writers. `lengths` are tokens, by writer and document.

    In every prefix that ends before a writer does, writers differ by one document at most. A larger
    need has the same order (law 3), but for where the last document of each writer was cut.
    """
    order = []
    waiting = [(0, writer, 0) for writer, own in enumerate(lengths) if own]
    while waiting:
        tokens, writer, document = heapq.heappop(waiting)
        order.append((writer, document))
        if document + 1 < len(lengths[writer]):
            own = tokens + lengths[writer][document]
            heapq.heappush(waiting, (own, writer, document + 1))
    return order
