from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from synboot.synth.order import DrawOrder

orders = st.builds(DrawOrder, st.integers(1, 30), st.integers(1, 9), st.integers(0, 99))


@given(order=orders, rounds=st.integers(1, 3))
def test_whole_rounds_draw_from_every_document_equally_often(order: DrawOrder, rounds: int) -> None:
    most = rounds * order.draws_per_prompt
    places = [order.place(index) for index in range(order.size(most))]
    assert len(places) == most * order.num_seeds
    assert len(set(places)) == len(places)
    assert set(places) == {(s, n) for s in range(order.num_seeds) for n in range(most)}


@given(order=orders, stop=st.integers(0, 200))
def test_no_document_is_more_than_a_round_ahead(order: DrawOrder, stop: int) -> None:
    counts = Counter(order.place(index)[0] for index in range(stop))
    numbers = [counts[seed] for seed in range(order.num_seeds)]
    assert max(numbers) - min(numbers) <= order.draws_per_prompt


@given(order=orders, first=st.integers(0, 500))
def test_a_place_does_not_depend_on_what_was_asked_before(order: DrawOrder, first: int) -> None:
    fresh = DrawOrder(order.num_seeds, order.draws_per_prompt, order.seed)
    order.place(3)
    assert order.place(first) == fresh.place(first)


def test_draws_of_a_document_follow_each_other() -> None:
    order = DrawOrder(50, 4, 1)
    for group in range(75):
        places = [order.place(4 * group + i) for i in range(4)]
        assert len({seed for seed, _ in places}) == 1
        assert [number % 4 for _, number in places] == [0, 1, 2, 3]


def test_rounds_have_orders_of_their_own() -> None:
    order = DrawOrder(50, 2, 1)
    rounds = [[order.place(100 * r + 2 * i)[0] for i in range(50)] for r in range(3)]
    assert rounds[0] != rounds[1] != rounds[2] != rounds[0]
    assert rounds[0] != list(range(50))
    assert rounds[0] != [DrawOrder(50, 2, 2).place(2 * i)[0] for i in range(50)]


def test_size_is_whole_rounds() -> None:
    assert [DrawOrder(5, 4, 0).size(n) for n in (1, 4, 5, 8)] == [20, 20, 40, 40]
