from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core import rng as module
from synboot.core.rng import key_digest, rng, seed_for, unit_interval

ELEMENT = st.one_of(st.integers(), st.text(), st.text(st.characters()))


@pytest.mark.parametrize("element", [1.0, True, None, b"a", ("a",), ["a"], np.float64(1)])
def test_a_key_is_made_of_int_and_str(element: Any) -> None:
    for function in (key_digest, rng, seed_for, unit_interval):
        with pytest.raises(TypeError, match="made of int and str, not"):
            function("a", element)


@settings(deadline=None)
@given(st.lists(ELEMENT, max_size=4), st.lists(ELEMENT, max_size=4))
def test_other_keys_have_other_digests(one: list[int | str], other: list[int | str]) -> None:
    assert (key_digest(*one) == key_digest(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab",), ("a", "b")),
        (("a", "b"), ("b", "a")),
        ((1,), ("1",)),
        ((12,), (1, 2)),
        (("i1:1",), (1,)),
        ((), ("",)),
        (("",), ("", "")),
        ((-1,), (1,)),
    ],
)
def test_keys_that_look_alike_are_told_apart(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert key_digest(*one) != key_digest(*other)


def test_a_numpy_int_is_an_int() -> None:
    for kind in (np.int64, np.uint8, np.int32):
        assert key_digest(kind(7), "a") == key_digest(7, "a")  # type: ignore[arg-type]


def test_streams_are_the_same_on_every_machine() -> None:
    assert rng(0, "shuffle", 1).integers(1_000_000, size=4).tolist() == [
        362051,
        399684,
        162231,
        412887,
    ]
    assert seed_for(0, "weights") == 3294745570193689654
    assert unit_interval(0, "split", "a") == 0.14775443822489787


@settings(deadline=None)
@given(st.lists(ELEMENT, min_size=1, max_size=3))
def test_ranges(key: list[int | str]) -> None:
    assert 0 <= seed_for(*key) < 2**63
    assert 0.0 <= unit_interval(*key) < 1.0


@pytest.mark.parametrize(("byte", "low", "high"), [(b"\xff", 0.999999, 1.0), (b"\x00", 0.0, 1e-9)])
def test_ranges_hold_at_their_ends(
    monkeypatch: pytest.MonkeyPatch, byte: bytes, low: float, high: float
) -> None:
    monkeypatch.setattr(module, "key_digest", lambda *key: byte * 16)
    assert low <= unit_interval("a") < high
    assert 0 <= seed_for("a") < 2**63


@pytest.mark.parametrize(
    "draw",
    [
        lambda i: unit_interval("uniform", i),
        lambda i: rng("uniform", i).random(),
        lambda i: seed_for("uniform", i) / 2**63,
    ],
)
def test_first_draws_of_neighbouring_keys_are_uniform(draw: Callable[[int], float]) -> None:
    # Fixed keys: this can never fail by chance, only by a change of the generator.
    draws = np.array([draw(i) for i in range(2000)])
    counts = np.histogram(draws, bins=10, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-square, 9 degrees: 0.1% tail
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.075  # 3.3 standard errors
