"""From documents and their neighbours to judged pairs, in both orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.core.storage import atomic_file
from synboot.core.verdict import Keep, Tally, Verdict, judge
from synboot.pairs.encoders.encoder import fit_encoder
from synboot.pairs.encoders.settings import EncoderName
from synboot.pairs.filters import (
    DegreeLimit,
    PairCandidate,
    PairFilterConfig,
    not_near_duplicate,
    not_same_group,
    similar_enough,
)
from synboot.pairs.neighbours.exact import ExactIndex
from synboot.pairs.neighbours.index import Neighbours

_HISTOGRAM_BINS = 40
_SAMPLE_CHARACTERS = 2000


@dataclass(frozen=True)
class JudgedPairs:
    """Every candidate once (`first < second`, most similar first) with its verdict."""

    candidates: list[PairCandidate]
    verdicts: list[Verdict]
    tally: Tally

    @property
    def kept(self) -> list[PairCandidate]:
        """The pairs, most similar first."""
        both = zip(self.candidates, self.verdicts, strict=True)
        return [candidate for candidate, verdict in both if isinstance(verdict, Keep)]


def pair_texts(
    texts: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    groups: Sequence[str | None] | None = None,
    encoder: EncoderName = "lsa",
    dimensions: int = 256,
    top_k: int = 20,
    filters: PairFilterConfig | None = None,
    seed: int = 0,
) -> JudgedPairs:
    """Related documents among `texts`: embed, exact nearest neighbours, filters (paper, section
    on nearest-neighbour pairing). The whole of the pairing stages in one call, in memory."""
    vectors = fit_encoder(encoder, texts, dimensions=dimensions, seed=seed).encode(texts)
    neighbours = ExactIndex(vectors).search(0, len(texts), top_k)
    names = list(ids) if ids is not None else [str(i) for i in range(len(texts))]
    return judge_pairs(neighbours, texts, names, groups, filters or PairFilterConfig())


def candidates_of(neighbours: Neighbours) -> list[PairCandidate]:
    """Unordered pairs of which one names the other, once each, most similar first."""
    queries = np.repeat(np.arange(len(neighbours.documents)), neighbours.documents.shape[1])
    others, similarities = neighbours.documents.ravel(), neighbours.similarities.ravel()
    found = others >= 0
    first = np.minimum(queries, others)[found]
    second = np.maximum(queries, others)[found]
    similarity = similarities[found]
    # Both orders may differ in the last bit: the pair has the larger one, whichever came first.
    order = np.lexsort((-similarity, second, first))
    first, second, similarity = first[order], second[order], similarity[order]
    new = np.ones(len(first), dtype=bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    first, second, similarity = first[new], second[new], similarity[new]
    order = np.lexsort((second, first, -similarity))
    return [
        PairCandidate(int(first[i]), int(second[i]), float(similarity[i])) for i in order.tolist()
    ]


def judge_pairs(
    neighbours: Neighbours,
    texts: Sequence[str],
    ids: Sequence[str],
    groups: Sequence[str | None] | None,
    config: PairFilterConfig,
) -> JudgedPairs:
    """A verdict on every candidate; documents are numbered as in `neighbours`."""
    checks = [similar_enough(config)]
    if config.exclude_same_group:
        if groups is None or not any(groups):
            raise BadInput(
                "field pairs.exclude_same_group: the documents have no group; "
                "set corpus.group_field"
            )
        checks.append(not_same_group(groups))
    candidates = candidates_of(neighbours)
    left = [candidate for candidate in candidates if isinstance(judge(candidate, checks), Keep)]
    checks.append(not_near_duplicate(texts, config, expected=left))
    checks.append(DegreeLimit(config.max_pairs_per_document))
    tally = Tally()
    verdicts = []
    for candidate in candidates:
        verdict = judge(candidate, checks)
        tally.add(verdict, partial(describe_pair, candidate, texts, ids))
        verdicts.append(verdict)
    return JudgedPairs(candidates, verdicts, tally)


def describe_pair(
    pair: PairCandidate, texts: Sequence[str], ids: Sequence[str]
) -> dict[str, str | float]:
    """A pair for people: ids, similarity and the beginnings of both texts."""
    return {
        "d1": ids[pair.first],
        "d2": ids[pair.second],
        "similarity": pair.similarity,
        "text1": texts[pair.first][:_SAMPLE_CHARACTERS],
        "text2": texts[pair.second][:_SAMPLE_CHARACTERS],
    }


def write_pairs(path: Path, pairs: JudgedPairs, ids: Sequence[str]) -> None:
    """Parquet with d1, d2 (ids), similarity, verdict (keep or drop), reason, score; every
    candidate in both orders."""
    rows: dict[str, list[Any]] = {
        name: [] for name in ("d1", "d2", "similarity", "verdict", "reason", "score")
    }
    for pair, verdict in zip(pairs.candidates, pairs.verdicts, strict=True):
        kept = isinstance(verdict, Keep)
        for d1, d2 in ((pair.first, pair.second), (pair.second, pair.first)):
            rows["d1"].append(ids[d1])
            rows["d2"].append(ids[d2])
            rows["similarity"].append(pair.similarity)
            rows["verdict"].append("keep" if kept else "drop")
            rows["reason"].append(None if isinstance(verdict, Keep) else verdict.reason)
            rows["score"].append(None if isinstance(verdict, Keep) else verdict.score)
    schema = pa.schema(
        [
            ("d1", pa.string()),
            ("d2", pa.string()),
            ("similarity", pa.float32()),
            ("verdict", pa.string()),
            ("reason", pa.string()),
            ("score", pa.float64()),
        ]
    )
    with atomic_file(path) as file:
        pq.write_table(pa.table(rows, schema=schema), file)


def read_kept_pairs(path: Path, *, or_dropped_as: str | None = None) -> list[tuple[str, str]]:
    """The kept (d1, d2) ids of a pair file, in its order; also those dropped for one reason."""
    wanted = [[("verdict", "=", "keep")]]
    if or_dropped_as is not None:
        wanted.append([("reason", "=", or_dropped_as)])
    table = pq.read_table(path, columns=["d1", "d2"], filters=wanted)
    return list(zip(table["d1"].to_pylist(), table["d2"].to_pylist(), strict=True))


def pair_statistics(pairs: JudgedPairs, num_documents: int) -> dict[str, Any]:
    """Similarity histograms (all candidates, kept), degree distribution, counts by reason."""
    everything = np.array([pair.similarity for pair in pairs.candidates] or [0.0])
    kept = np.array([pair.similarity for pair in pairs.kept])
    low, high = min(float(everything.min()), 0.0), max(float(everything.max()), 1.0)
    edges = np.linspace(low, high, _HISTOGRAM_BINS + 1)
    degree: Counter[int] = Counter()
    for pair in pairs.kept:
        degree.update((pair.first, pair.second))
    by_degree = Counter(degree.values())
    by_degree[0] = num_documents - len(degree)
    all_counts = np.histogram(everything, edges)[0] * (len(pairs.candidates) > 0)
    return {
        "counts": pairs.tally.counts(),
        "similarity_edges": [round(edge, 6) for edge in edges.tolist()],
        "similarity_all": all_counts.tolist(),
        "similarity_kept": np.histogram(kept, edges)[0].tolist(),
        "degree": {str(d): by_degree[d] for d in sorted(by_degree)},
    }


@dataclass(frozen=True)
class PairSplit:
    """Ordered pairs (both orders) for tuning and for its validation; they share no document.

    `num_crossing` unordered pairs join the two sides and serve neither. `held_out`: the documents
    that are kept from tuning, those without a pair among themselves too.
    """

    training: list[tuple[int, int]]
    validation: list[tuple[int, int]]
    num_crossing: int
    held_out: frozenset[int]


def split_pairs(
    pairs: Iterable[tuple[int, int]], *, validation_fraction: float, seed: int
) -> PairSplit:
    """Hold out documents, a random one with its partners at a time, until the pairs within them
    are `validation_fraction` of all (at least one), or a third of the documents is held out.
    A document whose removal would leave no training pair stays: wherever two pairs share no
    document, neither side is empty.

    `pairs` are unordered. Whole neighbourhoods go together so that few pairs cross.
    """
    unordered = sorted({(min(a, b), max(a, b)) for a, b in pairs})
    partners: dict[int, set[int]] = {}
    for a, b in unordered:
        partners.setdefault(a, set()).add(b)
        partners.setdefault(b, set()).add(a)
    need = max(1, round(validation_fraction * len(unordered)))
    held_out: set[int] = set()
    inside, outside = 0, len(unordered)  # pairs with both documents held out, with neither
    documents = np.array(sorted(partners), dtype=np.int64)
    for start in rng(seed, "validation pairs").permutation(documents).tolist():
        for document in (start, *sorted(partners[start])):
            if inside >= need or 3 * len(held_out) >= len(documents):
                break
            leaving = len(partners[document] - held_out)
            if document in held_out or leaving == outside:
                continue
            held_out.add(document)
            inside += len(partners[document]) - leaving
            outside -= leaving
    sides = [(a in held_out) + (b in held_out) for a, b in unordered]
    both_orders = {
        side: [p for (a, b), s in zip(unordered, sides, strict=True) if s == side
               for p in ((a, b), (b, a))]
        for side in (0, 2)
    }  # fmt: skip
    return PairSplit(both_orders[0], both_orders[2], sides.count(1), frozenset(held_out))
