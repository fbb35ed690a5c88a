"""Candidates for neighbours by rounded products, settled by exact ones.

A cheap product (float32, or bfloat16 on a GPU) lies within a proven margin of the similarity that
counts. So whatever is among the k nearest has a cheap product of at least the k-th best one so far
less two margins. Few candidates pass that, and only they are computed in float64.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from pathlib import Path

import numpy as np
import torch

from synboot.core.errors import BadInput, SynbootError
from synboot.core.native import load
from synboot.pairs.neighbours.index import Neighbours, sum_by_halves

_SOURCE = Path(__file__).with_name("similarities.c")
_FLOAT32 = 2.0**-24
"""Largest relative error of one rounding."""
_SECOND_ORDER = 1.01
_UNDERFLOW = 2.0**-125
"""More than a product or a sum loses where tiny numbers are flushed to zero."""
_LARGEST_PRODUCT = 1e37
_CROWD = 64
"""Candidates a query, for each neighbour wanted, before they are thinned out."""
_SMALL_CROWD = 1 << 20
_WAITING = 4
"""Candidates a query that wait before the thresholds are raised."""
_CHUNK = 1024
_LARGE_CHUNK = 1 << 17
"""Of what is narrow, or on a GPU."""
_NARROW = 512
"""Values a row, at most, of which numpy finds the largest ones faster than torch."""

Rows = slice | torch.Tensor


def norms_of(vectors: np.ndarray) -> np.ndarray:
    """float64 [documents]. Raises BadInput for vectors that have no inner product in float32."""
    norms = np.empty(len(vectors))
    for start in range(0, len(vectors), _CHUNK):
        block = vectors[start : start + _CHUNK].astype(np.float64)
        norms[start : start + _CHUNK] = np.sqrt(np.einsum("ij,ij->i", block, block))
    wrong = np.flatnonzero(~(norms**2 < _LARGEST_PRODUCT))  # NaN compares as false
    if wrong.size:
        raise BadInput(
            f"vector {wrong[0]}: expected finite numbers of moderate size, got length "
            f"{norms[wrong[0]]:g}"
        )
    return norms


def float32_margins(norms: np.ndarray, largest: float, dimensions: int) -> np.ndarray:
    """How far a float32 product may be from its similarity, float64 for each of `norms`.

    A sum of n products in any order, fused or not, is off by at most n u / (1 - n u) times the sum
    of their sizes, which is at most the product of the norms; one u more for the similarity's own
    rounding. `largest` is the largest norm on the other side.
    """
    relative = (dimensions + 2) * _FLOAT32 * _SECOND_ORDER
    return relative * norms * largest + 2 * dimensions * _UNDERFLOW


def shared_tensor(vectors: np.ndarray) -> torch.Tensor:
    """The same memory as a tensor, which nobody here writes to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # read-only maps
        return torch.from_numpy(vectors)


class Pool:
    """What may be among the k nearest of some queries.

    `vectors`: float32 [documents, dimensions] on the device where all of this happens; `queries`:
    int64, documents; `margins`: float64, how far a value given to `add` may be from its similarity;
    `still`: bool, queries of length 0, which are as near to one document as to another. Where
    `vectors` are not in the order of documents, `names` say which document each is, int64
    [documents], and all other numbers are rows of `vectors`.
    """

    def __init__(
        self,
        vectors: torch.Tensor,
        queries: torch.Tensor,
        k: int,
        *,
        margins: torch.Tensor,
        still: torch.Tensor,
        names: torch.Tensor | None = None,
    ) -> None:
        self._vectors, self._queries, self._k = vectors, queries, k
        self._margins = margins
        device = vectors.device
        self._names = torch.arange(len(vectors), device=device) if names is None else names
        self.thresholds = torch.full((len(queries),), -torch.inf, device=device)
        """float32 [queries]: a value counts if it is larger."""
        self._best = torch.full((len(queries), k), -torch.inf, device=device)
        self._rows: list[torch.Tensor] = []
        self._documents: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._num_waiting = 0
        self._pending = 0
        self._limit = max(_CROWD * k * len(queries), _SMALL_CROWD)
        self._settle_still(still)

    def expect(self, values: torch.Tensor, rows: Rows = slice(None)) -> None:
        """`values` [queries of `rows`, documents] will be given to `add`, as far as they count."""
        if values.shape[1] > self._k:
            kth = _largest(values, self._k).amin(dim=1)
            self._raise(rows, kth.double() - 2 * self._margins[rows])

    def add(self, rows: torch.Tensor, documents: torch.Tensor, values: torch.Tensor) -> None:
        """Values above the thresholds: `rows` say which query. No document comes twice to a query.
        The thresholds rise when there is enough to make it worth while."""
        self._waiting.append((rows, documents, values))
        self._num_waiting += len(rows)
        if self._num_waiting >= _WAITING * len(self._queries):
            self._merge()

    def _merge(self) -> None:
        """Take in what waits, and raise the thresholds by it."""
        if not self._num_waiting:
            return
        parts = (torch.cat(part) for part in zip(*self._waiting, strict=True))
        rows, documents, values = parts
        self._waiting, self._num_waiting = [], 0
        order = rows.argsort(stable=True)
        rows, documents, values = rows[order], documents[order], values[order]
        self._rows.append(rows)
        self._documents.append(documents)
        self._values.append(values)
        self._pending += len(rows)
        hit, counts = torch.unique_consecutive(rows, return_counts=True)
        width = int(counts.max())
        compact = torch.repeat_interleave(torch.arange(len(hit), device=rows.device), counts)
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[compact]
        merged = torch.full((len(hit), self._k + width), -torch.inf, device=rows.device)
        merged[:, : self._k] = self._best[hit]
        merged[compact, self._k + place] = values
        best = _largest(merged, self._k)
        self._best[hit] = best
        self._raise(hit, best.amin(dim=1).double() - 2 * self._margins[hit])
        if self._pending > self._limit:
            self._thin_out()

    def settle(self) -> Neighbours:
        """The k nearest of what came, by exact similarity."""
        self._merge()
        documents = torch.full_like(self._best, -1, dtype=torch.int64)
        values = torch.full_like(self._best, -torch.inf)
        rows, found, exact, place = self._ranked(*self._joined())
        documents[rows, place], values[rows, place] = self._names[found], exact
        return Neighbours(documents.cpu().numpy(), values.cpu().numpy())

    def _settle_still(self, still: torch.Tensor) -> None:
        """All products are 0: the first documents, and nothing else is let in."""
        rows = still.nonzero()[:, 0]
        if not len(rows):
            return
        first = self._names.argsort()[: self._k + 1]
        rows, documents = rows.repeat_interleave(len(first)), first.repeat(len(rows))
        others = self._queries[rows] != documents
        self.thresholds[still] = torch.inf
        self._rows.append(rows[others])
        self._documents.append(documents[others])
        self._values.append(torch.zeros(len(self._rows[0]), device=rows.device))

    def _raise(self, rows: Rows, thresholds: torch.Tensor) -> None:
        """To just below `thresholds`, float64, where that is more."""
        below = torch.tensor(-torch.inf, device=thresholds.device)
        rounded = torch.nextafter(thresholds.float(), below)
        self.thresholds[rows] = torch.maximum(self.thresholds[rows], rounded)

    def _joined(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if not self._rows:
            none = torch.empty(0, dtype=torch.int64, device=self._vectors.device)
            return none, none, none.float()
        rows, documents = torch.cat(self._rows), torch.cat(self._documents)
        values = torch.cat(self._values)
        thresholds = self.thresholds[rows]
        above = (values > thresholds) | torch.isposinf(thresholds)  # what `_settle_still` took in
        return rows[above], documents[above], values[above]

    def _thin_out(self) -> None:
        """Forget what has fallen below the thresholds; in a crowd of equals, all but the k best."""
        rows, documents, values = self._joined()
        if len(rows) > self._limit // 2:
            rows, documents, values, _ = self._ranked(rows, documents, values)
        self._rows, self._documents, self._values = [rows], [documents], [values]
        self._pending = len(rows)

    def _ranked(
        self, rows: torch.Tensor, documents: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows, documents, similarities and places of the k nearest of each row."""
        exact = similarities(self._vectors, self._queries[rows], documents)
        by_document = self._names[documents].argsort(stable=True)
        by_similarity = by_document[exact[by_document].argsort(stable=True, descending=True)]
        order = by_similarity[rows[by_similarity].argsort(stable=True)]
        rows, documents, exact = rows[order], documents[order], exact[order]
        counts = torch.bincount(rows, minlength=len(self._queries))
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        near = place < self._k
        return rows[near], documents[near], exact[near], place[near]


def similarities(
    vectors: torch.Tensor, queries: torch.Tensor, documents: torch.Tensor
) -> torch.Tensor:
    """Those of pairs of rows of `vectors`, float32 [documents, dimensions], as `Neighbours` has
    them, float32: in C on a CPU with a compiler, the same to the bit elsewhere. The C has one
    thread, like the stages that call it."""
    exact = torch.empty(len(queries), dtype=torch.float32, device=vectors.device)
    on_cpu, (_, width) = vectors.device.type == "cpu", vectors.shape
    in_place = vectors.dtype == torch.float32 and vectors.is_contiguous()
    if on_cpu and in_place and width and (library := _library()) is not None:
        sums = torch.empty(width, dtype=torch.float64, device="cpu")
        named = queries.long().contiguous(), documents.long().contiguous()
        pointers = [ctypes.c_void_p(one.data_ptr()) for one in (vectors, *named, sums, exact)]
        library.similarities(*pointers, ctypes.c_int64(width), ctypes.c_int64(len(queries)))
        return exact
    chunk = _CHUNK if on_cpu else _LARGE_CHUNK
    for start in range(0, len(queries), chunk):
        part = slice(start, start + chunk)
        products = vectors.index_select(0, queries[part]).double()
        products *= vectors.index_select(0, documents[part])
        exact[part] = sum_by_halves(products).float()
    return exact


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return load(_SOURCE)
    except SynbootError:  # nothing is lost but time
        return None


def _largest(values: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest of every row, in no order."""
    width = values.shape[1]
    if values.device.type == "cpu" and width <= _NARROW:  # numpy has them in a third of the time
        parted = np.partition(values.float().numpy(), width - k, axis=1)
        return torch.from_numpy(parted[:, width - k :])
    return values.topk(k, dim=1, sorted=False).values


class Measured:
    """Vectors on a CPU, float32 [documents, dimensions], and what the settling of their float32
    products needs. Raises BadInput as `norms_of` does."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._norms = norms_of(vectors)
        largest = float(self._norms.max(initial=0))
        self._margins = float32_margins(self._norms, largest, vectors.shape[1])
        self._tensor = shared_tensor(vectors)

    def pool(self, queries: np.ndarray, k: int, *, names: torch.Tensor | None = None) -> Pool:
        """For the k nearest of `queries`, int64, rows of the vectors."""
        return Pool(
            self._tensor,
            torch.from_numpy(queries),
            k,
            margins=torch.from_numpy(self._margins[queries]),
            still=torch.from_numpy(self._norms[queries] == 0),
            names=names,
        )


def first_of_equals(vectors: np.ndarray, k: int) -> np.ndarray | None:
    """The documents that can be neighbours: of equal vectors the first k + 1, since equals tie and
    the smaller document comes first. int64, ascending; None if that is all documents.

    A text that a corpus holds ten thousand times would else give each of them ten thousand ties.
    """
    keys = np.empty(len(vectors), dtype=np.uint64)
    for start in range(0, len(vectors), _LARGE_CHUNK):
        keys[start : start + _LARGE_CHUNK] = _key(vectors[start : start + _LARGE_CHUNK, :8])
    in_order = np.sort(keys)
    crowded = in_order[k + 1 :][in_order[k + 1 :] == in_order[: -k - 1]]
    if not crowded.size:
        return None
    members = np.flatnonzero(np.isin(keys, crowded))
    rows = np.ascontiguousarray(vectors[members]) + np.float32(0)  # 0 for -0
    as_bytes = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    _, group = np.unique(as_bytes, return_inverse=True)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keep = np.ones(len(vectors), dtype=bool)
    keep[members[order[place > k]]] = False
    return None if keep.all() else np.flatnonzero(keep)


def _key(numbers: np.ndarray) -> np.ndarray:
    """uint64 for each row, equal for equal rows."""
    bits = (np.ascontiguousarray(numbers) + np.float32(0)).view(np.uint32).astype(np.uint64)
    odd = np.random.Generator(np.random.Philox(0)).integers(0, 2**63, bits.shape[1], np.uint64)
    keys: np.ndarray = (bits * (2 * odd + 1)).sum(axis=1, dtype=np.uint64)
    return keys
