"""Exact search on the CPU: float32 products in blocks, each query with a running threshold."""

from __future__ import annotations

import numpy as np
import torch

from synboot.pairs.neighbours.index import Neighbours, no_neighbours
from synboot.pairs.neighbours.pool import Measured, first_of_equals


class ExactIndex:
    """Exact, in blocks: the product of a block of queries with a block of documents, of which only
    what is above the query's threshold is looked at. Memory is (query block x document block).

    Raises BadInput for vectors with numbers that are not finite.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        *,
        query_block: int = 2048,
        document_block: int = 2048,
    ) -> None:
        self._vectors = vectors
        self._query_block = query_block
        self._document_block = document_block
        self._measured = Measured(vectors)
        self._known: dict[int, np.ndarray] = {}

    def search(self, first: int, stop: int, k: int) -> Neighbours:
        """The k nearest other documents of documents `first` to `stop`."""
        return self.search_documents(np.arange(first, stop), k)

    def search_documents(self, queries: np.ndarray, k: int) -> Neighbours:
        """The k nearest other documents of `queries`, int64 [queries]."""
        found = no_neighbours(len(queries), k)
        places = self._candidates(k)
        for start in range(0, len(queries), self._query_block):
            rows = slice(start, start + self._query_block)
            best = self._search_block(queries[rows], places, k)
            found.documents[rows], found.similarities[rows] = best.documents, best.similarities
        return found

    def _candidates(self, k: int) -> np.ndarray:
        """The documents that can be among k neighbours, int64, ascending."""
        if k not in self._known:
            places = first_of_equals(self._vectors, k)
            self._known = {k: np.arange(len(self._vectors)) if places is None else places}
        return self._known[k]

    def _search_block(self, queries: np.ndarray, places: np.ndarray, k: int) -> Neighbours:
        pool = self._measured.pool(queries, k)
        vectors = self._vectors[queries]
        thresholds = pool.thresholds.numpy()[:, None]
        own = np.searchsorted(places, queries)
        itself = places[np.minimum(own, len(places) - 1)] == queries
        width = min(self._document_block, len(places))
        room = np.empty(len(queries) * width, dtype=np.float32)
        above_room = np.empty(len(queries) * width, dtype=bool)
        for start in range(0, len(places), width):
            documents = places[start : start + width]
            block = self._vectors[start : start + width]
            if len(places) < len(self._vectors):
                block = self._vectors[documents]  # again for each block: never all of them at once
            size = len(queries) * len(block)
            products = room[:size].reshape(len(queries), len(block))
            above = above_room[:size].reshape(len(queries), len(block))
            np.matmul(vectors, block.T, out=products)
            here = np.flatnonzero(itself & (own >= start) & (own < start + len(block)))
            products[here, own[here] - start] = -np.inf
            if start == 0:
                pool.expect(torch.from_numpy(products))
            np.greater(products, thresholds, out=above)
            flat = np.flatnonzero(above)
            rows, columns = np.divmod(flat, len(block))
            pool.add(
                torch.from_numpy(rows),
                torch.from_numpy(documents[columns]),
                torch.from_numpy(room[flat]),
            )
        return pool.settle()
