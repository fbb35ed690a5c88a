from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.data.tokens import (
    TokenStore,
    documents_for,
    join_token_stores,
    token_dtype,
    write_token_store,
)

Documents = list[list[int]]
vocab_sizes = st.sampled_from([300, 1 << 16, (1 << 16) + 1, 1 << 20])


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def arrays(documents: Documents) -> list[np.ndarray]:
    return [np.array(ids, dtype=np.int64) for ids in documents]


def contents(store: TokenStore) -> Documents:
    return [store[i].tolist() for i in range(len(store))]


@st.composite
def documents_and_vocab_size(draw: st.DrawFn) -> tuple[Documents, int]:
    vocab_size = draw(vocab_sizes)
    ids = st.integers(0, vocab_size - 1) | st.sampled_from([0, vocab_size - 1])
    documents = draw(st.lists(st.lists(ids, max_size=6).map(lambda ids: [*ids, 0]), max_size=8))
    return documents, vocab_size


@settings(deadline=None, max_examples=40)
@given(documents_and_vocab_size())
def test_what_is_written_is_read(case: tuple[Documents, int]) -> None:
    documents, vocab_size = case
    with folder() as path:
        written = write_token_store(path / "new" / "store", iter(arrays(documents)), vocab_size)
        store = TokenStore(path / "new" / "store")
        assert contents(store) == documents
        assert written == store.num_tokens() == sum(map(len, documents))
        assert store.lengths().tolist() == [len(ids) for ids in documents]
        for first in range(len(documents) + 1):
            assert store.num_tokens(first) == sum(map(len, documents[:first]))
            assert store.lengths(first).tolist() == [len(ids) for ids in documents[:first]]
        width = (path / "new" / "store" / "tokens.bin").stat().st_size
        assert width == written * (2 if vocab_size <= 1 << 16 else 4)


@settings(deadline=None, max_examples=40)
@given(documents_and_vocab_size(), st.data())
def test_joined_parts_are_one_store(case: tuple[Documents, int], data: st.DataObject) -> None:
    documents, vocab_size = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(documents)), max_size=4)))
    bounds = [0, *cuts, len(documents)]  # equal bounds make empty parts
    with folder() as path:
        parts = []
        for first, stop in itertools.pairwise(bounds):
            parts.append(path / f"part{len(parts)}")
            write_token_store(parts[-1], arrays(documents[first:stop]), vocab_size)
        whole = write_token_store(path / "whole", arrays(documents), vocab_size)
        assert join_token_stores(path / "joined", parts) == whole
        for name in ("tokens.bin", "offsets.npy"):
            assert (path / "joined" / name).read_bytes() == (path / "whole" / name).read_bytes()
        assert contents(TokenStore(path / "joined")) == documents


def test_joining_nothing_gives_an_empty_store(tmp_path: Path) -> None:
    assert join_token_stores(tmp_path, []) == 0
    store = TokenStore(tmp_path)
    assert (len(store), store.num_tokens(), store.lengths().tolist()) == (0, 0, [])


def test_ids_are_two_bytes_wide_as_long_as_all_fit() -> None:
    assert token_dtype(1 << 16) == np.uint16
    assert token_dtype((1 << 16) + 1) == np.uint32


@pytest.mark.parametrize("bad", [-1, 300, 65_536, 1 << 40])
def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path, bad: int) -> None:
    with pytest.raises(ValueError, match="document 1 "):
        write_token_store(tmp_path, arrays([[1, 0], [2, bad, 0]]), 300)


def test_only_documents_that_exist_can_be_read(tmp_path: Path) -> None:
    write_token_store(tmp_path, arrays([[1, 0], [2, 0]]), 300)
    store = TokenStore(tmp_path)
    for wrong in (2, -1):
        with pytest.raises(IndexError):
            store[wrong]


def test_a_bad_id_behind_many_good_documents_is_named(tmp_path: Path) -> None:
    """Documents are checked and written in blocks; the second one has it here."""
    documents = [np.full(30_000, 7), np.full(40_000, 7), np.full(9, 7), np.array([1, 300, 0])]
    with pytest.raises(ValueError, match=r"document 3 has ids outside 0\.\.299"):
        write_token_store(tmp_path, documents, 300)
    assert write_token_store(tmp_path, documents[:3], 300) == 70_009
    assert TokenStore(tmp_path).lengths().tolist() == [30_000, 40_000, 9]


def test_a_store_is_read_only(tmp_path: Path) -> None:
    write_token_store(tmp_path, arrays([[1, 0]]), 300)
    with pytest.raises(ValueError, match="read-only"):
        TokenStore(tmp_path)[0][0] = 5


@pytest.mark.parametrize("keep", [1, 5, 7])
def test_a_file_cut_short_is_noticed(tmp_path: Path, keep: int) -> None:
    write_token_store(tmp_path, arrays([[1, 2, 0], [3, 0]]), 300)
    file = tmp_path / "tokens.bin"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="5 tokens"):
        TokenStore(tmp_path)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), max_size=8), st.integers(0, 80))
def test_the_fewest_first_documents_that_hold_a_budget(lengths: list[int], budget: int) -> None:
    with folder() as path:
        write_token_store(path, arrays([[1] * (length - 1) + [0] for length in lengths]), 300)
        found = documents_for(TokenStore(path), budget)
    enough = [n for n in range(len(lengths) + 1) if sum(lengths[:n]) >= budget]
    assert found == (enough[0] if enough else len(lengths))
