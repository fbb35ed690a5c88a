from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synboot.core.errors import BadInput
from synboot.data.budget import UniqueBudget, fit_budget, fit_budget_with_bpe, keyed_groups
from synboot.data.tokenizer import TextTokenizer, train_tokenizer
from synboot.data.tokens import TokenStore, documents_for, write_token_store

VOCAB_SIZE = 500
METHODS = [
    (f"{kind.__name__}.{name}", doc)
    for kind in (str, bytes, bytearray, list, dict, set, int, float, object, memoryview)
    for name in sorted(dir(kind))
    if (doc := getattr(kind, name).__doc__)
]
IDS = [name for name, _ in METHODS]
TEXTS = [f"{name}: {doc}" for name, doc in METHODS]
GROUPS = [name.split(".")[1] for name in IDS]  # str.join and bytes.join belong together


def fit(
    texts: Sequence[str], keys: Sequence[str], budget_tokens: int, seed: int = 0
) -> UniqueBudget:
    return fit_budget_with_bpe(
        keyed_groups(keys, seed),
        np.array([len(text.encode()) for text in texts], dtype=np.int64),
        lambda rows: [texts[row] for row in rows],
        budget_tokens=budget_tokens,
        vocab_size=VOCAB_SIZE,
    )


def count_tokens(tokenizer: TextTokenizer, texts: Sequence[str]) -> int:
    return sum(len(ids) + 1 for ids in tokenizer.encode(texts))


def check(found: UniqueBudget, texts: Sequence[str], keys: Sequence[str], budget: int) -> None:
    """What must hold of every unique budget."""
    order = found.order.tolist()
    assert sorted(order) == list(range(len(texts)))
    unique, others = order[: found.num_unique], order[found.num_unique :]
    assert found.num_tokens == count_tokens(found.tokenizer, [texts[row] for row in unique])
    assert found.num_tokens <= budget
    assert not {keys[row] for row in unique} & {keys[row] for row in others}
    changes = sum(keys[a] != keys[b] for a, b in itertools.pairwise(order))
    assert changes == len(set(keys)) - 1  # the rows of a group stand together
    assert 0 < found.num_tokenizer_documents <= found.num_unique
    seen = [texts[row] for row in order[: found.num_tokenizer_documents]]
    assert train_tokenizer(seen, VOCAB_SIZE).to_json() == found.tokenizer.to_json()


words = st.sampled_from(" ".join(TEXTS).split(" ")[:300])
documents = st.lists(words, max_size=25).map(" ".join)


@given(
    st.lists(st.tuples(documents, st.integers(0, 12)), min_size=1, max_size=25),
    st.integers(1, 400),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_whole_groups_that_fit_and_a_tokenizer_that_saw_nothing_else(
    rows: list[tuple[str, int]], budget: int, seed: int
) -> None:
    texts, keys = [text for text, _ in rows], [f"group {group}" for _, group in rows]
    try:
        found = fit(texts, keys, budget, seed)
    except BadInput:
        # Right if the smallest group, read by a tokenizer of its own, is too large.
        groups = [[t for t, k in zip(texts, keys, strict=True) if k == key] for key in set(keys)]
        sizes = [sum(len(text.encode()) for text in group) for group in groups]
        smallest = [g for g, size in zip(groups, sizes, strict=True) if size == min(sizes)]
        assert any(count_tokens(train_tokenizer(g, VOCAB_SIZE), g) > budget for g in smallest)
    else:
        check(found, texts, keys, budget)


@pytest.mark.parametrize("budget", [1_000, 4_000, 12_000])
@pytest.mark.parametrize("keys", [IDS, GROUPS], ids=["documents", "groups"])
def test_real_text_fills_the_budget(keys: list[str], budget: int) -> None:
    found = fit(TEXTS, keys, budget)
    check(found, TEXTS, keys, budget)
    assert found.num_tokens >= 0.9 * budget
    assert found.num_tokenizer_documents > 0.8 * found.num_unique


def test_a_budget_beyond_the_corpus_takes_all_of_it() -> None:
    found = fit(TEXTS, GROUPS, 10**9)
    check(found, TEXTS, GROUPS, 10**9)
    assert found.num_unique == found.num_tokenizer_documents == len(TEXTS)


def test_the_order_of_rows_in_the_corpus_does_not_matter() -> None:
    shuffled = np.random.default_rng(5).permutation(len(TEXTS)).tolist()
    here = fit(TEXTS, IDS, 3_000)
    there = fit([TEXTS[i] for i in shuffled], [IDS[i] for i in shuffled], 3_000)
    assert [IDS[row] for row in here.order] == [IDS[shuffled[row]] for row in there.order]
    assert here.tokenizer.to_json() == there.tokenizer.to_json()
    assert (here.num_unique, here.num_tokens) == (there.num_unique, there.num_tokens)


def test_other_seeds_choose_other_documents() -> None:
    chosen = [set(f.order[: f.num_unique]) for f in (fit(TEXTS, IDS, 3_000, s) for s in (0, 1))]
    assert chosen[0] != chosen[1]
    ranked = [[IDS[rows[0]] for rows in keyed_groups(IDS, seed)] for seed in (0, 0, 1)]
    assert ranked[0] == ranked[1] != ranked[2]


@pytest.mark.parametrize("multiple", [1.0, 1.001, 1.5, 3, 100])
def test_every_oracle_contains_the_unique_budget(tmp_path: Path, multiple: float) -> None:
    found = fit(TEXTS, GROUPS, 3_000)
    ids = found.tokenizer.encode([TEXTS[row] for row in found.order])
    with_end = (np.append(tokens, found.tokenizer.end_id) for tokens in ids)
    write_token_store(tmp_path, with_end, found.tokenizer.vocab_size)
    store = TokenStore(tmp_path)
    assert store.num_tokens(found.num_unique) == found.num_tokens
    oracle = documents_for(store, int(multiple * found.num_tokens))
    assert found.num_unique <= oracle <= len(store)
    assert multiple > 1.2 or oracle <= found.num_unique + 1


def test_a_budget_for_the_smallest_group_alone_is_met() -> None:
    """Its tokenizer learns it nearly by heart: 3 bytes a token are too careful a guess."""
    text = "the same words again and again, " * 30
    longer = text * 4
    need = count_tokens(train_tokenizer([text], VOCAB_SIZE), [text])
    assert len(text) > 3 * need
    assert fit([longer, text], ["long", "short"], need).num_tokens == need
    with pytest.raises(BadInput, match=rf"budget\.unique_tokens.*has {need}, {len(text)} bytes"):
        fit([longer, text], ["long", "short"], need - 1)


def test_a_budget_too_small_for_any_group_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"field budget\.unique_tokens: 3 tokens"):
        fit(TEXTS, GROUPS, 3)


def test_a_corpus_without_documents_is_bad_input() -> None:
    with pytest.raises(BadInput, match="no training document"):
        fit([], [], 100)


def test_work_grows_in_proportion_to_the_corpus() -> None:
    """60,000 groups of which half are taken: seconds if every group looked at all the others."""
    texts = ["ab"] * 60_000
    tokenizer = train_tokenizer(["xy"], 258)
    before = time.perf_counter()
    found = fit_budget(
        [np.array([row]) for row in range(len(texts))],
        np.full(len(texts), 2),
        lambda rows: [texts[row] for row in rows],
        budget_tokens=90_000,
        make_tokenizer=lambda _: tokenizer,
    )
    assert 29_000 < found.num_unique <= 30_000
    assert time.perf_counter() - before < 5
