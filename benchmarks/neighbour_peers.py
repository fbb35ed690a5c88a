"""Indexes of other libraries: lists of faiss and scann, graphs of faiss, hnswlib and usearch.

Each library has ladders of indexes that take longer and longer to build, each with efforts at
which it can be asked; `benchmarks.neighbours` looks for the cheapest that finds enough. A library
that is not installed has no ladder, and a line that says how to get it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.harness import note

K = 20
"""Neighbours that are asked for, besides the document itself."""
EFFORTS = tuple(sorted({round(1.1**power) for power in range(67)}))
"""1 to 539, a tenth apart."""
GRAPH_EFFORTS = tuple(effort for effort in EFFORTS if effort > K)
LINKS = (8, 16)
CONSTRUCTION = (20, 40, 80, 160)
"""How far a graph looks for the links of a new document."""
LIST_COUNTS = (0.5, 1.0, 2.0)
"""Times the root of the number of documents."""
SAMPLE_PER_LIST = 64


class Peer(NamedTuple):
    """A library's index of one structure."""

    library: str
    structure: str
    build: Callable[[], Any]
    ask: Callable[[Any, np.ndarray, int], np.ndarray]
    """(index, queries, effort) to documents [queries, K + 1]."""
    efforts: Sequence[int]
    """Rising, and recall with them; the first that finds enough is taken."""


Ladder = Sequence[Peer]
"""Peers that take longer and longer to build."""


def peer_module(module: str, package: str) -> Any:
    """A peer, or None with a line that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        note(f"not installed: pip install {package}")
        return None


def faiss_ivf(vectors: np.ndarray) -> Iterator[Ladder]:
    """Inverted lists without compression."""
    faiss = peer_module("faiss", "faiss-cpu")
    dimensions = vectors.shape[1]
    order = np.random.default_rng(3).permutation(len(vectors))

    def build(lists: int) -> Any:
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(dimensions), dimensions, lists, faiss.METRIC_INNER_PRODUCT
        )
        index.train(vectors[order[: SAMPLE_PER_LIST * lists]])
        index.add(vectors)
        return index

    def ask(index: Any, queries: np.ndarray, effort: int) -> np.ndarray:
        index.nprobe = effort
        found: np.ndarray = index.search(queries, K + 1)[1]
        return found

    for lists in list_counts(vectors) if faiss else ():
        yield [Peer("faiss IVFFlat", f"{lists} lists", partial(build, lists), ask, EFFORTS)]


def list_counts(vectors: np.ndarray) -> list[int]:
    """What is tried."""
    return [max(1, round(times * len(vectors) ** 0.5)) for times in LIST_COUNTS]


def graphs(
    library: str,
    build: Callable[[int, int], Any],
    ask: Callable[[Any, np.ndarray, int], np.ndarray],
) -> Iterator[Ladder]:
    """A graph of every number of links, with more and more care in building it."""
    for links in LINKS:
        yield [
            Peer(
                library, f"M {links} construction {c}", partial(build, links, c), ask, GRAPH_EFFORTS
            )
            for c in CONSTRUCTION
        ]


def faiss_hnsw(vectors: np.ndarray) -> Iterator[Ladder]:
    """faiss's graph."""
    faiss = peer_module("faiss", "faiss-cpu")

    def build(links: int, construction: int) -> Any:
        index = faiss.IndexHNSWFlat(vectors.shape[1], links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = construction
        index.add(vectors)
        return index

    def ask(index: Any, queries: np.ndarray, effort: int) -> np.ndarray:
        index.hnsw.efSearch = effort
        found: np.ndarray = index.search(queries, K + 1)[1]
        return found

    return graphs("faiss HNSW", build, ask) if faiss else iter(())


def hnswlib_hnsw(vectors: np.ndarray) -> Iterator[Ladder]:
    """The graph of the paper's authors."""
    hnswlib = peer_module("hnswlib", "hnswlib")

    def build(links: int, construction: int) -> Any:
        index = hnswlib.Index("ip", vectors.shape[1])
        index.init_index(len(vectors), M=links, ef_construction=construction)
        index.set_num_threads(torch.get_num_threads())
        index.add_items(vectors)
        return index

    def ask(index: Any, queries: np.ndarray, effort: int) -> np.ndarray:
        index.set_ef(effort)
        found: np.ndarray = index.knn_query(queries, K + 1)[0].astype(np.int64)
        return found

    return graphs("hnswlib", build, ask) if hnswlib else iter(())


def usearch_hnsw(vectors: np.ndarray) -> Iterator[Ladder]:
    """usearch's graph, in float32."""
    usearch = peer_module("usearch.index", "usearch")
    numbers = np.arange(len(vectors), dtype=np.uint64)

    def build(links: int, construction: int) -> Any:
        index = usearch.Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype="f32",
            connectivity=links,
            expansion_add=construction,
        )
        index.add(numbers, vectors, threads=torch.get_num_threads())
        return index

    def ask(index: Any, queries: np.ndarray, effort: int) -> np.ndarray:
        index.expansion_search = effort
        found = index.search(queries, K + 1, threads=torch.get_num_threads())
        keys: np.ndarray = found.keys.astype(np.int64)
        return keys

    return graphs("usearch", build, ask) if usearch else iter(())


def scann_tree(vectors: np.ndarray) -> Iterator[Ladder]:
    """Lists, anisotropic quantisation, and exact order of the best."""
    scann = peer_module("scann", "scann")
    threads = torch.get_num_threads()

    def build(lists: int, reorder: int) -> Any:
        builder = scann.scann_ops_pybind.builder(vectors, K + 1, "dot_product")
        builder = builder.set_n_training_threads(threads)
        sample = min(len(vectors), SAMPLE_PER_LIST * lists)
        builder = builder.tree(lists, 1, training_sample_size=sample)
        return builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(reorder).build()

    def ask(index: Any, queries: np.ndarray, effort: int) -> np.ndarray:
        search = index.search_batched if threads == 1 else index.search_batched_parallel
        found: np.ndarray = search(queries, leaves_to_search=effort)[0]
        return found.astype(np.int64)

    for lists in list_counts(vectors) if scann else ():
        for reorder in (50, 100, 200):
            structure = f"{lists} lists reorder {reorder}"
            yield [Peer("scann", structure, partial(build, lists, reorder), ask, EFFORTS)]
