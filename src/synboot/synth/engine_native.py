"""Sampling on a core of a CPU: continuous batching, one pass over a prompt for all its draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from synboot.core.rng import rng
from synboot.model.native import PAGE, ROW, CacheType, NativeDecoder
from synboot.synth.engine import Completion, Request, SamplingConfig, drawable, limit_of

_PREFILL_ROWS = 512  # of prompts that are computed in one call


class NativeEngine:
    """At most `slots` requests advance together, one token a step; one that ends makes room for the
    next at once. Requests with the same prompt are taken one after the other: it is computed once,
    and its keys and values are stored once. A draw depends on its request alone, to the last bit,
    whatever `slots` and the others are.

    `cache` bfloat16 halves the memory of keys and values, which rounds what is sampled from.
    Raises BadInput for models that `NativeDecoder` does not serve.
    """

    name = "native"

    def __init__(
        self,
        model: Any,
        *,
        context: int,
        end_id: int,
        slots: int,
        num_tokens: int | None = None,
        cache: CacheType = "float32",
    ) -> None:
        self.num_tokens = drawable(model, end_id, num_tokens)
        self.context = context
        self.end_id = end_id
        self.slots = slots
        pages = context // PAGE + 2  # of a prompt and what follows it, each with a last page
        self.decoder = NativeDecoder(model, capacity=context, num_pages=slots * pages, cache=cache)

    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        """One completion for each request, in order."""
        return _Run(self, requests, sampling).complete()


@dataclass
class _Prompt:
    """A prompt in the cache: where in the page table its pages begin, and the logits after it."""

    place: int
    pages: list[int]
    waiting: int
    """Draws of it that have not ended."""
    logits: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


class _Run:
    """One call of `sample`. Arrays are by slot; a slot without a request is not live."""

    def __init__(
        self, engine: NativeEngine, requests: Sequence[Request], sampling: SamplingConfig
    ) -> None:
        self._decoder = engine.decoder
        self._end_id = engine.end_id
        self._num_tokens = engine.num_tokens
        self._sampling = sampling
        self._requests = requests
        self._limits = [limit_of(r, engine.context, sampling) for r in requests]
        self._keys = [request.prompt.tobytes() for request in requests]
        order: dict[bytes, list[int]] = {}
        for index, key in enumerate(self._keys):
            order.setdefault(key, []).append(index)
        self._queue = iter([index for group in order.values() for index in group])
        self._draws = {key: len(group) for key, group in order.items()}
        self._completions: list[Completion | None] = [None] * len(requests)

        slots = min(engine.slots, len(requests))
        most = max(self._limits, default=1)
        self._entries = -(-engine.context // PAGE) + 1  # of the table, for one list of pages
        self._table = np.zeros(2 * slots * self._entries, np.int32)
        self._free_pages = list(range(engine.decoder.num_pages))
        self._free_places = [(slots + number) * self._entries for number in range(slots)]
        self._prompts: dict[bytes, _Prompt] = {}
        self._rows = np.zeros(slots, ROW)
        self._rows["own_pages"] = np.arange(slots) * self._entries
        self._request = np.full(slots, -1)
        self._counts = np.zeros(slots, np.int64)
        self._limit = np.zeros(slots, np.int64)
        self._tokens = np.zeros((slots, most), np.int64)
        self._uniforms = np.zeros((slots, most + 1), np.float32)

    def complete(self) -> list[Completion]:
        """Until nothing is left."""
        while True:
            while len(started := self._admit()):
                self._accept(started, self._first_tokens(started))
            live = np.flatnonzero(self._request >= 0)
            if not len(live):
                return [completion for completion in self._completions if completion is not None]
            hidden = self._decoder.forward(self._rows[live], self._table, np.arange(len(live)))
            logits = self._decoder.logits(hidden)
            self._accept(live, self._choose(logits, np.arange(len(live)), live))

    def _admit(self) -> np.ndarray:
        """Give free slots the next requests, and compute the prompts that are new; those slots."""
        started, new = [], []
        for slot in np.flatnonzero(self._request < 0).tolist():
            if (index := next(self._queue, None)) is None:
                break
            key, prompt = self._keys[index], self._requests[index].prompt
            if key not in self._prompts:
                self._prompts[key] = self._place(key, len(prompt))
                new.append(index)
            limit = self._limits[index]
            self._request[slot], self._limit[slot], self._counts[slot] = index, limit, 0
            self._rows["prefix_pages"][slot] = self._prompts[key].place
            self._rows["prefix_length"][slot] = len(prompt)
            uniforms = rng(*self._requests[index].key).random(limit, dtype=np.float32)
            self._uniforms[slot, :limit] = uniforms
            started.append(slot)
        self._compute(new)
        return np.array(started, np.int64)

    def _place(self, key: bytes, length: int) -> _Prompt:
        pages = [self._free_pages.pop() for _ in range(-(-length // PAGE))]
        place = self._free_places.pop()
        self._table[place : place + len(pages)] = pages
        return _Prompt(place, pages, self._draws[key])

    def _compute(self, indices: Sequence[int]) -> None:
        """Keys, values and the following logits of the prompts of requests."""
        if not indices:
            return
        rows = np.concatenate([self._prompt_rows(index) for index in indices])
        lengths = [len(self._requests[index].prompt) for index in indices]
        last = np.cumsum(lengths) - 1
        hidden = []
        for first in range(0, len(rows), _PREFILL_ROWS):
            wanted = last[(last >= first) & (last < first + _PREFILL_ROWS)] - first
            part = rows[first : first + _PREFILL_ROWS]
            hidden.append(self._decoder.forward(part, self._table, wanted))
        logits = self._decoder.logits(np.concatenate(hidden))
        for index, row in zip(indices, logits, strict=True):
            self._prompts[self._keys[index]].logits = row

    def _prompt_rows(self, index: int) -> np.ndarray:
        prompt = self._requests[index].prompt
        rows = np.zeros(len(prompt), ROW)
        rows["id"] = prompt
        rows["position"] = np.arange(len(prompt))
        rows["own_pages"] = self._prompts[self._keys[index]].place
        rows["own_length"] = rows["position"] + 1
        return rows

    def _first_tokens(self, slots: np.ndarray) -> np.ndarray:
        rows: dict[bytes, int] = {}
        keys = [self._keys[self._request[slot]] for slot in slots]
        row_of = np.array([rows.setdefault(key, len(rows)) for key in keys])
        logits = np.stack([self._prompts[key].logits for key in rows])
        return self._choose(logits, row_of, slots)

    def _choose(self, logits: np.ndarray, row_of: np.ndarray, slots: np.ndarray) -> np.ndarray:
        return self._decoder.choose(
            logits,
            row_of,
            self._uniforms[slots, self._counts[slots]],
            num_tokens=self._num_tokens,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            top_k=self._sampling.top_k,
        )

    def _accept(self, slots: np.ndarray, drawn: np.ndarray) -> None:
        """Take a drawn token for each of `slots`; those that end are free afterwards."""
        ended = drawn == self._end_id
        self._tokens[slots, self._counts[slots]] = drawn  # END is written and not counted
        self._counts[slots] += ~ended
        done = ended | (self._counts[slots] == self._limit[slots])
        for slot, end in zip(slots[done].tolist(), ended[done].tolist(), strict=True):
            self._finish(slot, end)
        slots, drawn = slots[~done], drawn[~done]
        counts = self._counts[slots]
        self._rows["id"][slots] = drawn
        self._rows["own_length"][slots] = counts
        self._rows["position"][slots] = self._rows["prefix_length"][slots] + counts - 1
        for slot in slots[(counts - 1) % PAGE == 0].tolist():
            entry = slot * self._entries + (self._counts[slot] - 1) // PAGE
            self._table[entry] = self._free_pages.pop()

    def _finish(self, slot: int, ended: bool) -> None:
        index, count = int(self._request[slot]), int(self._counts[slot])
        tokens = self._tokens[slot, :count].copy()
        self._completions[index] = Completion(tokens, "end" if ended else "length")
        self._request[slot] = -1
        fed = count if ended else count - 1  # the last token of a full one was not fed back
        pages = -(-fed // PAGE)
        first = slot * self._entries
        self._free_pages += self._table[first : first + pages].tolist()
        prompt = self._prompts[self._keys[index]]
        prompt.waiting -= 1
        if not prompt.waiting:
            self._free_pages += prompt.pages
            self._free_places.append(prompt.place)
            del self._prompts[self._keys[index]]
