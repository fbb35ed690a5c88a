from __future__ import annotations

import copy

import pytest

from synboot.core.errors import (
    BadInput,
    GateFellShort,
    Incomplete,
    Interrupted,
    SynbootError,
)

CASES = [
    (SynbootError("x"), 1),
    (BadInput("x"), 2),
    (GateFellShort("x"), 3),
    (Incomplete("x"), 4),
    (Interrupted(2), 130),
    (Interrupted(15), 143),
]


@pytest.mark.parametrize(("error", "exit_code"), CASES)
def test_each_has_its_exit_code(error: SynbootError, exit_code: int) -> None:
    assert error.exit_code == exit_code


@pytest.mark.parametrize("error", [error for error, _ in CASES])
def test_each_can_cross_processes(error: SynbootError) -> None:
    other = copy.copy(error)  # made again by the protocol that carries it between processes
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert other.exit_code == error.exit_code
