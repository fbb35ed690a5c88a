"""Setting up a process for a stage's numerics."""

from __future__ import annotations

import os

import torch
from threadpoolctl import threadpool_limits


def set_threads(threads: int) -> None:
    """Let torch and the BLAS behind NumPy and SciPy use exactly so many threads: the number can
    change the last bit of a sum. tokenizers, whose results it cannot change, knows one or all."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    threadpool_limits(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


def ranges(total: int, size: int) -> list[tuple[int, int]]:
    """0 to `total` in ranges of `size`, the last one shorter."""
    return [(start, min(start + size, total)) for start in range(0, total, size)]
