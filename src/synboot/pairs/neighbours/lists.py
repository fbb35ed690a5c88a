"""Approximate search: documents in lists by k-means, each query compared with the lists nearest to
it; what is found is settled exactly, and how much of the exact answer it is has been measured.

Queries are taken in the order of the lists, so that those that look at one list do so together, in
one product.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix

from synboot.core.arrays import write_rows
from synboot.core.errors import GateFellShort
from synboot.core.rng import rng
from synboot.core.storage import atomic_file, read_json, write_json
from synboot.pairs.neighbours.exact import ExactIndex
from synboot.pairs.neighbours.index import Neighbours, no_neighbours
from synboot.pairs.neighbours.pool import (
    Measured,
    Pool,
    first_of_equals,
    shared_tensor,
)

_ITERATIONS = 8
_SAMPLE_PER_LIST = 64
_BLOCK = 8192
_PRODUCTS = 1 << 23
"""Products that are held at once."""
_RECALL_QUERIES = 1000
_MOST_OF_LISTS = 0.5
"""Looking at more of the lists than that is no faster than looking at all documents."""
_ARRAYS = ("centroids", "order", "offsets", "members")
_VECTORS = "vectors.npy"


@dataclass(frozen=True)
class Lists:
    """Documents in lists. A place is a document's number in the order of the lists."""

    centroids: np.ndarray
    """float32 [lists, dimensions], neighbouring lists near each other."""
    order: np.ndarray
    """int64 [documents]: the document at each place."""
    offsets: np.ndarray
    """int64 [lists + 1]: the places of a list."""
    members: np.ndarray
    """int64 [lists]: so many of its documents, the first ones, can be found; the others equal k + 1
    of them, see `first_of_equals`."""

    def save(self, directory: Path, vectors: np.ndarray) -> None:
        """Write every array, and `vectors`, those of the documents, in the order of places."""
        for name in _ARRAYS:
            with atomic_file(directory / f"{name}.npy") as file:
                np.save(file, getattr(self, name), allow_pickle=False)
        count = len(self.order)
        blocks = (vectors[self.order[start : start + _BLOCK]] for start in range(0, count, _BLOCK))
        with atomic_file(directory / _VECTORS) as file:
            write_rows(file, count, blocks)

    @classmethod
    def load(cls, directory: Path) -> Lists:
        """What `save` wrote, memory-mapped; the vectors stay where they are."""
        arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return cls(**arrays)


@dataclass(frozen=True)
class Probes:
    """How many lists a query looks at, and which share of the exact neighbours of `queries` sampled
    documents is in these lists, with its standard error."""

    lists: int
    recall: float
    error: float
    queries: int

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, self.__dict__)

    @classmethod
    def load(cls, path: Path) -> Probes:
        """What `save` wrote."""
        return cls(**read_json(path))


def build_lists(vectors: np.ndarray, k: int, *, seed: int, lists: int | None = None) -> Lists:
    """k-means by inner product over a keyed sample; every document is in the list of the centroid
    nearest to it. By default there are about as many lists as documents in a list."""
    count = len(vectors)
    number = min(count, lists or max(1, round(count**0.5)))
    random = rng(seed, "lists")
    sample = np.sort(random.permutation(count)[: number * _SAMPLE_PER_LIST])
    centroids = _in_a_row(_k_means(vectors[sample], number, random))
    nearest = _nearest(vectors, centroids)
    findable = first_of_equals(vectors, k)
    hidden = np.zeros(count, dtype=bool)
    if findable is not None:
        hidden[:] = True
        hidden[findable] = False
    order = np.lexsort((hidden, nearest))  # stable: documents ascend within either kind
    offsets = np.searchsorted(nearest[order], np.arange(number + 1))
    members = np.bincount(nearest[~hidden], minlength=number)
    return Lists(centroids, order, offsets, members)


def choose_probes(
    lists: Lists, vectors: np.ndarray, k: int, *, min_recall: float, seed: int
) -> Probes:
    """The fewest lists to look at for a recall of `min_recall` by two standard errors, on a keyed
    sample of queries against exact search. Raises GateFellShort where half of the lists, beyond
    which lists save nothing, do not have it."""
    count, number = len(vectors), len(lists.centroids)
    queries = np.sort(rng(seed, "recall").permutation(count)[:_RECALL_QUERIES])
    exact = ExactIndex(vectors).search_documents(queries, k).documents
    list_of = np.empty(count, dtype=np.int64)
    list_of[lists.order] = np.repeat(np.arange(number), np.diff(lists.offsets))
    near = vectors[queries] @ lists.centroids.T
    near[np.arange(len(queries)), list_of[queries]] = np.inf
    rank = np.argsort(np.argsort(-near, axis=1, kind="stable"), axis=1, kind="stable")
    there = exact >= 0
    found_at = np.take_along_axis(rank, list_of[exact], axis=1)
    still = ~vectors[queries].any(axis=1)
    found_at[still] = 0  # settled without any list
    most = max(1, int(number * _MOST_OF_LISTS))
    for probes in range(1, most + 1):
        shares = ((found_at < probes) & there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        shares = shares[there.any(axis=1)]
        if not shares.size:
            return Probes(probes, 1.0, 0.0, 0)
        recall, error = float(shares.mean()), float(shares.std() / len(shares) ** 0.5)
        if recall - 2 * error >= min_recall:
            return Probes(probes, recall, error, len(shares))
    raise GateFellShort(
        f"field pairs.min_recall: {most} of {number} lists hold {recall:.3f} (standard error "
        f"{error:.3f}) of the exact neighbours of {len(shares)} sampled documents, below "
        f"{min_recall:g}; take pairs.index=exact"
    )


def list_flops(lists: Lists, probes: Probes) -> int:
    """Of building the lists, of measuring their recall and of searching them for all documents,
    as if every list had the mean number of documents."""
    number, dimensions = map(int, lists.centroids.shape)
    count = len(lists.order)
    sample = min(count, number * _SAMPLE_PER_LIST)
    building = number * (_ITERATIONS * sample + count + number)
    measuring = min(count, _RECALL_QUERIES) * (count + number)
    searching = count * (number + probes.lists * -(-count // number))
    return 2 * dimensions * (building + measuring + searching)


class ListIndex:
    """Search in the `probes` lists nearest to each query, its own list always among them.

    What is found has its exact similarity and order; what lies in other lists is missed.
    `vectors`: float32 [documents, dimensions], in the order of places.
    """

    def __init__(self, lists: Lists, vectors: np.ndarray, probes: int) -> None:
        self._lists = lists
        self._vectors = vectors
        self._probes = min(probes, len(lists.centroids))
        self._measured = Measured(vectors)
        self._place = np.empty(len(lists.order), dtype=np.int64)
        self._place[lists.order] = np.arange(len(lists.order))

    @classmethod
    def load(cls, directory: Path, probes: int) -> ListIndex:
        """Of what `Lists.save` wrote, memory-mapped."""
        vectors = np.load(directory / _VECTORS, mmap_mode="r")
        return cls(Lists.load(directory), vectors, probes)

    def search(self, first: int, stop: int, k: int) -> Neighbours:
        """The nearest other documents of documents `first` to `stop`."""
        places = self._place[first:stop]
        order = np.argsort(places)
        best = self._search(places[order], k)
        found = no_neighbours(stop - first, k)
        found.documents[order], found.similarities[order] = best.documents, best.similarities
        return found

    def search_places(self, first: int, stop: int, k: int) -> Neighbours:
        """The same for places `first` to `stop`, which is faster: their lists are the same ones."""
        return self._search(np.arange(first, stop), k)

    def _search(self, places: np.ndarray, k: int) -> Neighbours:
        found = no_neighbours(len(places), k)
        for start in range(0, len(places), _BLOCK):
            rows = slice(start, start + _BLOCK)
            best = self._search_block(places[rows], k)
            found.documents[rows], found.similarities[rows] = best.documents, best.similarities
        return found

    def _search_block(self, places: np.ndarray, k: int) -> Neighbours:
        lists = self._lists
        vectors = self._vectors[places]
        pool = self._measured.pool(places, k, names=shared_tensor(lists.order))
        own = np.searchsorted(lists.offsets, places, side="right") - 1
        near = vectors @ lists.centroids.T
        near[np.arange(len(places)), own] = np.inf
        probed = np.argpartition(-near, self._probes - 1, axis=1)[:, : self._probes]
        rows = np.repeat(np.arange(len(places)), self._probes)
        others = probed.ravel() != own[rows]
        self._visit(pool, vectors, places, np.arange(len(places)), own)
        self._visit(pool, vectors, places, rows[others], probed.ravel()[others])
        return pool.settle()

    def _visit(
        self,
        pool: Pool,
        vectors: np.ndarray,
        places: np.ndarray,
        rows: np.ndarray,
        probed: np.ndarray,
    ) -> None:
        """The product of every list that is `probed` with all `rows` that do so."""
        thresholds = pool.thresholds.numpy()
        order = np.argsort(probed, kind="stable")
        starts = np.flatnonzero(np.diff(probed[order], prepend=-1)).tolist()
        for start, end in zip(starts, [*starts[1:], len(order)], strict=False):
            number = int(probed[order[start]])
            first = int(self._lists.offsets[number])
            members = self._vectors[first : first + int(self._lists.members[number])]
            if not len(members):
                continue
            step = max(1, _PRODUCTS // len(members))
            for low in range(start, end, step):
                some = rows[order[low : min(low + step, end)]]
                products = vectors[some] @ members.T
                column = places[some] - first
                itself = np.flatnonzero((column >= 0) & (column < len(members)))
                products[itself, column[itself]] = -np.inf
                if np.isneginf(thresholds[some[0]]):
                    pool.expect(torch.from_numpy(products), torch.from_numpy(some))
                flat = np.flatnonzero(products > thresholds[some, None])
                row, column = np.divmod(flat, len(members))
                pool.add(
                    torch.from_numpy(some[row]),
                    torch.from_numpy(first + column),
                    torch.from_numpy(products.ravel()[flat]),
                )


def _k_means(sample: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    centroids = _unit(sample[np.sort(random.permutation(len(sample))[:number])])
    for _ in range(_ITERATIONS):
        nearest = _nearest(sample, centroids)
        ones = np.ones(len(sample), dtype=np.float32)
        belongs = csr_matrix((ones, (nearest, np.arange(len(sample)))), (number, len(sample)))
        sums = belongs @ sample
        empty = np.bincount(nearest, minlength=number) == 0
        centroids = np.where(empty[:, None], centroids, _unit(sums))
    return centroids


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.where(norms > 0, norms, np.float32(1))
    return unit


def _nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The centroid nearest to each vector, int64."""
    nearest = np.empty(len(vectors), dtype=np.int64)
    step = max(1, _PRODUCTS // len(centroids))
    for start in range(0, len(vectors), step):
        block = slice(start, start + step)
        nearest[block] = (vectors[block] @ centroids.T).argmax(axis=1)
    return nearest


def _in_a_row(centroids: np.ndarray) -> np.ndarray:
    """Each after the one that it is nearest to, as far as it is free."""
    near = centroids @ centroids.T
    order = [0]
    for _ in range(len(centroids) - 1):
        near[:, order[-1]] = -np.inf
        order.append(int(near[order[-1]].argmax()))
    return centroids[order]
