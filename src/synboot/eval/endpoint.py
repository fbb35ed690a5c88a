"""A judge behind an OpenAI-compatible endpoint: budget, retries, answers kept on disk.

The only code that talks to a network beyond the corpus's own URLs, and only where it is told to.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from synboot.core.errors import BadInput, Incomplete
from synboot.core.rng import unit_interval
from synboot.core.storage import digest, read_json, write_json
from synboot.eval.judge import PROMPTS, QUESTIONS, Answer, Question, fill, parse_answer

_TRANSIENT = {408, 409, 425, 429}
"""And everything from 500 on: worth asking again."""
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_MAX_BODY_BYTES = 1 << 22
_LOOK_SECONDS = 0.2
"""How often it is looked whether to stop, while answers are waited for."""
_Outcome = tuple[bool | None, str | None]
"""An answer that was understood, or what was wrong."""
_FAILURES_IN_A_ROW = 5
"""Questions that came to nothing, one after another, after which the endpoint counts as down."""


@dataclass(frozen=True)
class Endpoint:
    """Where the model is and how it is asked."""

    url: str
    model: str
    key_variable: str | None = None
    max_requests: int | None = None
    max_tokens: int | None = None
    answer_tokens: int = 16
    max_characters: int = 8000
    concurrency: int = 8
    timeout_seconds: float = 60.0
    attempts: int = 6
    first_wait_seconds: float = _FIRST_WAIT_SECONDS


class EndpointJudge:
    """Asks a model behind an endpoint; what it answered is kept below `answers` by question, texts,
    model and endpoint, and not asked again.

    Who is paid for is decided in the order of the texts, of kept answers as of new ones: a question
    that has not been paid for needs room for the most it may cost, which is a token for each byte
    of its prompt and those of its answer. So what a budget leaves unasked depends neither on the
    order in which answers come nor on what was kept.
    """

    def __init__(self, endpoint: Endpoint, answers: Path) -> None:
        self.endpoint = endpoint
        self.answers = answers
        self.while_waiting: Callable[[], None] = lambda: None
        """Called every now and then while answers are waited for; may raise, to stop."""
        self._settled = threading.Condition()
        self._stopped = threading.Event()
        self._requests = self._tokens = self._failures = 0
        self._open = self._reserved = 0  # questions that are being asked, their most tokens
        self._paid: set[str] = set()
        self._down: Exception | None = None
        self._opener = urllib.request.build_opener(_NoRedirect)

    @property
    def at_once(self) -> int:
        """How many texts it wants at a time, at least, to be busy."""
        return self.endpoint.concurrency

    def describe(self) -> Mapping[str, Any]:
        """The model by its name, the prompts, the budget. Not the endpoint: the same model may be
        served anywhere."""
        return {
            "judge": "endpoint",
            "model": self.endpoint.model,
            "prompts": dict(PROMPTS),
            "temperature": 0,
            "answer_tokens": self.endpoint.answer_tokens,
            "max_characters": self.endpoint.max_characters,
            "max_requests": self.endpoint.max_requests,
            "max_tokens": self.endpoint.max_tokens,
        }

    def check(self) -> None:
        """Raises BadInput if the variable that should hold the API key is not set, or holds what no
        header can."""
        variable = self.endpoint.key_variable
        if variable is None:
            return
        key = self._key()
        if not key:
            raise BadInput(f"judge: expected an API key in the environment variable {variable}")
        if not all("!" <= character <= "~" for character in key):
            raise BadInput(
                f"judge: environment variable {variable}: expected an API key of printable ASCII "
                "characters without white space"
            )

    def _key(self) -> str:
        return os.environ.get(self.endpoint.key_variable or "", "").strip()

    def _without_key(self, text: str) -> str:
        key = self._key()
        return text.replace(key, "***") if key else text

    @property
    def spent(self) -> dict[str, int]:
        """Requests and tokens of all answers so far, those that were kept from before among
        them."""
        return {"requests": self._requests, "tokens": self._tokens}

    def judge(self, texts: Sequence[str], seeds: Sequence[str | None]) -> list[Answer]:
        """One judgement for each text.

        Raises BadInput where the endpoint refuses (wrong key, unknown model), Incomplete where it
        is down: what was answered is kept, so that the same command goes on.
        """
        self.check()
        self._open = self._reserved = 0
        self._stopped.clear()
        asked: list[dict[Question, Future[_Outcome]]] = []
        once: dict[str, Future[_Outcome]] = {}  # equal texts share a question
        threads = ThreadPoolExecutor(self.endpoint.concurrency)
        try:
            for text, seed in zip(texts, seeds, strict=True):
                asked.append({})
                for question in QUESTIONS if seed is not None else QUESTIONS[:1]:
                    prompt = self._prompt(question, text, seed or "")
                    if prompt not in once:
                        once[prompt] = self._begin(threads, question, prompt)
                    asked[-1][question] = once[prompt]
            while wait(once.values(), _LOOK_SECONDS).not_done:
                self.while_waiting()
        finally:
            self._stopped.set()  # waits end, and the requests in flight are the last
            threads.shutdown(cancel_futures=True)
        if self._down is not None:
            raise self._down
        longest = self.endpoint.max_characters
        return [
            _answer(own, len(text) > longest or len(seed or "") > longest)
            for own, text, seed in zip(asked, texts, seeds, strict=True)
        ]

    def _prompt(self, question: Question, text: str, seed: str) -> str:
        longest = self.endpoint.max_characters
        return _writable(fill(question, text[:longest], seed[:longest]))

    def _begin(
        self, threads: ThreadPoolExecutor, question: Question, prompt: str
    ) -> Future[_Outcome]:
        """The answer to come, where there is room for it; and what kept it from being one."""
        endpoint = self.endpoint
        key = digest(
            {
                "endpoint": digest(endpoint.url.rstrip("/")),
                "model": endpoint.model,
                "answer_tokens": endpoint.answer_tokens,
                "prompt": prompt,
            }
        )
        file = self.answers / key[:2] / f"{key}.json"
        kept = _kept(file)
        most_tokens = len(prompt.encode()) + endpoint.answer_tokens
        known: Future[_Outcome] = Future()
        if kept is not None and key in self._paid:
            known.set_result(_understood(kept, question))
        elif not self._reserve(1 if kept is None else kept["requests"], most_tokens):
            known.set_result((None, "budget"))
        elif kept is None:
            self._paid.add(key)
            return threads.submit(self._ask, question, prompt, file, most_tokens)
        else:
            self._paid.add(key)
            self._settle(most_tokens, kept["tokens"])
            known.set_result(_understood(kept, question))
        return known

    def _ask(self, question: Question, prompt: str, file: Path, reserved: int) -> _Outcome:
        """The answer to a question that was not asked before, which is kept in `file`."""
        cost = 0
        try:
            new = self._request(prompt)
            if isinstance(new, str):
                return None, new if new == "budget" else f"{new}_{question}"
            cost = new["tokens"]
            write_json(file, {"question": question, "model": self.endpoint.model, **new})
            return _understood(new, question)
        finally:
            self._settle(reserved, cost)

    def _reserve(self, requests: int, tokens: int) -> bool:
        """Take so much of the budget, if there is room once all before has been settled."""
        while True:
            with self._settled:
                if self._has_room(requests, tokens):
                    self._requests += requests
                    self._reserved += tokens
                    self._open += 1
                    return True
                if not self._open:
                    return False
                self._settled.wait(_LOOK_SECONDS)
            self.while_waiting()

    def _settle(self, reserved: int, tokens: int) -> None:
        """What was reserved did cost `tokens`."""
        with self._settled:
            self._reserved -= reserved
            self._tokens += tokens
            self._open -= 1
            self._settled.notify_all()

    def _has_room(self, requests: int, tokens: int) -> bool:
        most = self.endpoint
        return (most.max_requests is None or self._requests + requests <= most.max_requests) and (
            most.max_tokens is None or self._tokens + self._reserved + tokens <= most.max_tokens
        )

    def _request(self, prompt: str) -> dict[str, Any] | str:
        """`content`, `requests`, `tokens` of an answer; `budget` or `failed` where none came. The
        first request was reserved, and none of them is for the tokens."""
        problem = ""
        for attempt in range(self.endpoint.attempts):
            with self._settled:
                if self._down is not None or self._stopped.is_set():
                    self._requests -= attempt == 0
                    return "failed"
                if attempt and not self._has_room(1, 0):
                    return "budget"
                self._requests += attempt > 0
            pause = self.endpoint.first_wait_seconds * 2**attempt
            pause *= 0.5 + unit_interval("judge", prompt, attempt)
            try:
                content, tokens = self._post(prompt)
            except urllib.error.HTTPError as error:
                problem = f"answered {error.code} {error.reason}"
                with error:
                    if error.code not in _TRANSIENT and error.code < 500:
                        self._refused(f"{problem}: {_excerpt(error)}")
                        return "failed"
                    pause = max(pause, _asked_to_wait(error))
            except (OSError, HTTPException, ValueError) as error:
                problem = f"gave no answer: {error or type(error).__name__}"
            else:
                with self._settled:
                    self._failures = 0
                return {"content": content, "requests": attempt + 1, "tokens": tokens}
            if attempt + 1 < self.endpoint.attempts:
                self._stopped.wait(min(pause, _LONGEST_WAIT_SECONDS))
        with self._settled:
            self._failures += 1
            if self._failures >= _FAILURES_IN_A_ROW:
                self._down = self._down or Incomplete(
                    self._without_key(
                        f"judge: {self.endpoint.url} {problem}, {self._failures} questions in a "
                        "row; answers so far are kept, and the same command goes on"
                    )
                )
        return "failed"

    def _refused(self, problem: str) -> None:
        said = f"judge: {self.endpoint.url}, model {self.endpoint.model}: {problem}"
        with self._settled:
            self._down = self._down or BadInput(self._without_key(said))

    def _post(self, prompt: str) -> tuple[str | None, int]:
        """The content of an answer and the tokens it cost. Raises HTTPError, OSError for a network
        that fails or is too slow, ValueError for what is no answer."""
        body = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.endpoint.answer_tokens,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.endpoint.key_variable is not None:
            headers["Authorization"] = f"Bearer {self._key()}"
        request = urllib.request.Request(
            self.endpoint.url.rstrip("/") + "/chat/completions",
            json.dumps(body).encode("utf-8"),
            headers,
        )
        seconds = self.endpoint.timeout_seconds
        deadline = time.monotonic() + seconds
        with self._opener.open(request, timeout=seconds) as response:
            data = bytearray()
            while chunk := response.read1(1 << 16):
                data += chunk
                if len(data) > _MAX_BODY_BYTES:
                    raise ValueError("an answer of more than 4 MB")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"more than {seconds:g} seconds")
        return _content(bytes(data), prompt)


def _content(data: bytes, prompt: str) -> tuple[str | None, int]:
    """What an answer says, and its tokens; where it counts none, its bytes and the prompt's, which
    are never fewer."""
    try:
        answer = json.loads(data)
        content = answer["choices"][0]["message"]["content"]
        usage = answer.get("usage") or {}
        tokens = usage.get("total_tokens")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError("expected a chat completion") from None
    if content is not None and not isinstance(content, str):
        raise ValueError("expected a chat completion with text")
    content = None if content is None else _writable(content)
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
        tokens = len(prompt.encode()) + len((content or "").encode())
    return content, tokens


def _answer(asked: Mapping[Question, Future[_Outcome]], cut: bool) -> Answer:
    found = {question: future.result() for question, future in asked.items()}
    problems = {problem for _, problem in found.values() if problem is not None}
    return Answer(
        found["non_factual"][0],
        found["irrelevant"][0] if "irrelevant" in found else None,
        tuple(sorted(problems | ({"cut"} if cut else set()))),
    )


def _understood(kept: Mapping[str, Any], question: Question) -> _Outcome:
    answer = parse_answer(kept["content"])
    return answer, f"unparsed_{question}" if answer is None else None


def _writable(text: str) -> str:
    """The text without halves of surrogate pairs, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


def _kept(file: Path) -> dict[str, Any] | None:
    """An answer that was kept, if there is a whole one."""
    with contextlib.suppress(OSError, ValueError):
        kept = read_json(file)
        if isinstance(kept, dict) and {"content", "requests", "tokens"} <= set(kept):
            return kept
    return None


def _excerpt(error: urllib.error.HTTPError) -> str:
    with contextlib.suppress(OSError, HTTPException):
        return " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
    return ""


def _asked_to_wait(error: urllib.error.HTTPError) -> float:
    """Seconds that the endpoint asks for, if it does in seconds."""
    try:
        return max(0.0, float(error.headers.get("Retry-After") or 0))
    except ValueError:
        return 0.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is a refusal: following it would show the key to another host."""

    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:
        return None
