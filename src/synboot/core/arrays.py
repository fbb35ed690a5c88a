"""Arrays that are written to disk a block at a time and never whole in memory.

By plain writes, not into a map of the file: a full disk is then an error and not a signal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

import numpy as np


def write_rows(file: IO[bytes], rows: int, blocks: Iterable[np.ndarray]) -> None:
    """The bytes that `np.save` writes for `blocks`, one after another, as one array of `rows`.

    Raises ValueError if they are not of one type and width, or not so many rows.
    """
    kind: tuple[np.dtype, tuple[int, ...]] | None = None
    written = 0
    for block in blocks:
        if kind is None:
            kind = block.dtype, block.shape[1:]
            facts = np.lib.format.header_data_from_array_1_0(block[:0])
            header = facts | {"shape": (rows, *kind[1]), "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, header)
        if (block.dtype, block.shape[1:]) != kind:
            raise ValueError(f"a block of {block.dtype} {block.shape} after others of {kind}")
        file.write(block.tobytes())
        written += len(block)
    if written != rows or kind is None:
        raise ValueError(f"expected {rows} rows in blocks, got {written}")
