from __future__ import annotations

import io

import numpy as np
import pytest

from synboot.core.arrays import write_rows


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("shape", [(23,), (23, 3), (23, 1), (0, 3)])
@pytest.mark.parametrize("dtype", ["f4", "i8", "u8"])
def test_the_bytes_are_those_of_numpy(size: int, shape: tuple[int, ...], dtype: str) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    expected, found = io.BytesIO(), io.BytesIO()
    np.save(expected, array)
    starts = range(0, max(len(array), 1), size)
    write_rows(found, len(array), (np.asfortranarray(array[i : i + size]) for i in starts))
    assert found.getvalue() == expected.getvalue()


def test_blocks_that_do_not_fit_are_refused() -> None:
    block = np.zeros((2, 3), np.float32)
    for blocks in ([], [block], [block] * 3):
        with pytest.raises(ValueError, match="expected 4 rows"):
            write_rows(io.BytesIO(), 4, blocks)
    for other in (block.astype(np.float64), block[:, :2]):
        with pytest.raises(ValueError, match="after others"):
            write_rows(io.BytesIO(), 4, [block, other])
