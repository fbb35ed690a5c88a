"""Nearest neighbours: exact beside torch and faiss, in lists beside faiss, hnswlib, usearch, scann.

Exact search is that of 200,000 unit vectors of 256 dimensions (`--quick`: 20,000) within
themselves, k = 20. Beyond 20,000 vectors a part of the queries is searched in all vectors and the
seconds are scaled to all queries. Search in lists is that of all sections of Wikipedia below
SYNBOOT_DATA as `lsa` places them, else of generated clusters. Every peer is given the settings of
lowest cost at which it finds 0.95 of the exact neighbours of sampled documents; building its index
counts. Ours chooses its own, as a run does, and measuring that counts too.

faiss is made for batches of queries and, like all peers here, is given all queries in one call.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.harness import Result, Setting, compare, paired
from synboot.pairs.encoders.lsa import LsaEncoder
from synboot.pairs.neighbours.exact import ExactIndex
from synboot.pairs.neighbours.lists import ListIndex, build_lists, choose_probes

K = 20
DIMENSIONS = 256
RECALL = 0.95
SAMPLE = 1000
BLOCK = 2048


def run(setting: Setting) -> list[Result]:
    """Exact, then approximate."""
    vectors = unit_vectors(20_000 if setting.quick else 200_000)
    results = exact(vectors, queries=2048 if setting.quick else 4096, rounds=3)
    return results + approximate(embeddings(5_000 if setting.quick else None), setting)


def unit_vectors(count: int) -> np.ndarray:
    """Independent directions: float32 [count, DIMENSIONS]."""
    vectors = np.random.default_rng(0).standard_normal((count, DIMENSIONS), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def embeddings(limit: int | None) -> np.ndarray:
    """What `lsa` makes of the sections below SYNBOOT_DATA; clusters where that is not set."""
    if "SYNBOOT_DATA" not in os.environ:
        print("SYNBOOT_DATA is not set: generated clusters")
        random = np.random.default_rng(1)
        count = limit or 70_000
        centres = random.standard_normal((count // 50, DIMENSIONS), dtype=np.float32)
        noise = random.standard_normal((count, DIMENSIONS), dtype=np.float32)
        vectors = centres[random.integers(len(centres), size=count)] + noise
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    folder = Path(os.environ["SYNBOOT_DATA"]) / "enwiki_sec"
    texts: list[str] = []
    for file in sorted(folder.glob("*.parquet")):
        texts += pq.read_table(file, columns=["text"])["text"].to_pylist()
    texts = texts[:limit]
    encoder = LsaEncoder.fit(texts[:20_000], dimensions=DIMENSIONS, seed=0)
    return encoder.encode(texts)


# --- Exact ---------------------------------------------------------------------------------------


def exact(vectors: np.ndarray, *, queries: int, rounds: int) -> list[Result]:
    """Seconds of a self-join, from `queries` of it."""
    count = len(vectors)
    found: dict[str, np.ndarray] = {}
    work: dict[str, Callable[[], object]] = {
        "ours": lambda: found.update(ours=ExactIndex(vectors).search(0, queries, K).documents),
        "torch blocks + topk": lambda: found.update(torch=torch_blocks(vectors, queries)),
        "GEMM alone": lambda: products_alone(vectors, queries),
    }
    faiss = peer_module("faiss", "faiss-cpu")
    if faiss is not None:
        flat = faiss.IndexFlatIP(DIMENSIONS)
        flat.add(vectors)
        work["faiss IndexFlatIP"] = lambda: found.update(
            faiss=without_itself(flat.search(vectors[:queries], K + 1)[1], np.arange(queries))
        )
    scale = count / queries
    medians = {name: s * scale for name, s in paired(work, rounds, warm=False).items()}
    print(f"exact: {queries:,} of {count:,} queries are timed, and scaled by {scale:.4g}")
    for name in found.keys() - {"ours"}:
        same = np.mean(np.sort(found[name], axis=1) == np.sort(found["ours"], axis=1))
        print(f"exact: {same:.6f} of the neighbours are those of {name}, whose last bits differ")
    case = f"exact, {count:,} x {DIMENSIONS}, k={K}"
    return compare("neighbours", case, medians, unit="s", limit="GEMM alone")


def torch_blocks(vectors: np.ndarray, queries: int) -> np.ndarray:
    """Blocks of queries and documents, and the best of the best."""
    documents = torch.from_numpy(vectors)
    found = []
    for start in range(0, queries, BLOCK):
        block = documents[start : min(start + BLOCK, queries)]
        values = torch.full((len(block), K), -torch.inf)
        best = torch.full((len(block), K), -1)
        for low in range(0, len(documents), 4 * BLOCK):
            products = block @ documents[low : low + 4 * BLOCK].T
            for row in range(max(start, low), min(start + len(block), low + products.shape[1])):
                products[row - start, row - low] = -torch.inf
            near = products.topk(min(K, products.shape[1]), dim=1)
            values, order = torch.cat([values, near.values], dim=1).topk(K, dim=1)
            best = torch.cat([best, near.indices + low], dim=1).gather(1, order)
        found.append(best)
    return torch.cat(found).numpy()


def products_alone(vectors: np.ndarray, queries: int) -> None:
    """The same products, and nothing done with them."""
    room = np.empty((BLOCK, 4 * BLOCK), dtype=np.float32)
    for start in range(0, queries, BLOCK):
        block = vectors[start : min(start + BLOCK, queries)]
        for low in range(0, len(vectors), 4 * BLOCK):
            documents = vectors[low : low + 4 * BLOCK]
            np.matmul(block, documents.T, out=room[: len(block), : len(documents)])


# --- Approximate ---------------------------------------------------------------------------------


class Peer(NamedTuple):
    """A library's index of one structure."""

    library: str
    structure: str
    build: Callable[[], Any]
    ask: Callable[[Any, np.ndarray, int], np.ndarray]
    """(index, queries, effort) to documents [queries, K]."""
    efforts: Sequence[int]
    """Rising; the first that reaches RECALL is taken."""


class Tuned(NamedTuple):
    """A peer, the effort that it needs, and the seconds that building and asking would take."""

    peer: Peer
    effort: int
    recall: float
    seconds: float


def approximate(vectors: np.ndarray, setting: Setting) -> list[Result]:
    """Seconds of building an index and of a whole self-join with it."""
    count = len(vectors)
    queries = np.sort(np.random.default_rng(2).permutation(count)[:SAMPLE])
    truth = ExactIndex(vectors).search_documents(queries, K).documents
    found: dict[str, np.ndarray] = {}
    work: dict[str, Callable[[], object]] = {"ours": lambda: found.update(ours=in_lists(vectors))}
    for peers in (faiss_ivf, faiss_hnsw, hnswlib_hnsw, usearch_hnsw, scann_tree):
        best: Tuned | None = None
        for candidate in peers(vectors):
            this = tuned(candidate, vectors, queries, truth)
            short, best_short = this.recall < RECALL, best is not None and best.recall < RECALL
            if best is None or (short, this.seconds) < (best_short, best.seconds):
                best = this
        if best is not None:
            short = "" if best.recall >= RECALL else f", recall {best.recall:.3f}"
            name = f"{best.peer.library} {best.peer.structure}, effort {best.effort}{short}"
            work[name] = partial(_keep, found, name, best, vectors)
    medians = paired(work, 3 if setting.quick else 1, warm=setting.quick)
    for name, documents in found.items():
        reached = recall(documents[queries], truth)
        print(f"approximate: recall {reached:.4f}, {medians[name]:.1f} s, {name}")
    case = f"approximate, {count:,} x {vectors.shape[1]}, k={K}, recall >= {RECALL}"
    return compare("neighbours", case, medians, unit="s")


def in_lists(vectors: np.ndarray) -> np.ndarray:
    """All that the stage does with `pairs.index: lists`."""
    lists = build_lists(vectors, K, seed=0)
    probes = choose_probes(lists, vectors, K, min_recall=RECALL, seed=0)
    index = ListIndex(lists, vectors[lists.order], probes.lists)
    found = index.search_places(0, len(vectors), K).documents
    documents = np.empty_like(found)
    documents[lists.order] = found
    return documents


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """The share of `truth` that is in `found`, mean over queries."""
    hits = [np.isin(a[a >= 0], b).mean() for a, b in zip(truth, found, strict=True) if a[0] >= 0]
    return float(np.mean(hits))


def tuned(peer: Peer, vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> Tuned:
    """The peer at the first effort that is enough, else at its last."""
    start = time.perf_counter()
    index = peer.build()
    building = time.perf_counter() - start
    for effort in peer.efforts:
        start = time.perf_counter()
        found = without_itself(peer.ask(index, vectors[queries], effort), queries)
        asking = (time.perf_counter() - start) * len(vectors) / len(queries)
        this = Tuned(peer, effort, recall(found, truth), building + asking)
        print(
            f"tuning: {peer.library} {peer.structure}, effort {effort}: recall {this.recall:.4f}, "
            f"{building:.1f} s + {asking:.1f} s",
            flush=True,
        )
        if this.recall >= RECALL:
            break
    return this


def _keep(found: dict[str, np.ndarray], name: str, best: Tuned, vectors: np.ndarray) -> None:
    index = best.peer.build()
    asked = best.peer.ask(index, vectors, best.effort)
    found[name] = without_itself(asked, np.arange(len(vectors)))


def without_itself(found: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """[queries, K + 1] without each query's own number, else without the last: [queries, K]."""
    own = found == queries[:, None]
    own[:, -1] |= ~own.any(axis=1)
    own &= own.cumsum(axis=1) == 1
    return found[~own].reshape(len(found), -1).astype(np.int64)


def peer_module(module: str, package: str) -> Any:
    """A peer, or None with a line that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        print(f"not installed: pip install {package}")
        return None


EFFORTS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
GRAPH_EFFORTS = tuple(effort for effort in EFFORTS if effort > K)


def faiss_ivf(vectors: np.ndarray) -> Iterator[Peer]:
    """Inverted lists without compression."""
    faiss = peer_module("faiss", "faiss-cpu")
    root = len(vectors) ** 0.5

    def build(lists: int) -> Any:
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(DIMENSIONS), DIMENSIONS, lists, faiss.METRIC_INNER_PRODUCT
        )
        index.train(vectors[: 64 * lists])
        index.add(vectors)
        return index

    def ask(index: Any, queries: np.ndarray, effort: int) -> np.ndarray:
        index.nprobe = effort
        found: np.ndarray = index.search(queries, K + 1)[1]
        return found

    for lists in (round(root), round(2 * root)) if faiss else ():
        yield Peer("faiss IVFFlat", f"{lists} lists", partial(build, lists), ask, EFFORTS)


def faiss_hnsw(vectors: np.ndarray) -> Iterator[Peer]:
    """faiss's graph."""
    faiss = peer_module("faiss", "faiss-cpu")

    def build(links: int) -> Any:
        index = faiss.IndexHNSWFlat(DIMENSIONS, links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 80
        index.add(vectors)
        return index

    def ask(index: Any, queries: np.ndarray, effort: int) -> np.ndarray:
        index.hnsw.efSearch = effort
        found: np.ndarray = index.search(queries, K + 1)[1]
        return found

    for links in (8, 16) if faiss else ():
        yield Peer("faiss HNSW", f"M {links}", partial(build, links), ask, GRAPH_EFFORTS)


def hnswlib_hnsw(vectors: np.ndarray) -> Iterator[Peer]:
    """The graph of the paper's authors."""
    hnswlib = peer_module("hnswlib", "hnswlib")

    def build(links: int) -> Any:
        index = hnswlib.Index("ip", DIMENSIONS)
        index.init_index(len(vectors), M=links, ef_construction=80)
        index.set_num_threads(torch.get_num_threads())
        index.add_items(vectors)
        return index

    def ask(index: Any, queries: np.ndarray, effort: int) -> np.ndarray:
        index.set_ef(effort)
        found: np.ndarray = index.knn_query(queries, K + 1)[0].astype(np.int64)
        return found

    for links in (8, 16) if hnswlib else ():
        yield Peer("hnswlib", f"M {links}", partial(build, links), ask, GRAPH_EFFORTS)


def usearch_hnsw(vectors: np.ndarray) -> Iterator[Peer]:
    """usearch's graph, in float32."""
    usearch = peer_module("usearch.index", "usearch")
    numbers = np.arange(len(vectors), dtype=np.uint64)

    def build(links: int) -> Any:
        index = usearch.Index(
            ndim=DIMENSIONS, metric="ip", dtype="f32", connectivity=links, expansion_add=80
        )
        index.add(numbers, vectors, threads=torch.get_num_threads())
        return index

    def ask(index: Any, queries: np.ndarray, effort: int) -> np.ndarray:
        index.expansion_search = effort
        found = index.search(queries, K + 1, threads=torch.get_num_threads())
        keys: np.ndarray = found.keys.astype(np.int64)
        return keys

    for links in (8, 16) if usearch else ():
        yield Peer("usearch", f"M {links}", partial(build, links), ask, GRAPH_EFFORTS)


def scann_tree(vectors: np.ndarray) -> Iterator[Peer]:
    """Lists, anisotropic quantisation, and exact order of the best 100."""
    scann = peer_module("scann", "scann")
    lists = round(len(vectors) ** 0.5)

    def build() -> Any:
        builder = scann.scann_ops_pybind.builder(vectors, K + 1, "dot_product")
        builder = builder.tree(lists, 1, training_sample_size=min(len(vectors), 64 * lists))
        return builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()

    def ask(index: Any, queries: np.ndarray, effort: int) -> np.ndarray:
        found: np.ndarray = index.search_batched(queries, leaves_to_search=effort)[0]
        return found.astype(np.int64)

    for _ in range(1 if scann else 0):
        yield Peer("scann", f"{lists} lists", build, ask, EFFORTS)
