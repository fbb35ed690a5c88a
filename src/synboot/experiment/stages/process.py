"""Setting up a process for a stage's numerics."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from threadpoolctl import threadpool_limits


def set_threads(threads: int) -> None:
    """Let torch and the BLAS behind NumPy and SciPy use exactly so many threads: the number can
    change the last bit of a sum. tokenizers, whose results it cannot change, knows one or all."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    threadpool_limits(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


@contextlib.contextmanager
def own_threads() -> Iterator[None]:
    """What `set_threads` sets inside comes back as it was: a notebook goes on after its call."""
    torch_threads, tokenizers = torch.get_num_threads(), os.environ.get("TOKENIZERS_PARALLELISM")
    with threadpool_limits():
        try:
            yield
        finally:
            torch.set_num_threads(torch_threads)
            if tokenizers is None:
                os.environ.pop("TOKENIZERS_PARALLELISM", None)
            else:
                os.environ["TOKENIZERS_PARALLELISM"] = tokenizers


def ranges(total: int, size: int) -> list[tuple[int, int]]:
    """0 to `total` in ranges of `size`, the last one shorter."""
    return [(start, min(start + size, total)) for start in range(0, total, size)]
