from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.core.verdict import Drop, Keep
from synboot.pairs.filters import PairCandidate, PairFilterConfig
from synboot.pairs.find import (
    JudgedPairs,
    candidates_of,
    judge_pairs,
    pair_statistics,
    pair_texts,
    read_kept_pairs,
    split_pairs,
    write_pairs,
)
from synboot.pairs.neighbours.exact import ExactIndex
from synboot.pairs.neighbours.index import Neighbours

NUM_TOPICS = 5


def topic_text(index: int, length: int = 40) -> str:
    random = rng(3, "text", index)
    words = [f"topic{index % NUM_TOPICS}word{i}" for i in range(25)] + [
        f"any{i}" for i in range(25)
    ]
    return " ".join(words[random.integers(50)] for _ in range(length))


TEXTS = [topic_text(i) for i in range(40)]
TEXTS += [TEXTS[0] + " and a tail", TEXTS[7].upper()]  # two near duplicates
IDS = [f"doc-{i}" for i in range(len(TEXTS))]
GROUPS: list[str | None] = [f"g{i // 8}" if i % 9 else None for i in range(len(TEXTS))]


def random_neighbours(num_documents: int, k: int, seed: int) -> Neighbours:
    vectors = np.random.default_rng(seed).normal(size=(num_documents, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return ExactIndex(vectors).search(0, num_documents, k)


def plain_texts(count: int) -> list[str]:
    return [f"text number {i}" for i in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 25), st.integers(0, 1000))
def test_candidates_are_the_neighbours_as_unordered_pairs(n: int, k: int, seed: int) -> None:
    neighbours = random_neighbours(n, k, seed)
    expected = {
        (min(q, d), max(q, d)) for q in range(n) for d in neighbours.documents[q].tolist() if d >= 0
    }
    found = candidates_of(neighbours)
    assert [(c.first, c.second) for c in found if c.first >= c.second] == []
    assert Counter((c.first, c.second) for c in found) == Counter(expected)
    order = [(-c.similarity, c.first, c.second) for c in found]
    assert order == sorted(order)


def test_a_pair_has_the_larger_of_its_two_similarities() -> None:
    neighbours = Neighbours(
        np.array([[1], [0], [-1]]), np.array([[0.5], [0.75], [-np.inf]], dtype=np.float32)
    )
    assert candidates_of(neighbours) == [PairCandidate(0, 1, 0.75)]


def test_pair_texts_end_to_end() -> None:
    config = PairFilterConfig(min_similarity=0.4, max_pairs_per_document=4, exclude_same_group=True)
    pairs = pair_texts(
        TEXTS, ids=IDS, groups=GROUPS, dimensions=16, top_k=12, filters=config, seed=1
    )
    reasons = Counter(v.reason if isinstance(v, Drop) else "keep" for v in pairs.verdicts)
    assert set(reasons) == {
        "keep", "below_min_similarity", "same_group", "near_duplicate", "degree_limit",
    }  # fmt: skip
    by_pair = {
        (c.first, c.second): v for c, v in zip(pairs.candidates, pairs.verdicts, strict=True)
    }
    assert len(by_pair) == len(pairs.candidates)
    for twins in ((0, 40), (7, 41)):
        verdict = by_pair[twins]
        assert isinstance(verdict, Drop)
        assert verdict.reason == "near_duplicate"
    for candidate in pairs.kept:
        assert candidate.first % NUM_TOPICS == candidate.second % NUM_TOPICS or {
            candidate.first, candidate.second,
        } & {40, 41}  # fmt: skip
        assert candidate.similarity >= 0.4
        a, b = GROUPS[candidate.first], GROUPS[candidate.second]
        assert a is None or a != b


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 15), st.integers(1, 14), st.integers(1, 4), st.integers(0, 99))
def test_degree_limit_holds_and_lets_the_most_similar_through(
    n: int, k: int, limit: int, seed: int
) -> None:
    config = PairFilterConfig(min_similarity=-1, max_pairs_per_document=limit)
    pairs = judge_pairs(random_neighbours(n, k, seed), plain_texts(n), plain_texts(n), None, config)
    degree: Counter[int] = Counter()
    for candidate, verdict in zip(pairs.candidates, pairs.verdicts, strict=True):
        full = max(degree[candidate.first], degree[candidate.second]) >= limit
        assert isinstance(verdict, Drop) == full  # greedy, in the order of similarity
        if isinstance(verdict, Drop):
            assert verdict.reason == "degree_limit"
        else:
            degree.update((candidate.first, candidate.second))
    assert max(degree.values()) <= limit


def test_exclude_same_group_without_groups_is_bad_input() -> None:
    config = PairFilterConfig(exclude_same_group=True)
    neighbours = random_neighbours(3, 2, 0)
    for groups in (None, [None, None, None]):
        with pytest.raises(BadInput, match=r"pairs\.exclude_same_group.*corpus\.group_field"):
            judge_pairs(neighbours, plain_texts(3), plain_texts(3), groups, config)


@pytest.fixture(scope="module")
def judged() -> JudgedPairs:
    config = PairFilterConfig(min_similarity=0.4, max_pairs_per_document=4)
    return pair_texts(TEXTS, ids=IDS, dimensions=16, top_k=12, filters=config)


def test_the_file_has_every_candidate_in_both_orders(judged: JudgedPairs, tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    write_pairs(path, judged, IDS)
    table = pq.read_table(path)
    assert table.schema.names[:5] == ["d1", "d2", "similarity", "verdict", "reason"]
    rows = table.to_pylist()
    assert len(rows) == 2 * len(judged.candidates)
    expected: dict[tuple[str, str], tuple[float, str, str | None, float | None]] = {}
    for c, v in zip(judged.candidates, judged.verdicts, strict=True):
        facts = ("keep", None, None) if isinstance(v, Keep) else ("drop", v.reason, v.score)
        expected[IDS[c.first], IDS[c.second]] = (c.similarity, *facts)
        expected[IDS[c.second], IDS[c.first]] = (c.similarity, *facts)
    found = {
        (r["d1"], r["d2"]): (r["similarity"], r["verdict"], r["reason"], r["score"]) for r in rows
    }
    assert found == expected
    kept = read_kept_pairs(path)
    assert kept == [(r["d1"], r["d2"]) for r in rows if r["verdict"] == "keep"]
    assert {(b, a) for a, b in kept} == set(kept)
    first_orders = kept[::2]
    assert first_orders == [(IDS[c.first], IDS[c.second]) for c in judged.kept]  # nearest first


def test_a_file_without_pairs(tmp_path: Path) -> None:
    nothing = judge_pairs(random_neighbours(1, 2, 0), ["a"], ["a"], None, PairFilterConfig())
    write_pairs(tmp_path / "pairs.parquet", nothing, ["a"])
    assert read_kept_pairs(tmp_path / "pairs.parquet") == []
    statistics = pair_statistics(nothing, 1)
    assert sum(statistics["similarity_all"]) == sum(statistics["similarity_kept"]) == 0
    assert statistics["degree"] == {"0": 1}
    assert statistics["counts"] == {"kept": 0}


def test_statistics_add_up(judged: JudgedPairs) -> None:
    statistics = pair_statistics(judged, len(TEXTS))
    counts: dict[str, int] = statistics["counts"]
    assert counts["kept"] == len(judged.kept) > 0
    assert sum(counts.values()) == len(judged.candidates) == sum(statistics["similarity_all"])
    assert sum(statistics["similarity_kept"]) == counts["kept"]
    edges = np.array(statistics["similarity_edges"])
    assert (
        len(edges)
        == len(statistics["similarity_all"]) + 1
        == len(statistics["similarity_kept"]) + 1
    )
    assert (np.diff(edges) > 0).all()
    for kept, everything in zip(
        statistics["similarity_kept"], statistics["similarity_all"], strict=True
    ):
        assert 0 <= kept <= everything
    degree = {int(d): n for d, n in statistics["degree"].items()}
    assert sum(degree.values()) == len(TEXTS)
    assert sum(d * n for d, n in degree.items()) == 2 * counts["kept"]
    json.dumps(statistics, allow_nan=False)


def test_statistics_hold_similarities_outside_zero_to_one() -> None:
    neighbours = Neighbours(
        np.array([[1, 2], [0, 2], [0, 1]]),
        np.array([[1.0000004, -0.9], [1.0000004, -0.3], [-0.9, -0.3]], dtype=np.float32),
    )
    config = PairFilterConfig(min_similarity=-1, max_window_overlap=1)
    pairs = judge_pairs(neighbours, plain_texts(3), plain_texts(3), None, config)
    statistics = pair_statistics(pairs, 3)
    assert sum(statistics["similarity_all"]) == sum(statistics["similarity_kept"]) == 3
    assert statistics["similarity_all"][0] == 1
    assert statistics["similarity_all"][-1] == 1


def test_samples_show_what_was_dropped(judged: JudgedPairs) -> None:
    for reason, samples in judged.tally.samples.items():
        assert 0 < len(samples) <= judged.tally.sample_size
        for sample in samples:
            assert sample["reason"] == reason
            assert sample["text1"] == TEXTS[IDS.index(sample["d1"])]
            assert sample["text2"] == TEXTS[IDS.index(sample["d2"])]


# --- training and validation pairs ---------------------------------------------------------------

Edges = list[tuple[int, int]]
graphs = st.integers(2, 24).flatmap(
    lambda n: st.lists(
        st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] != e[1]),
        min_size=1,
        max_size=60,
    )
)
STAR: Edges = [(0, i) for i in range(1, 30)]
CLIQUE: Edges = list(itertools.combinations(range(15), 2))
CHAIN: Edges = [(i, i + 1) for i in range(40)]


def undirected(edges: Edges) -> set[tuple[int, int]]:
    return {(min(e), max(e)) for e in edges}


def documents_of(edges: Edges) -> set[int]:
    return {document for edge in edges for document in edge}


def check_split(edges: Edges, fraction: float, seed: int) -> Any:
    split = split_pairs(edges, validation_fraction=fraction, seed=seed)
    training, validation = undirected(split.training), undirected(split.validation)
    assert not documents_of(split.training) & documents_of(split.validation)
    for side in (split.training, split.validation):
        assert {(b, a) for a, b in side} == set(side)  # both orders
        assert len(set(side)) == len(side)
    lost = undirected(edges) - training - validation
    assert training | validation <= undirected(edges)
    assert len(lost) == split.num_crossing
    held_out = documents_of(split.validation)
    if validation and training:
        for a, b in lost:  # only pairs between the sides; a held-out document may be in no pair
            assert not {a, b} <= documents_of(split.training)
            assert not {a, b} <= held_out
    return split


@settings(max_examples=200, deadline=None)
@given(graphs, st.floats(0.01, 0.49), st.integers(0, 9))
def test_split_shares_no_document_and_loses_only_crossing_pairs(
    edges: Edges, fraction: float, seed: int
) -> None:
    split = check_split(edges, fraction, seed)
    again = split_pairs(
        [(b, a) for a, b in reversed(edges)], validation_fraction=fraction, seed=seed
    )
    assert again == split  # neither order nor direction of the input matters
    assert split.training
    num_held_out = len(documents_of(split.validation))
    assert 3 * num_held_out <= len(documents_of(edges)) + 2
    apart = any(not {a, b} & {c, d} for (a, b), (c, d) in itertools.combinations(edges, 2))
    assert bool(split.validation) == apart


@pytest.mark.parametrize("seed", range(20))
def test_split_of_special_graphs(seed: int) -> None:
    star = check_split(STAR, 0.1, seed)
    assert star.training  # every pair has the hub: nothing can be held out
    assert not star.validation
    clique = check_split(CLIQUE, 0.1, seed)
    assert len(clique.validation) // 2 == 10  # 5 of 15 documents, a third
    assert len(clique.training) // 2 == 45
    chain = check_split(CHAIN, 0.1, seed)
    assert len(chain.validation) // 2 == 4
    assert len(chain.training) // 2 >= 40 - 4 - 8  # four held-out stretches have eight ends
    one = check_split([(0, 1)], 0.1, seed)
    assert (len(one.training), len(one.validation)) == (2, 0)
    apart = check_split([(0, 1), (2, 3)], 0.1, seed)
    assert (len(apart.training), len(apart.validation), apart.num_crossing) == (2, 2, 0)
    joined = check_split([(0, 1), (1, 2)], 0.1, seed)
    assert not joined.validation
    assert joined.training
    path = check_split([(0, 1), (1, 2), (2, 3)], 0.1, seed)
    assert path.training
    assert path.validation
    nothing = split_pairs([], validation_fraction=0.1, seed=seed)
    assert (nothing.training, nothing.validation, nothing.num_crossing) == ([], [], 0)


def test_split_fractions_on_clusters_of_related_documents() -> None:
    """60 clusters of 6 documents, all pairs within: what a corpus of topics gives."""
    edges = [
        (6 * cluster + a, 6 * cluster + b)
        for cluster in range(60)
        for a, b in itertools.combinations(range(6), 2)
    ]
    for seed in range(5):
        split = check_split(edges, 0.1, seed)
        assert len(edges) * 0.1 <= len(split.validation) / 2 <= len(edges) * 0.1 + 15
        assert split.num_crossing <= 15  # whole neighbourhoods go together
    assert check_split(edges, 0.1, 0) != check_split(edges, 0.1, 1)
