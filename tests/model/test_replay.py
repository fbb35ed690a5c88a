from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from synboot.model.replay import Replay


class Graph:
    """A stand-in for a CUDA graph: what was captured, which runs when it is replayed."""

    def __init__(self, function: Callable[[], None], calls: list[str]) -> None:
        self._function, self._calls = function, calls

    def replay(self) -> None:
        self._calls.append("replay")
        self._function()


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> Replay:
    """As on a GPU, with stand-ins for what needs one."""

    def warm_up(function: Callable[[], None]) -> None:
        calls.append("warm up")
        function()

    def capture(function: Callable[[], None]) -> Any:
        calls.append("capture")
        return Graph(function, calls)

    made = Replay(torch.device("cuda"))
    monkeypatch.setattr(made, "_warm_up", warm_up)
    monkeypatch.setattr(made, "_capture", capture)
    return made


def test_a_function_runs_once_a_call_and_is_captured_at_the_second(
    replay: Replay, calls: list[str]
) -> None:
    sums = {"a": 0, "b": 0}

    def add(name: str) -> None:
        sums[name] += 1

    for turn in range(1, 5):
        replay("a", lambda: add("a"))
        assert sums["a"] == turn
    replay("b", lambda: add("b"))
    assert sums == {"a": 4, "b": 1}
    assert calls == ["warm up", "capture", "replay", "replay", "replay", "warm up"]


def test_a_capture_that_fails_is_said_and_nothing_is_captured_again(
    replay: Replay, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(function: Callable[[], None]) -> Any:
        calls.append("capture")
        raise RuntimeError("operation not permitted when stream is capturing")

    counts = []
    replay("a", lambda: counts.append(1))
    monkeypatch.setattr(replay, "_capture", fail)
    with pytest.warns(UserWarning, match="could not be captured: operation not permitted"):
        replay("a", lambda: counts.append(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay("a", lambda: counts.append(1))
        replay("b", lambda: counts.append(1))
    assert len(counts) == 4
    assert calls == ["warm up", "capture"]
    assert "not permitted" in (replay.reason or "")


def test_elsewhere_functions_are_called() -> None:
    made, counts = Replay(torch.device("cpu")), []
    for _ in range(3):
        made("a", lambda: counts.append(1))
    assert len(counts) == 3
    assert made.reason == "there are no graphs on a cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_reads_and_writes_the_same_tensors() -> None:
    state, made = torch.zeros(3, device="cuda"), Replay(torch.device("cuda"))
    for turn in range(5):
        state[0] = turn
        made("add", lambda: state.add_(1))
        assert state.tolist() == [turn + 1, turn + 1, turn + 1]
    assert made.reason is None
    made("wait", lambda: state.fill_(float(state.sum())))
    with pytest.warns(UserWarning, match="could not be captured"):
        made("wait", lambda: state.fill_(float(state.sum())))
    made("add", lambda: state.add_(1))
    assert made.reason is not None
