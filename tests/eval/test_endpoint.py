"""A judge behind an endpoint, against a loopback server that has every fault."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synboot.core.errors import BadInput, Incomplete
from synboot.eval.endpoint import Endpoint, EndpointJudge
from synboot.eval.judge import PROMPTS

sys.path.append(str(Path(__file__).parent))

from loopback import Reply, Server, completion, says


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, reached past any proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as made:
        yield made


def judge(server: Server, tmp_path: Path, **settings: Any) -> EndpointJudge:
    values = {"url": server.url, "model": "m", "first_wait_seconds": 0.001, "attempts": 4}
    return EndpointJudge(Endpoint(**values | settings), tmp_path / "answers")


TEXTS = ["good {text}", "a FAULT", "fine", "sane \ud800 half"]
SEEDS = ["seed", "seed", None, "seed"]


def test_it_asks_both_questions_and_understands(server: Server, tmp_path: Path) -> None:
    found = judge(server, tmp_path).judge(TEXTS, SEEDS)
    assert [answer.non_factual for answer in found] == [False, True, False, False]
    assert [answer.irrelevant for answer in found] == [False, True, None, False]
    assert len(server.requests) == 7
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}
    assert {request["model"] for request in server.requests} == {"m"}
    prompts = {request["messages"][0]["content"] for request in server.requests}
    assert PROMPTS["non_factual"].replace("{text}", "good {text}") in prompts
    assert all("Authorization" not in headers for headers in server.headers)


def test_the_key_comes_from_the_environment_and_stays_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = judge(server, tmp_path, key_variable="SOME_KEY")
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(BadInput, match="environment variable SOME_KEY"):
        asks.judge(["a"], [None])
    assert not server.requests
    monkeypatch.setenv("SOME_KEY", "secret123\n")
    asks.judge(["a"], [None])
    assert server.headers[0]["Authorization"] == "Bearer secret123"
    assert "secret123" not in json.dumps(asks.describe())
    for file in (tmp_path / "answers").rglob("*.json"):
        assert "secret123" not in file.read_text()


@pytest.mark.parametrize("fault", [
    (429, b"slow down", {"Retry-After": "0"}), (500, b"", {}), (503, b"<html>", {}),
    (200, b"no json", {}), (200, b'{"choices": []}', {}), (200, b"[1]", {}),
    (200, b'{"choices": [{"message": {"content": 7}}]}', {}), (408, b"", {"Retry-After": "soon"}),
])  # fmt: skip
def test_passing_faults_are_asked_again(server: Server, tmp_path: Path, fault: Reply) -> None:
    server.script = lambda number, body: fault if number < 3 else says(body)
    asks = judge(server, tmp_path, concurrency=1)
    assert asks.judge(["a FAULT"], [None])[0].non_factual is True
    assert len(server.requests) == 4
    assert asks.spent == {"requests": 4, "tokens": 10}


def test_an_endpoint_that_is_slow_is_asked_again(server: Server, tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.5 if number == 0 else 0)
        return says(body)

    server.script = script
    found = judge(server, tmp_path, timeout_seconds=0.1).judge(["a"], [None])
    assert found[0].non_factual is False
    assert len(server.requests) == 2


def test_waits_grow_and_heed_the_endpoint(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    asks = judge(server, tmp_path, first_wait_seconds=1.0)
    monkeypatch.setattr(asks._stopped, "wait", waits.append)
    server.script = lambda number, body: (429, b"", {"Retry-After": "7"} if number == 2 else {})
    found = asks.judge(["a"], [None])
    assert found[0].problems == ("failed_non_factual",)
    assert found[0].non_factual is None
    assert len(waits) == 3  # not after the last attempt
    assert 0.5 <= waits[0] < 1.5
    assert 1.0 <= waits[1] < 3.0
    assert waits[2] == 7.0  # of itself less than 6


@pytest.mark.parametrize(("status", "said"), [(401, "bad key"), (404, "no such model"), (400, "")])
def test_refusals_are_errors_of_the_user(
    server: Server, tmp_path: Path, status: int, said: str
) -> None:
    server.script = lambda number, body: (status, said.encode(), {})
    with pytest.raises(BadInput, match=f"model m: answered {status} .*{said}"):
        judge(server, tmp_path).judge([f"text {i}" for i in range(20)], [None] * 20)
    assert len(server.requests) <= 8  # those in flight


def test_a_redirect_is_refused(server: Server, tmp_path: Path) -> None:
    server.script = lambda number, body: (302, b"", {"Location": f"{server.url}/elsewhere"})
    with pytest.raises(BadInput, match="answered 302"):
        judge(server, tmp_path).judge(["a"], [None])
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}


def test_an_endpoint_that_is_down_ends_it_and_goes_on_later(server: Server, tmp_path: Path) -> None:
    """What was answered before is not asked again."""
    up = True
    server.script = lambda number, body: says(body) if up else (502, b"", {})
    asks = judge(server, tmp_path, concurrency=2, attempts=2)
    asks.judge(["one", "two"], [None, None])
    up = False
    texts = ["one", "two", *(f"more {i}" for i in range(30))]
    with pytest.raises(Incomplete, match=r"502 .*5 questions in a row"):
        asks.judge(texts, [None] * 32)
    before = len(server.requests)
    assert before <= 2 + 2 * 7
    up = True
    found = judge(server, tmp_path, concurrency=2).judge(texts, [None] * 32)
    assert len(server.requests) - before == 30
    assert all(answer.non_factual is False for answer in found)


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", first_wait_seconds=0.0, attempts=2)
    with pytest.raises(Incomplete, match="gave no answer"):
        EndpointJudge(endpoint, tmp_path).judge([f"text {i}" for i in range(9)], [None] * 9)


def test_one_text_that_fails_is_counted_and_the_others_judged(
    server: Server, tmp_path: Path
) -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        broken = "POISON" in body["messages"][0]["content"]
        return (500, b"", {}) if broken else says(body)

    server.script = script
    found = judge(server, tmp_path).judge(["a", "POISON", "FAULT"], ["s", "s", "s"])
    assert found[1].problems == ("failed_irrelevant", "failed_non_factual")
    assert (found[1].non_factual, found[1].irrelevant) == (None, None)
    assert [found[0].non_factual, found[2].non_factual] == [False, True]


def test_answers_that_cannot_be_understood_are_never_guessed(
    server: Server, tmp_path: Path
) -> None:
    server.script = lambda number, body: completion("It depends." if number else None)
    found = judge(server, tmp_path, concurrency=1).judge(["a"], ["s"])[0]
    assert (found.non_factual, found.irrelevant) == (None, None)
    assert found.problems == ("unparsed_irrelevant", "unparsed_non_factual")
    judge(server, tmp_path).judge(["a"], ["s"])
    assert len(server.requests) == 2  # an answer is an answer


def test_a_budget_of_requests_is_kept_to_the_request(server: Server, tmp_path: Path) -> None:
    server.script = lambda number, body: (500, b"", {}) if number % 3 == 0 else says(body)
    asks = judge(server, tmp_path, max_requests=10, attempts=9)
    found = asks.judge([f"text {i}" for i in range(30)], [None] * 30)
    assert len(server.requests) == 10
    answered = [answer for answer in found if answer.problems == ()]
    assert len(answered) == 6
    assert {answer.problems for answer in found} == {(), ("budget",)}
    assert all(answer.non_factual is None for answer in found if answer.problems)
    assert asks.judge(["another"], [None])[0].problems == ("budget",)


MOST = len(PROMPTS["non_factual"]) - len("{text}") + len("text 0") + 16
"""Tokens that are reserved for one of the questions below; each costs 10."""


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_budget_of_tokens_and_what_was_kept_counts(
    server: Server, tmp_path: Path, concurrency: int
) -> None:
    texts = [f"text {i}" for i in range(8)]
    asks = judge(server, tmp_path, max_tokens=MOST + 35, concurrency=concurrency)
    found = asks.judge(texts, [None] * 8)
    assert [bool(answer.problems) for answer in found] == [False] * 4 + [True] * 4
    assert asks.spent == {"requests": 4, "tokens": 40}
    again = judge(server, tmp_path, max_tokens=MOST + 35, concurrency=concurrency)
    assert [a.problems for a in again.judge(texts, [None] * 8)] == [a.problems for a in found]
    assert len(server.requests) == 4  # the budget of the whole judging, resumed or not
    more = judge(server, tmp_path, max_tokens=MOST + 55, concurrency=concurrency)
    assert sum(not a.problems for a in more.judge(texts, [None] * 8)) == 6
    assert len(server.requests) == 6


@pytest.mark.parametrize("cost", [10, 300])
def test_a_budget_of_tokens_is_never_overrun(server: Server, tmp_path: Path, cost: int) -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.02)
        return completion("no", cost)

    server.script = script
    asks = judge(server, tmp_path, max_tokens=MOST + 100, concurrency=8)
    asks.judge([f"text {i:03}" for i in range(20)], [None] * 20)
    assert 100 - 2 < asks.spent["tokens"] <= MOST + 100


@pytest.mark.parametrize("budget", [{"max_requests": 7}, {"max_tokens": MOST + 65}])
def test_a_budget_pays_in_the_order_of_texts(
    server: Server, tmp_path: Path, budget: dict[str, int]
) -> None:
    """However late answers come, and whatever was kept: 4 and 9 are known from before."""
    texts = [f"text {i}" for i in range(10)]
    judge(server, tmp_path).judge([texts[4], texts[9]], [None] * 2)
    server.script = lambda number, body: (time.sleep(0.05 * (number % 3)), says(body))[1]
    for _ in range(2):
        found = judge(server, tmp_path, **budget).judge(texts, [None] * 10)
        assert [bool(answer.problems) for answer in found] == [False] * 7 + [True] * 3


def test_an_answer_is_paid_once(server: Server, tmp_path: Path) -> None:
    asks = judge(server, tmp_path, max_requests=3)
    for _ in range(5):
        assert asks.judge(["one", "two"], [None] * 2)[1].problems == ()
    assert asks.spent == {"requests": 2, "tokens": 20}
    assert asks.judge(["three"], [None])[0].problems == ()


def test_it_stops_while_it_waits(server: Server, tmp_path: Path) -> None:
    server.script = lambda number, body: (503, b"", {"Retry-After": "30"})
    asks = judge(server, tmp_path)

    def stop() -> None:
        raise Incomplete("stopped")

    asks.while_waiting = stop
    began = time.monotonic()
    with pytest.raises(Incomplete, match="stopped"):
        asks.judge(["a", "b"], [None] * 2)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("key", ["sk-a\nsk-b", "sk-a sk-b", "sk-ключ", "sk-\x7f"])
def test_a_key_that_no_header_can_hold_is_an_error_that_does_not_show_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(BadInput, match="variable SOME_KEY: expected") as error:
        judge(server, tmp_path, key_variable="SOME_KEY").judge(["a"], [None])
    assert "sk-" not in str(error.value)
    assert not server.requests


@pytest.mark.parametrize("status", [401, 503])
def test_an_endpoint_that_repeats_the_key_does_not_show_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    server.script = lambda number, body: (status, b"wrong key sk-secret", {})
    asks = judge(server, tmp_path, key_variable="SOME_KEY", attempts=1)
    with pytest.raises((BadInput, Incomplete)) as error:
        asks.judge([f"text {i}" for i in range(9)], [None] * 9)
    assert "sk-secret" not in str(error.value)
    assert status != 401 or "wrong key ***" in str(error.value)


def test_answers_of_another_endpoint_are_not_its_own(server: Server, tmp_path: Path) -> None:
    judge(server, tmp_path).judge(["a"], [None])
    judge(server, tmp_path, url=server.url + "/").judge(["a"], [None])
    assert len(server.requests) == 1
    elsewhere = server.url.replace("/v1", "/other/v1")
    judge(server, tmp_path, url=elsewhere).judge(["a"], [None])
    assert len(server.requests) == 2


def test_tokens_that_are_not_reported_count_as_bytes(server: Server, tmp_path: Path) -> None:
    server.script = lambda number, body: completion("no", None)
    asks = judge(server, tmp_path)
    asks.judge(["ä"], [None])
    assert asks.spent["tokens"] == len(PROMPTS["non_factual"].replace("{text}", "ä").encode()) + 2


def test_requests_run_side_by_side_but_no_more_than_asked(server: Server, tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.03)
        return says(body)

    server.script = script
    judge(server, tmp_path, concurrency=4).judge([f"t{i}" for i in range(16)], [None] * 16)
    assert 2 <= server.most_together <= 4


def test_long_texts_are_cut_and_said_to_be(server: Server, tmp_path: Path) -> None:
    found = judge(server, tmp_path, max_characters=100).judge(["x" * 101, "y"], [None, "z" * 101])
    assert [answer.problems for answer in found] == [("cut",), ("cut",)]
    longest = max(len(request["messages"][0]["content"]) for request in server.requests)
    assert longest <= max(map(len, PROMPTS.values())) + 100


def test_damaged_kept_answers_are_asked_for_again(server: Server, tmp_path: Path) -> None:
    asks = judge(server, tmp_path)
    asks.judge(["a", "b", "c"], [None] * 3)
    files = sorted((tmp_path / "answers").rglob("*.json"))
    assert len(files) == 3
    files[0].write_text("{")
    files[1].write_text("[]")
    judge(server, tmp_path).judge(["a", "b", "c"], [None] * 3)
    assert len(server.requests) == 5


def test_another_model_or_another_seed_is_another_question(server: Server, tmp_path: Path) -> None:
    judge(server, tmp_path).judge(["a"], ["s"])
    judge(server, tmp_path).judge(["a"], ["t"])
    assert len(server.requests) == 3  # the fact of a text does not depend on its seed
    judge(server, tmp_path, model="n").judge(["a"], ["s"])
    assert len(server.requests) == 5
