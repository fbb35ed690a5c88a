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
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

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
FLOOR = 0.0
"""Above it neighbours are compared with those of the peers."""

Search = Callable[[], np.ndarray]
"""A whole self-join with its index: documents, int64 [documents, K]."""


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
        "ours": lambda: found.update(
            ours=ExactIndex(vectors).search(0, queries, K).documents
        ),
        "torch blocks + topk": lambda: found.update(torch=torch_blocks(vectors, queries)),
        "GEMM alone": lambda: products_alone(vectors, queries),
    }
    faiss = peer("faiss", "faiss-cpu")
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
        print(f"exact: {same:.6f} of the neighbours are those of {name}, which has no exact ties")
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


def approximate(vectors: np.ndarray, setting: Setting) -> list[Result]:
    """Seconds of building an index and of a whole self-join with it."""
    count = len(vectors)
    queries = np.sort(np.random.default_rng(2).permutation(count)[:SAMPLE])
    truth = ExactIndex(vectors).search_documents(queries, K).documents

    def recall(found: np.ndarray) -> float:
        hits = [np.isin(a[a >= 0], b).mean() for a, b in zip(truth, found[queries], strict=True)]
        return float(np.mean(hits))

    found: dict[str, np.ndarray] = {}

    def kept(name: str, search: Search) -> Callable[[], object]:
        return lambda: found.update({name: search()})

    searches: dict[str, Search] = {"ours": lambda: in_lists(vectors)}
    for make in (faiss_ivf, faiss_hnsw, usearch_hnsw, hnswlib_hnsw, scann_tree):
        settings = make(vectors, setting.threads)
        if settings is not None:
            name, search = tuned(settings, vectors, queries, recall)
            searches[name] = search
    rounds = 3 if setting.quick else 1
    medians = paired({n: kept(n, s) for n, s in searches.items()}, rounds, warm=setting.quick)
    for name, documents in found.items():
        print(f"approximate: recall {recall(documents):.4f}, {medians[name]:.1f} s, {name}")
    case = f"approximate, {count:,} x {vectors.shape[1]}, k={K}, recall >= {RECALL}"
    return compare("neighbours", case, medians, unit="s")


def in_lists(vectors: np.ndarray) -> np.ndarray:
    """All that the stage does with `pairs.index: lists`."""
    lists = build_lists(vectors, K, seed=0)
    probes = choose_probes(lists, vectors, K, min_recall=RECALL, seed=0)
    found = ListIndex(lists, probes.lists).search_places(0, len(vectors), K).documents
    documents = np.empty_like(found)
    documents[lists.order] = found
    return documents


Settings = Mapping[str, Search]
"""Of rising recall and cost."""


def tuned(
    settings: Settings,
    vectors: np.ndarray,
    queries: np.ndarray,
    recall: Callable[[np.ndarray], float],
) -> tuple[str, Search]:
    """The first setting that reaches RECALL, else the last."""
    for name, search in settings.items():
        start = time.perf_counter()
        reached = recall(search())
        seconds = time.perf_counter() - start
        print(f"tuning: {name}: recall {reached:.4f}, {seconds:.1f} s", flush=True)
        if reached >= RECALL:
            return name, search
    return f"{name} (recall {reached:.3f})", search
