"""Nearest neighbours of a set of vectors within itself, by inner product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of queries, nearest first; equal similarities by the smaller document.

    `documents`: int64 [queries, k]; `similarities`: float32 [queries, k]. A document is never its
    own neighbour; where there are fewer than k others, the rest is -1 and -inf. Products are
    float64, rounded to float32: equal vectors then have equal similarities, and what is found
    depends neither on blocks nor on threads.
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
        self._vectors = vectors

    def search(self, first: int, stop: int, k: int) -> Neighbours:
        """The k nearest other documents of documents `first` to `stop`."""
        found = _empty(stop - first, k)
        for query in range(first, stop):
            similarities = _products(self._vectors[query : query + 1], self._vectors)[0]
            order = [d for d in np.argsort(-similarities, kind="stable") if d != query][:k]
            found.documents[query - first, : len(order)] = order
            found.similarities[query - first, : len(order)] = similarities[order]
        return found


class ExactIndex:
    """Exact, in blocks: the product of a block of queries with a block of documents, its best k
    merged into the best so far, so that memory is (query block x document block)."""

    def __init__(
        self, vectors: np.ndarray, *, query_block: int = 512, document_block: int = 8192
    ) -> None:
        self._vectors = vectors
        self._query_block = query_block
        self._document_block = document_block

    def search(self, first: int, stop: int, k: int) -> Neighbours:
        """The k nearest other documents of documents `first` to `stop`."""
        found = _empty(stop - first, k)
        for start in range(first, stop, self._query_block):
            end = min(start + self._query_block, stop)
            best = self._search_block(start, end, k)
            rows = slice(start - first, end - first)
            found.documents[rows], found.similarities[rows] = best.documents, best.similarities
        return found

    def _search_block(self, first: int, stop: int, k: int) -> Neighbours:
        best = _empty(stop - first, k)
        queries = np.arange(first, stop)
        for start in range(0, len(self._vectors), self._document_block):
            block = self._vectors[start : start + self._document_block]
            similarities = _products(self._vectors[first:stop], block)
            own = (queries >= start) & (queries < start + len(block))
            similarities[own, queries[own] - start] = -np.inf  # itself, by id and not by rank
            best = _merge(best, np.arange(start, start + len(block)), similarities, k)
        return best


def _products(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    products = queries.astype(np.float64) @ documents.astype(np.float64).T
    return products.astype(np.float32)


def _merge(best: Neighbours, documents: np.ndarray, similarities: np.ndarray, k: int) -> Neighbours:
    """The best k of `best` and a block of candidates; `documents` are all larger than before."""
    all_similarities = np.concatenate([best.similarities, similarities], axis=1)
    all_documents = np.concatenate(
        [best.documents, np.broadcast_to(documents, similarities.shape)], axis=1
    )
    width = all_similarities.shape[1]
    if width > 4 * k:
        # Everything at least as near as the k-th, ties included, then an exact order of those.
        threshold = np.partition(all_similarities, width - k, axis=1)[:, width - k : width - k + 1]
        candidates = int((all_similarities >= threshold).sum(axis=1).max())
        keep = np.argsort(-(all_similarities >= threshold).astype(np.int8), axis=1, kind="stable")
        keep = keep[:, :candidates]
        all_similarities = np.take_along_axis(all_similarities, keep, axis=1)
        all_documents = np.take_along_axis(all_documents, keep, axis=1)
    # The k first columns stand for no document (-1, -inf) until better is found, and they come
    # first among equals: what has -inf in the block, the query itself, never gets in.
    order = np.argsort(-all_similarities, axis=1, kind="stable")[:, :k]
    return Neighbours(
        np.take_along_axis(all_documents, order, axis=1),
        np.take_along_axis(all_similarities, order, axis=1),
    )


def _empty(queries: int, k: int) -> Neighbours:
    return Neighbours(
        np.full((queries, k), -1, dtype=np.int64), np.full((queries, k), -np.inf, dtype=np.float32)
    )
