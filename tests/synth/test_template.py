from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.errors import BadInput
from synboot.data.batches import IGNORED
from synboot.data.tokens import TokenStore, write_token_store
from synboot.synth.template import MIN_CONTEXT, PairRows, pair_row, prompt

END = 3
START = 5
tokens = st.lists(st.integers(10, 99), max_size=60).map(lambda ids: np.array(ids, dtype=np.uint16))
contexts = st.integers(MIN_CONTEXT, 80)


@settings(max_examples=200, deadline=None)
@given(d1=tokens, d2=tokens, context=contexts)
def test_row_is_the_written_template(d1: np.ndarray, d2: np.ndarray, context: int) -> None:
    inputs, targets = pair_row(d1, d2, context, END)
    cut_d1 = d1.tolist()[: context // 2 - 2]
    before = [END, *cut_d1, END]
    room = context + 1 - len(before)  # the last token is a target only
    after = [*d2.tolist(), END] if len(d2) + 1 <= room else d2.tolist()[:room]
    assert inputs.dtype == targets.dtype == np.int64
    assert len(inputs) == len(targets) <= context
    # Read back together they are the template; the loss is on d2 and its END, and on nothing else.
    assert [*inputs.tolist(), targets[-1]] == before + after
    assert targets.tolist() == [IGNORED] * (len(before) - 1) + after
    assert (END in after) == (len(d2) < room)
    assert len(d2) >= room or after[-1] == END
    given_to_d2 = room - (END in after)
    assert len(after) >= min(len(d2), given_to_d2)
    assert room > context // 2  # d2 never gets less than half of the context


@given(d1=tokens, d2=tokens, context=contexts)
def test_prompt_is_the_beginning_of_the_row(d1: np.ndarray, d2: np.ndarray, context: int) -> None:
    start = prompt(d1, context, END)
    inputs, targets = pair_row(d1, d2, context, END)
    assert start.dtype == np.int64
    assert 2 <= len(start) <= context // 2
    np.testing.assert_array_equal(inputs[: len(start)], start)
    assert (targets[: len(start) - 1] == IGNORED).all()
    assert targets[len(start) - 1] == (d2[0] if len(d2) else END)


def test_truncation_at_its_edges() -> None:
    context = 20
    d1 = np.arange(100, 150)
    assert prompt(d1[:8], context, END).tolist() == [END, *range(100, 108), END]
    assert prompt(d1[:9], context, END).tolist() == [END, *range(100, 108), END]
    d2 = np.arange(200, 250)
    # 10 tokens of prompt leave 11 targets: 10 tokens and END, or 11 tokens without it.
    assert pair_row(d1, d2[:10], context, END)[1][-11:].tolist() == [*range(200, 210), END]
    assert pair_row(d1, d2[:11], context, END)[1][-11:].tolist() == [*range(200, 211)]
    assert pair_row(d1, d2[:12], context, END)[1][-11:].tolist() == [*range(200, 211)]
    # A short d1 leaves the rest of its half to d2.
    assert pair_row(d1[:1], d2, context, END)[1][-18:].tolist() == [*range(200, 218)]


@pytest.mark.parametrize(
    ("start", "inputs", "targets"),
    [
        (None, [3, 11, 12, 3, 21, 22], [-100, -100, -100, 21, 22, 3]),
        (END, [3, 11, 12, 3, 21, 22], [-100, -100, -100, 21, 22, 3]),
        (START, [5, 11, 12, 5, 21, 22], [-100, -100, -100, 21, 22, 3]),
    ],
)
def test_a_row_token_by_token(start: int | None, inputs: list[int], targets: list[int]) -> None:
    """d1 is 11 12, d2 is 21 22: loss on d2 and END only, with or without a start token."""
    d1, d2 = np.array([11, 12]), np.array([21, 22])
    found = pair_row(d1, d2, 16, END, start)
    assert [half.tolist() for half in found] == [inputs, targets]
    assert prompt(d1, 16, END, start).tolist() == inputs[:4]


@given(d1=tokens, d2=tokens, context=contexts)
def test_a_start_token_changes_inputs_alone(d1: np.ndarray, d2: np.ndarray, context: int) -> None:
    plain, found = pair_row(d1, d2, context, END), pair_row(d1, d2, context, END, START)
    assert found[1].tolist() == plain[1].tolist()
    assert found[0].tolist() == [START if i == END else i for i in plain[0].tolist()]
    assert START not in found[1]


@pytest.mark.parametrize("context", [-1, 0, 2, MIN_CONTEXT - 1])
def test_a_context_without_room_is_bad_input(context: int) -> None:
    for call in (
        lambda: prompt(np.arange(4), context, END, START),
        lambda: pair_row(np.arange(4), np.arange(4), context, END, START),
        lambda: prompt(np.arange(4), context, END),
        lambda: pair_row(np.arange(4), np.arange(4), context, END),
    ):
        with pytest.raises(BadInput, match=r"model\.context.*expected 16"):
            call()


PAIRS = [(0, 1), (1, 0), (2, 3), (3, 2), (4, 0), (0, 4), (5, 6), (6, 5)]
LENGTHS = [0, 3, 9, 30, 64, 8, 12]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    directory = tmp_path_factory.mktemp("tokens")
    documents = [
        np.append(10 + (np.arange(length) * 7 + i) % 80, END) for i, length in enumerate(LENGTHS)
    ]
    write_token_store(directory, documents, vocab_size=90)
    return TokenStore(directory)


def pair_rows(store: TokenStore, context: int = 24, passes: int = 3, seed: int = 1) -> PairRows:
    return PairRows(store, PAIRS, context=context, end_id=END, passes=passes, seed=seed)


@pytest.mark.parametrize("context", [16, 17, 24, 61, 200])
def test_counts_equal_brute_force(store: TokenStore, context: int) -> None:
    rows = pair_rows(store, context)
    for position in range(rows.num_rows):
        assert rows.num_targets(position) == int((rows.row(position)[1] != IGNORED).sum())
    lengths = Counter(len(rows.row(position)[0]) for position in range(rows.num_rows))
    assert rows.row_lengths() == lengths
    assert max(lengths) <= context


def test_every_pass_has_every_pair_once_in_an_order_of_its_own(store: TokenStore) -> None:
    rows = pair_rows(store, context=200)

    def key(row: tuple[np.ndarray, np.ndarray]) -> tuple[bytes, bytes]:
        return row[0].tobytes(), row[1].tobytes()

    expected = Counter(key(pair_row(store[a][:-1], store[b][:-1], 200, END)) for a, b in PAIRS)
    assert len(expected) == len(PAIRS)
    size = len(PAIRS)
    passes = [[key(rows.row(p * size + i)) for i in range(size)] for p in range(3)]
    assert rows.num_rows == 3 * size
    assert all(Counter(one) == expected for one in passes)
    assert passes[0] != passes[1] != passes[2]


def test_rows_are_a_function_of_seed_and_position(store: TokenStore) -> None:
    rows, again, longer, other = (
        pair_rows(store),
        pair_rows(store),
        pair_rows(store, passes=5),
        pair_rows(store, seed=2),
    )
    backwards = [rows.row(position) for position in reversed(range(rows.num_rows))][::-1]
    for position in range(rows.num_rows):
        for one in (again.row(position), longer.row(position), backwards[position]):
            np.testing.assert_array_equal(one[0], rows.row(position)[0])
            np.testing.assert_array_equal(one[1], rows.row(position)[1])
    assert any(
        len(other.row(p)[0]) != len(rows.row(p)[0]) or (other.row(p)[0] != rows.row(p)[0]).any()
        for p in range(rows.num_rows)
    )


def test_rows_of_a_store_start_with_the_start_token(store: TokenStore) -> None:
    options = {"context": 24, "end_id": END, "passes": 2, "seed": 1}
    plain, rows = (PairRows(store, PAIRS, **options, start_id=s) for s in (None, START))
    for position in range(rows.num_rows):
        inputs, targets = rows.row(position)
        expected, same = plain.row(position)
        assert inputs.tolist() == [START if i == END else i for i in expected.tolist()]
        assert targets.tolist() == same.tolist()
        assert rows.num_targets(position) == plain.num_targets(position)
    assert rows.row_lengths() == plain.row_lengths()


@pytest.mark.parametrize("context", [16, 24, 61, 200])
def test_packed_rows_hold_the_same_pairs(store: TokenStore, context: int) -> None:
    """Each pass each pair once, with the inputs, targets and positions it has alone; the rest of
    a row is padding without loss."""
    options = {"context": context, "end_id": END, "passes": 2, "seed": 1}
    single = PairRows(store, PAIRS, **options)
    packed = PairRows(store, PAIRS, packed=True, **options)
    found: list[tuple[list[int], list[int]]] = []
    for position in range(packed.num_rows):
        inputs, targets = packed.row(position)
        places = packed.positions(position)
        assert len(inputs) == len(targets) == len(places) == context
        starts = [*np.flatnonzero(places == 0).tolist(), context]
        texts = [slice(a, b) for a, b in itertools.pairwise(starts)]
        for text in texts:
            assert places[text].tolist() == list(range(text.stop - text.start))
        count = packed.num_pairs(position)
        found += [(inputs[text].tolist(), targets[text].tolist()) for text in texts[:count]]
        assert len(texts) - count in (0, 1)
        assert all((targets[text] == IGNORED).all() for text in texts[count:])
        assert packed.num_targets(position) == int((targets != IGNORED).sum())
    half = [[half.tolist() for half in single.row(p)] for p in range(single.num_rows)]
    for start in (0, len(PAIRS)):  # first fit moves pairs within their pass only
        part = slice(start, start + len(PAIRS))
        assert sorted(map(list, found[part])) == sorted(half[part])
    assert packed.row_lengths() == single.row_lengths()
    if context == 200:
        assert packed.num_rows < single.num_rows


def test_packing_is_a_function_of_the_seed(store: TokenStore) -> None:
    options = {"context": 61, "end_id": END, "packed": True, "passes": 3}
    rows, again, longer = (
        PairRows(store, PAIRS, seed=1, **options | {"passes": passes}) for passes in (3, 3, 5)
    )
    for position in range(rows.num_rows):
        expected = rows.row(position)[0].tolist()
        assert again.row(position)[0].tolist() == longer.row(position)[0].tolist() == expected


def test_no_pair_is_bad_input(store: TokenStore) -> None:
    with pytest.raises(BadInput, match=r"pairs\.min_similarity"):
        PairRows(store, [], context=24, end_id=END, seed=0)


def test_an_empty_document_trains_its_end_alone(store: TokenStore) -> None:
    inputs, targets = pair_row(store[1][:-1], store[0][:-1], 24, END)
    assert targets.tolist() == [IGNORED] * 4 + [END]
    assert inputs.tolist() == [END, *store[1][:-1].tolist(), END]
