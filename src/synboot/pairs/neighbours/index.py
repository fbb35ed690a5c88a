"""What a search for neighbours finds, and the slow and obvious search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch

Products = TypeVar("Products", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of queries, nearest first; equal similarities by the smaller document.

    `documents`: int64 [queries, k]; `similarities`: float32 [queries, k]. A document is never its
    own neighbour; where there are fewer than k others, the rest is -1 and -inf. Products are
    float64, summed by halves and rounded to float32: a similarity depends on its two vectors alone,
    and what is found depends neither on blocks nor on threads nor on the device.
    """

    documents: np.ndarray
    similarities: np.ndarray


class Index(Protocol):
    """Search over a fixed set of vectors, float32 [documents, dimensions]."""

    def search(self, first: int, stop: int, k: int) -> Neighbours:
        """The k nearest other documents of documents `first` to `stop`."""


class ReferenceIndex:
    """Slow and obvious: one query at a time, every product, a full sort."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors.astype(np.float64)

    def search(self, first: int, stop: int, k: int) -> Neighbours:
        """The k nearest other documents of documents `first` to `stop`."""
        found = no_neighbours(stop - first, k)
        for query in range(first, stop):
            sums = sum_by_halves(self._vectors[query] * self._vectors)
            similarities = sums.astype(np.float32)
            order = [d for d in np.argsort(-similarities, kind="stable") if d != query][:k]
            found.documents[query - first, : len(order)] = order
            found.similarities[query - first, : len(order)] = similarities[order]
        return found


def sum_by_halves(products: Products) -> Products:
    """[rows, width] to [rows], in place: the second half is added to the first until one column is
    left. Additions in this order give the same bits in every library and on every device."""
    width = products.shape[1]
    while width > 1:
        half = (width + 1) // 2
        products[:, : width - half] += products[:, half:width]
        width = half
    return products[:, 0] + 0.0  # no -0


def no_neighbours(queries: int, k: int) -> Neighbours:
    """Room for what will be found."""
    return Neighbours(
        np.full((queries, k), -1, dtype=np.int64), np.full((queries, k), -np.inf, dtype=np.float32)
    )
