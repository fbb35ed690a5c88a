"""Nearest neighbours: exact beside torch and faiss, in lists beside faiss, hnswlib, usearch, scann.

Exact search is that of 200,000 unit vectors of 256 dimensions (`--quick`: 20,000) within
themselves, k = 20: a part of the queries is searched in all vectors and its seconds are scaled to
all queries, to which building the index, once, is added. Neighbours must be those of the peers,
but for those that tie with the last.

Search in lists is that of all sections of Wikipedia below SYNBOOT_DATA as `lsa` places them, else
of generated clusters. Every peer is given the settings of lowest cost, building included, at which
it finds 0.95 of the exact neighbours of sampled documents; what is as near as the last of them is
one of them. Ours chooses its own, as a run does, and measuring that counts too.

Ours is searched as by the stage: 2,048 queries at a time (in lists 8,192), by a process of one
thread for every core. Peers are given all queries in one call, and as many threads.
"""

from __future__ import annotations

import bisect
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.harness import Result, Setting, Workers, compare, note, paired
from benchmarks.neighbour_peers import (
    K,
    Ladder,
    Peer,
    faiss_hnsw,
    faiss_ivf,
    hnswlib_hnsw,
    peer_module,
    scann_tree,
    usearch_hnsw,
)
from synboot.experiment.stages.process import own_threads, ranges, set_threads
from synboot.pairs.encoders.lsa import LsaEncoder
from synboot.pairs.neighbours.exact import ExactIndex
from synboot.pairs.neighbours.index import Neighbours
from synboot.pairs.neighbours.lists import ListIndex, build_lists, choose_probes

DIMENSIONS = 256
RECALL = 0.95
SAMPLE = 1000
BLOCK, LIST_BLOCK = 2048, 8192
"""Queries of a part."""
TIE = 1e-5
"""More than float32 products of unit vectors are off."""


def run(setting: Setting) -> list[Result]:
    """Exact, then approximate."""
    vectors = unit_vectors(20_000 if setting.quick else 200_000)
    queries = 2048 if setting.quick else 8192
    results = exact(vectors, queries=queries, rounds=3, threads=setting.threads)
    vectors = embeddings(5_000 if setting.quick else None)
    return results + approximate(vectors, rounds=3, threads=setting.threads)


def unit_vectors(count: int) -> np.ndarray:
    """Independent directions: float32 [count, DIMENSIONS]."""
    vectors = np.random.default_rng(0).standard_normal((count, DIMENSIONS), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def embeddings(limit: int | None) -> np.ndarray:
    """What `lsa` makes of the sections below SYNBOOT_DATA; clusters where that is not set."""
    if "SYNBOOT_DATA" not in os.environ:
        note("SYNBOOT_DATA is not set: generated clusters")
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


def exact(vectors: np.ndarray, *, queries: int, rounds: int, threads: int) -> list[Result]:
    """Seconds of building an index and of a self-join, from `queries` of it."""
    count, dimensions = vectors.shape
    found: dict[str, Any] = {}
    building = {"torch blocks + topk": 0.0, "GEMM alone": 0.0}
    work: dict[str, Callable[[], object]] = {
        "torch blocks + topk": lambda: found.update(torch=torch_blocks(vectors, queries)),
        "GEMM alone": lambda: products_alone(vectors, queries),
    }
    faiss = peer_module("faiss", "faiss-cpu")
    if faiss is not None:
        flat = faiss.IndexFlatIP(dimensions)
        start = time.perf_counter()
        flat.add(vectors)
        building["faiss IndexFlatIP"] = time.perf_counter() - start
        work["faiss IndexFlatIP"] = lambda: found.update(
            faiss=without_itself(flat.search(vectors[:queries], K + 1)[1], np.arange(queries))
        )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "vectors.npy"
        np.save(path, vectors)
        with Workers(threads, open_exact, path) as workers:
            building["ours"] = workers.seconds
            work["ours"] = lambda: found.update(
                ours=joined(workers.map(search_exact, ranges(queries, BLOCK)))
            )
            seconds = paired(work, rounds, warm=False)
    for name in found.keys() - {"ours"}:
        check_equal(vectors, found["ours"], found[name], name)
    scale = count / queries
    medians = {name: building[name] + scale * value for name, value in seconds.items()}
    scaled = f" ({queries:,} queries, scaled)" if scale > 1 else ""
    case = f"exact, {count:,} x {dimensions}, k={K}{scaled}"
    return compare("neighbours", case, medians, unit="s", limit="GEMM alone")


def open_exact(path: Path) -> ExactIndex:
    """An index that is ready to search."""
    index = ExactIndex(np.load(path, mmap_mode="r"))
    index.search(0, 1, K)  # what all searches share
    return index


def search_exact(index: ExactIndex, part: tuple[int, int]) -> Neighbours:
    """The neighbours of a part of the documents."""
    return index.search(*part, K)


def joined(parts: Sequence[Neighbours]) -> Neighbours:
    """Of all parts."""
    documents, similarities = zip(*((p.documents, p.similarities) for p in parts), strict=True)
    return Neighbours(np.concatenate(documents), np.concatenate(similarities))


def check_equal(vectors: np.ndarray, ours: Neighbours, theirs: np.ndarray, name: str) -> None:
    """Raises AssertionError unless `theirs`, documents [queries, k] of the first queries, are ours,
    but for those that tie with the last."""
    last = ours.similarities.min(axis=1)[:, None]
    missed = (ours.similarities > last + TIE) & ~is_among(ours.documents, theirs)
    wrong = similarities(vectors, np.arange(len(theirs)), theirs) < last - TIE
    if missed.any() or wrong.any():
        raise AssertionError(
            f"{name}: {missed.sum()} of our neighbours are missing, {wrong.sum()} others are there"
        )
    note(f"exact: the neighbours are those of {name}")


def is_among(documents: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool [queries, k]: which of a query's documents are in its row of `others`."""
    return np.stack([np.isin(a, b) for a, b in zip(documents, others, strict=True)])


def similarities(vectors: np.ndarray, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """float64 [queries, k]; -inf where a document is -1."""
    found = np.empty(documents.shape)
    for start in range(0, len(queries), 256):
        rows = slice(start, start + 256)
        near = vectors[documents[rows]].astype(np.float64)
        found[rows] = np.einsum("qd,qkd->qk", vectors[queries[rows]].astype(np.float64), near)
    found[documents < 0] = -np.inf
    return found


def torch_blocks(
    vectors: np.ndarray, queries: int, device: torch.device | None = None
) -> np.ndarray:
    """Blocks of queries and documents, and the best of the best."""
    documents = torch.from_numpy(vectors).to(device)
    found = []
    for start in range(0, queries, BLOCK):
        block = documents[start : min(start + BLOCK, queries)]
        values = torch.full((len(block), K), -torch.inf, device=device)
        best = torch.full((len(block), K), -1, device=device)
        for low in range(0, len(documents), 4 * BLOCK):
            products = block @ documents[low : low + 4 * BLOCK].T
            first, stop = max(start, low), min(start + len(block), low + products.shape[1])
            own = torch.arange(first, max(first, stop))
            products[own - start, own - low] = -torch.inf
            near = products.topk(min(K, products.shape[1]), dim=1)
            values, order = torch.cat([values, near.values], dim=1).topk(K, dim=1)
            best = torch.cat([best, near.indices + low], dim=1).gather(1, order)
        found.append(best)
    return torch.cat(found).cpu().numpy()


def products_alone(vectors: np.ndarray, queries: int) -> None:
    """The same products, and nothing done with them."""
    room = np.empty((BLOCK, 4 * BLOCK), dtype=np.float32)
    for start in range(0, queries, BLOCK):
        block = vectors[start : min(start + BLOCK, queries)]
        for low in range(0, len(vectors), 4 * BLOCK):
            documents = vectors[low : low + 4 * BLOCK]
            np.matmul(block, documents.T, out=room[: len(block), : len(documents)])


# --- Approximate ---------------------------------------------------------------------------------


class Tuned(NamedTuple):
    """A peer, the effort that it needs, and the seconds that building and asking would take."""

    peer: Peer
    effort: int
    recall: float
    building: float
    asking: float

    @property
    def seconds(self) -> float:
        """Of both."""
        return self.building + self.asking

    def better_than(self, other: Tuned | None) -> bool:
        """Whether it is the first of both that finds enough, or else the faster one."""
        if other is None:
            return True
        short = self.recall < RECALL, other.recall < RECALL
        return (short[0], self.seconds) < (short[1], other.seconds)


def approximate(vectors: np.ndarray, *, rounds: int, threads: int) -> list[Result]:
    """Seconds of building an index and of a whole self-join with it."""
    count = len(vectors)
    queries = np.sort(np.random.default_rng(2).permutation(count)[:SAMPLE])
    truth = ExactIndex(vectors).search_documents(queries, K)
    found: dict[str, np.ndarray] = {}
    work: dict[str, Callable[[], object]] = {}
    for peers in (faiss_ivf, faiss_hnsw, hnswlib_hnsw, usearch_hnsw, scann_tree):
        best = climbed(peers(vectors), vectors, queries, truth)
        if best is not None:
            short = "" if best.recall >= RECALL else f", recall {best.recall:.3f}"
            name = f"{best.peer.library} {best.peer.structure}, effort {best.effort}{short}"
            work[name] = partial(_keep, found, name, best, vectors)
    with Workers(threads, dict) as workers:
        work["ours"] = lambda: found.update(ours=in_lists(vectors, workers))
        medians = paired(work, rounds, warm=False)
    for name, documents in found.items():
        reached = recall(vectors, queries, documents[queries], truth)
        note(f"approximate: recall {reached:.4f}, {medians[name]:.1f} s, {name}")
    case = f"approximate, {count:,} x {vectors.shape[1]}, k={K}, recall >= {RECALL}"
    return compare("neighbours", case, medians, unit="s")


def in_lists(vectors: np.ndarray, workers: Workers) -> np.ndarray:
    """All that the stage does with `pairs.index: lists`."""
    with own_threads():
        set_threads(1)
        lists = build_lists(vectors, K, seed=0)
        probes = choose_probes(lists, vectors, K, min_recall=RECALL, seed=0)
    with tempfile.TemporaryDirectory() as directory:
        lists.save(Path(directory), vectors)
        parts = [(Path(directory), probes.lists, part) for part in ranges(len(vectors), LIST_BLOCK)]
        found = np.concatenate(workers.map(search_lists, parts))
    documents = np.empty_like(found)
    documents[lists.order] = found
    return documents


def search_lists(opened: dict[Path, ListIndex], asked: tuple[Path, int, Any]) -> np.ndarray:
    """The neighbours of a part of the places; a process opens lists once."""
    directory, probes, (start, stop) = asked
    if directory not in opened:
        opened.clear()
        opened[directory] = ListIndex.load(directory, probes)
    return opened[directory].search_places(start, stop, K).documents


def recall(vectors: np.ndarray, queries: np.ndarray, found: np.ndarray, truth: Neighbours) -> float:
    """How much of its `truth` a query's row of `found` has, the mean of all: other documents, each
    once, that are as near as the last true one."""
    found = np.sort(np.where(found == queries[:, None], -1, found), axis=1)
    found[:, 1:][found[:, 1:] == found[:, :-1]] = -1
    there = (truth.documents >= 0).sum(axis=1)
    last = np.where(truth.documents >= 0, truth.similarities, np.inf).min(axis=1)
    hits = (similarities(vectors, queries, found) >= last[:, None] - TIE).sum(axis=1)
    some = there > 0
    return float(np.mean(np.minimum(hits, there)[some] / there[some]))


def climbed(
    ladders: Iterator[Ladder], vectors: np.ndarray, queries: np.ndarray, truth: Neighbours
) -> Tuned | None:
    """The best peer of all ladders, each climbed until building alone takes longer than the best;
    None if there is none."""
    best: Tuned | None = None
    for ladder in ladders:
        for peer in ladder:
            this = tuned(peer, vectors, queries, truth)
            if this.better_than(best):
                best = this
            elif best is not None and best.recall >= RECALL and this.building > best.seconds:
                break
    return best


def tuned(peer: Peer, vectors: np.ndarray, queries: np.ndarray, truth: Neighbours) -> Tuned:
    """The peer at the least effort that is enough, else at its last."""
    start = time.perf_counter()
    index = peer.build()
    building = time.perf_counter() - start
    tried: dict[int, Tuned] = {}

    def enough(effort: int) -> bool:
        start = time.perf_counter()
        found = without_itself(peer.ask(index, vectors[queries], effort), queries)
        asking = (time.perf_counter() - start) * len(vectors) / len(queries)
        reached = recall(vectors, queries, found, truth)
        tried[effort] = Tuned(peer, effort, reached, building, asking)
        return reached >= RECALL

    place = bisect.bisect_left(peer.efforts, True, key=enough)
    this = tried[peer.efforts[min(place, len(peer.efforts) - 1)]]
    note(
        f"tuning: {peer.library} {peer.structure}, effort {this.effort}: recall {this.recall:.4f}, "
        f"{building:.1f} s + {this.asking:.1f} s"
    )
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
