"""Exact search on a GPU: bfloat16 products, settled by exact ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from synboot.pairs.neighbours.index import Neighbours, no_neighbours
from synboot.pairs.neighbours.pool import (
    Pool,
    first_of_equals,
    float32_margins,
    norms_of,
    shared_tensor,
)

_BFLOAT16 = 2.0**-8
"""Twice the largest relative error of one rounding to eight bits."""


class DeviceIndex:
    """What `ExactIndex` finds, bit for bit, computed on a torch device. Vectors are rounded to
    bfloat16 for the products, which the device's matrix units are made for; how much that moves a
    product at most is known from what the rounding left over."""

    def __init__(
        self,
        vectors: np.ndarray,
        device: str,
        *,
        query_block: int = 4096,
        document_block: int = 1 << 16,
    ) -> None:
        self._array = vectors
        self._query_block = query_block
        self._document_block = document_block
        norms = norms_of(vectors)
        self._vectors = shared_tensor(vectors).to(device)
        self._rounded = self._vectors.bfloat16()
        left_over = torch.linalg.vector_norm(self._vectors - self._rounded.float(), dim=1).double()
        # q d - q' d' = (q - q') d + q' (d - d'), then the sum's rounding and the product's own.
        norm = torch.from_numpy(norms).to(device)
        largest, most_left_over = float(norms.max(initial=0)), 0.0
        if len(vectors):
            most_left_over = float(left_over.max())
        rounded, largest_rounded = norm + left_over, largest + most_left_over
        self._margins = (
            1.001 * (left_over * largest + rounded * most_left_over)
            + torch.from_numpy(
                float32_margins(rounded.cpu().numpy(), largest_rounded, vectors.shape[1])
            ).to(device)
            + _BFLOAT16 * rounded * largest_rounded
        )
        self._still = norm == 0
        self._known: dict[int, torch.Tensor] = {}

    def search(self, first: int, stop: int, k: int) -> Neighbours:
        """The k nearest other documents of documents `first` to `stop`."""
        found = no_neighbours(stop - first, k)
        places = self._candidates(k)
        with _full_sums():
            for start in range(first, stop, self._query_block):
                end = min(start + self._query_block, stop)
                best = self._search_block(start, end, places, k)
                rows = slice(start - first, end - first)
                found.documents[rows], found.similarities[rows] = best.documents, best.similarities
        return found

    def _candidates(self, k: int) -> torch.Tensor:
        """The documents that can be among k neighbours, int64, ascending."""
        if k not in self._known:
            kept = first_of_equals(self._array, k)
            places = np.arange(len(self._array)) if kept is None else kept
            self._known = {k: torch.from_numpy(places).to(self._vectors.device)}
        return self._known[k]

    def _search_block(self, first: int, stop: int, places: torch.Tensor, k: int) -> Neighbours:
        queries = torch.arange(first, stop, device=places.device)
        pool = Pool(
            self._vectors,
            queries,
            k,
            margins=self._margins[first:stop],
            still=self._still[first:stop],
        )
        own = torch.searchsorted(places, queries)
        itself = places[own.clamp(max=len(places) - 1)] == queries
        for start in range(0, len(places), self._document_block):
            documents = places[start : start + self._document_block]
            block = self._rounded[start : start + self._document_block]
            if len(places) < len(self._rounded):
                block = self._rounded[documents]
            products = _products(self._rounded[first:stop], block)
            here = (itself & (own >= start) & (own < start + len(block))).nonzero()[:, 0]
            products[here, own[here] - start] = -torch.inf
            if start == 0:
                pool.expect(products)
            rows, columns = (products > _rounded_down(pool.thresholds)[:, None]).nonzero().T
            pool.add(rows, documents[columns], products[rows, columns].float())
        return pool.settle()


def _products(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """bfloat16 [queries, documents], summed in float32."""
    if queries.device.type == "cpu":  # whose own bfloat16 product may sum in bfloat16
        return (queries.float() @ documents.float().T).bfloat16()
    return queries @ documents.T


def _rounded_down(thresholds: torch.Tensor) -> torch.Tensor:
    """The largest bfloat16 numbers that are not above."""
    rounded = thresholds.bfloat16()
    below = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(rounded.float() > thresholds, below, rounded)


@contextlib.contextmanager
def _full_sums() -> Iterator[None]:
    """cuBLAS may else add parts of a sum in bfloat16."""
    before = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = before
