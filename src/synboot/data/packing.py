"""Several texts in one row, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_OPEN_ROWS = 64


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Places 0 to len(lengths) in rows whose lengths add up to `capacity` at most: each goes, in
    order, into the oldest row that has room, of the last 64 that were begun. Rows are in the order
    of their first places. Raises ValueError for a length above `capacity`."""
    rows: list[list[int]] = []
    room = np.zeros(_OPEN_ROWS, dtype=np.int64)  # of the last rows, the oldest first
    for place, length in enumerate(lengths):
        if length > capacity:
            raise ValueError(f"{length} positions do not fit into {capacity}")
        fits = room >= length
        slot = int(fits.argmax())
        if fits[slot]:
            rows[len(rows) - _OPEN_ROWS + slot].append(place)
            room[slot] -= length
        else:
            rows.append([place])
            room[:-1] = room[1:]
            room[-1] = capacity - length
    return rows
