"""Sampling on a core of a CPU: continuous batching, one pass over a prompt for all its draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from synboot.model.native import PAGE, ROW, NativeDecoder
from synboot.model.settings import CacheType
from synboot.synth.engine import Completion, Request, drawable
from synboot.synth.settings import SamplingConfig
from synboot.synth.slots import SlotRun, groups_of

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
    length: int
    logits: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


class _Run(SlotRun):
    """One call of `sample`."""

    def __init__(
        self, engine: NativeEngine, requests: Sequence[Request], sampling: SamplingConfig
    ) -> None:
        slots = min(engine.slots, len(requests))
        options = {"slots": slots, "context": engine.context, "end_id": engine.end_id}
        super().__init__(requests, sampling, groups_of(requests), **options)
        self._decoder = engine.decoder
        self._num_tokens = engine.num_tokens
        self._entries = -(-engine.context // PAGE) + 1  # of the table, for one list of pages
        self._table = np.zeros(2 * slots * self._entries, np.int32)
        self._free_pages = list(range(engine.decoder.num_pages))
        self._free_places = [(slots + number) * self._entries for number in range(slots)]
        self._prompts: dict[int, _Prompt] = {}
        self._rows = np.zeros(slots, ROW)
        self._rows["own_pages"] = np.arange(slots) * self._entries

    def open(self, group: int, length: int) -> bool:
        """A place and pages, of which there are enough."""
        pages = [self._free_pages.pop() for _ in range(-(-length // PAGE))]
        place = self._free_places.pop()
        self._table[place : place + len(pages)] = pages
        self._prompts[group] = _Prompt(place, pages, length)
        return True

    def take(self, slot: int, group: int) -> None:
        """The slot's rows see the prompt's pages."""
        self._rows["prefix_pages"][slot] = self._prompts[group].place
        self._rows["prefix_length"][slot] = self._prompts[group].length

    def compute(self, indices: Sequence[int]) -> None:
        """Keys, values and the following logits of the prompts of requests."""
        rows = np.concatenate([self._prompt_rows(index) for index in indices])
        lengths = [len(self.requests[index].prompt) for index in indices]
        last = np.cumsum(lengths) - 1
        hidden = []
        for first in range(0, len(rows), _PREFILL_ROWS):
            wanted = last[(last >= first) & (last < first + _PREFILL_ROWS)] - first
            part = rows[first : first + _PREFILL_ROWS]
            hidden.append(self._decoder.forward(part, self._table, wanted))
        logits = self._decoder.logits(np.concatenate(hidden))
        for index, row in zip(indices, logits, strict=True):
            self._prompts[int(self.group_of[index])].logits = row

    def _prompt_rows(self, index: int) -> np.ndarray:
        prompt = self.requests[index].prompt
        rows = np.zeros(len(prompt), ROW)
        rows["id"] = prompt
        rows["position"] = np.arange(len(prompt))
        rows["own_pages"] = self._prompts[int(self.group_of[index])].place
        rows["own_length"] = rows["position"] + 1
        return rows

    def first_tokens(self, slots: np.ndarray) -> np.ndarray:
        """From the logits of each prompt."""
        groups, row_of = np.unique(self.group_of[self.request[slots]], return_inverse=True)
        logits = np.stack([self._prompts[group].logits for group in groups.tolist()])
        return self._choose(logits, row_of, slots)

    def next_tokens(self, slots: np.ndarray) -> np.ndarray:
        """A forward pass of a row for each slot."""
        hidden = self._decoder.forward(self._rows[slots], self._table, np.arange(len(slots)))
        return self._choose(self._decoder.logits(hidden), np.arange(len(slots)), slots)

    def _choose(self, logits: np.ndarray, row_of: np.ndarray, slots: np.ndarray) -> np.ndarray:
        return self._decoder.choose(
            logits,
            row_of,
            self.uniforms[slots, self.counts[slots]],
            num_tokens=self._num_tokens,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            top_k=self.sampling.top_k,
        )

    def go_on(self, slots: np.ndarray, drawn: np.ndarray) -> None:
        """The next row of each slot, with another page where it needs one."""
        counts = self.counts[slots]
        self._rows["id"][slots] = drawn
        self._rows["own_length"][slots] = counts
        self._rows["position"][slots] = self._rows["prefix_length"][slots] + counts - 1
        for slot in slots[(counts - 1) % PAGE == 0].tolist():
            entry = slot * self._entries + (self.counts[slot] - 1) // PAGE
            self._table[entry] = self._free_pages.pop()

    def leave(self, slot: int, group: int, fed: int) -> None:
        """Its own pages are free."""
        first = slot * self._entries
        self._free_pages += self._table[first : first + -(-fed // PAGE)].tolist()

    def close(self, group: int) -> None:
        """The prompt's pages and place are free."""
        prompt = self._prompts.pop(group)
        self._free_pages += prompt.pages
        self._free_places.append(prompt.place)
