from __future__ import annotations

import contextlib
import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.data.batches import IGNORED, Batch, Batches, ReadAhead

Row = tuple[list[int], list[int]]


class ListedRows:
    """Rows from a list."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def num_targets(self, position: int) -> int:
        return sum(target != IGNORED for target in self._rows[position][1])

    def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = self._rows[position]
        return np.array(inputs, dtype=np.int64), np.array(targets, dtype=np.int64)


targets = st.integers(1, 99) | st.just(IGNORED)
one_row = st.lists(st.tuples(st.integers(1, 99), targets), min_size=1, max_size=7).map(
    lambda pairs: ([i for i, _ in pairs], [t for _, t in pairs])
)
many_rows = st.lists(one_row, min_size=1, max_size=20)
worlds = st.sampled_from([1, 2, 3])


def unpadded(batch: Batch, rows: list[Row]) -> list[Row]:
    """The rows of a batch, `rows` saying how long each is; checks the padding."""
    found = []
    for i, (inputs, _) in enumerate(rows):
        length = len(inputs)
        assert (batch.targets[i, length:] == IGNORED).all()
        found.append((batch.inputs[i, :length].tolist(), batch.targets[i, :length].tolist()))
    return found


@settings(deadline=None)
@given(many_rows, st.integers(1, 6), worlds, st.none() | st.integers(1, 4))
def test_ranks_and_micro_batches_share_out_the_same_rows(
    rows: list[Row], batch_rows: int, world_size: int, micro_rows: int | None
) -> None:
    listed = ListedRows(rows)
    ranks = [
        Batches(listed, batch_rows, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    num_steps = -(-len(rows) // batch_rows)
    assert {batches.num_steps for batches in ranks} == {num_steps}
    for step in range(num_steps):
        expected = rows[step * batch_rows : (step + 1) * batch_rows]
        total = sum(target != IGNORED for _, row in expected for target in row)
        found: list[list[Row]] = []
        valid = 0
        for rank, batches in enumerate(ranks):
            own = expected[rank::world_size]
            micro = batches.batch(step, micro_rows)
            size = micro_rows or len(own) or 1
            assert [len(b.inputs) for b in micro] == [
                len(own[i : i + size]) for i in range(0, len(own), size)
            ]
            places = itertools.accumulate((len(b.inputs) for b in micro), initial=0)
            found.append(
                [
                    row
                    for batch, place in zip(micro, places, strict=False)
                    for row in unpadded(batch, own[place : place + len(batch.inputs)])
                ]
            )
            assert all(batch.global_targets == total for batch in micro)
            valid += sum(int((batch.targets != IGNORED).sum()) for batch in micro)
        assert valid == total
        merged = [None] * len(expected)
        for rank, own in enumerate(found):
            merged[rank::world_size] = own
        assert merged == expected


@settings(deadline=None)
@given(many_rows, st.integers(1, 6))
def test_a_step_can_be_read_without_those_before(rows: list[Row], batch_rows: int) -> None:
    in_order = Batches(ListedRows(rows), batch_rows)
    all_steps = [in_order.batch(step) for step in range(in_order.num_steps)]
    for step in reversed(range(in_order.num_steps)):
        [again] = Batches(ListedRows(rows), batch_rows).batch(step)
        [before] = all_steps[step]
        assert (again.inputs == before.inputs).all()
        assert (again.targets == before.targets).all()


def test_batches_are_no_wider_than_their_longest_row() -> None:
    rows = ListedRows([([1], [2]), ([1, 2, 3], [2, 3, 4]), ([1, 2], [2, 3])])
    [batch] = Batches(rows, 3).batch(0)
    assert batch.inputs.shape == batch.targets.shape == (3, 3)
    assert [b.inputs.shape for b in Batches(rows, 3).batch(0, micro_rows=1)] == [
        (1, 1),
        (1, 3),
        (1, 2),
    ]
    assert batch.inputs.dtype == batch.targets.dtype == np.int64


def test_a_rank_beyond_the_last_rows_has_none() -> None:
    rows = ListedRows([([1], [2])])
    assert Batches(rows, 3, rank=2, world_size=3).batch(0) == []


class ListedTexts(ListedRows):
    """Rows whose first two inputs are a text of their own."""

    def positions(self, position: int) -> np.ndarray:
        length = len(self._rows[position][0])
        return np.concatenate([np.arange(min(length, 2)), np.arange(max(length - 2, 0))])


def test_positions_begin_anew_in_texts_and_in_padding() -> None:
    rows = [([1, 2, 3, 4, 5], [2, 3, 4, 5, 6]), ([7, 8, 9], [8, 9, 1])]
    [batch] = Batches(ListedTexts(rows), 2).batch(0)
    assert batch.positions is not None
    assert batch.positions.tolist() == [[0, 1, 0, 1, 2], [0, 1, 0, 0, 1]]
    assert Batches(ListedRows(rows), 2).batch(0)[0].positions is None


def test_rows_of_one_text_each_need_no_positions() -> None:
    rows = [([1, 2], [2, 3]), ([4, 5], [5, 6]), ([7, 8, 9], [8, 9, 1]), ([3], [4])]
    batches = Batches(ListedTexts(rows), 4).batch(0, micro_rows=2)
    assert [batch.positions is None for batch in batches] == [True, False]


@given(many_rows, st.integers(1, 6), st.integers(1, 4))
def test_reading_ahead_gives_the_same_batches(
    rows: list[Row], batch_rows: int, micro_rows: int
) -> None:
    plain = Batches(ListedRows(rows), batch_rows)
    with contextlib.closing(ReadAhead(Batches(ListedRows(rows), batch_rows), micro_rows)) as ahead:
        assert ahead.num_steps == plain.num_steps
        for step in [*range(plain.num_steps), 0]:  # a step out of order is no other
            found, expected = ahead.batch(step), plain.batch(step, micro_rows)
            assert [b.inputs.tolist() for b in found] == [b.inputs.tolist() for b in expected]
            assert [b.targets.tolist() for b in found] == [b.targets.tolist() for b in expected]


def test_the_next_step_is_read_while_this_one_is_worked_on() -> None:
    read = threading.Event()

    class Watched(ListedRows):
        def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
            if position == 1:
                read.set()
            return super().row(position)

    with contextlib.closing(ReadAhead(Batches(Watched([([1], [2])] * 3), 1))) as ahead:
        ahead.batch(0)
        assert read.wait(timeout=10)


def test_a_row_that_cannot_be_read_fails_at_its_step() -> None:
    class Broken(ListedRows):
        def row(self, position: int) -> tuple[np.ndarray, np.ndarray]:
            if position == 1:
                raise OSError("gone")
            return super().row(position)

    with contextlib.closing(ReadAhead(Batches(Broken([([1], [2])] * 3), 1))) as ahead:
        ahead.batch(0)
        with pytest.raises(OSError, match="gone"):
            ahead.batch(1)
