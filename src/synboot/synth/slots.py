"""Continuous batching: requests that advance together, and one that ends makes room for the next.

Bookkeeping by arrays; where prompts are kept and what computes tokens is an engine's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain

import numpy as np

from synboot.core.rng import rng
from synboot.synth.engine import Completion, Request, limit_of
from synboot.synth.settings import SamplingConfig


def groups_of(requests: Sequence[Request]) -> list[list[int]]:
    """The numbers of requests with the same prompt, by first appearance."""
    groups: dict[bytes, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(request.prompt.tobytes(), []).append(index)
    return list(groups.values())


class SlotRun(ABC):
    """One call of `sample` in `slots` slots. Arrays are by slot; a slot without a request is not
    live. `groups` are the requests that share a prompt, which are taken one after the other:
    a group is opened for the first of them and closed when the last has ended. Free slots wait
    until there are `least` of them, so that many prompts are computed together."""

    def __init__(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        groups: Sequence[Sequence[int]],
        *,
        slots: int,
        context: int,
        end_id: int,
        least: int = 1,
    ) -> None:
        self.requests = requests
        self.sampling = sampling
        self.end_id = end_id
        self._least = least
        self.limits = [limit_of(request, context, sampling) for request in requests]
        self.group_of = np.zeros(len(requests), np.int64)
        for number, members in enumerate(groups):
            self.group_of[list(members)] = number
        self._queue = list(chain.from_iterable(groups))[::-1]  # the next is the last
        self._open = np.zeros(len(groups), bool)
        self._left = np.array([len(members) for members in groups], np.int64)  # not ended
        self._completions: list[Completion | None] = [None] * len(requests)

        most = max(self.limits, default=1)
        self.request = np.full(slots, -1)
        self.counts = np.zeros(slots, np.int64)
        self.limit = np.zeros(slots, np.int64)
        self.tokens = np.zeros((slots, most), np.int64)
        self.uniforms = np.zeros((slots, most + 1), np.float32)

    def complete(self) -> list[Completion]:
        """Until nothing is left."""
        while True:
            while len(started := self._admit()):
                self._accept(started, self.first_tokens(started))
            live = np.flatnonzero(self.request >= 0)
            if not len(live):
                return [completion for completion in self._completions if completion is not None]
            self._accept(live, self.next_tokens(live))

    def _admit(self) -> np.ndarray:
        """Give free slots the next requests, and compute the prompts that are new; those slots."""
        started, new = [], []
        free = np.flatnonzero(self.request < 0)
        if len(free) < min(self._least, len(self.request)):
            free = free[:0]
        for slot in free.tolist():
            if not self._queue:
                break
            index = self._queue[-1]
            group = int(self.group_of[index])
            if not self._open[group]:
                if not self.open(group, len(self.requests[index].prompt)):
                    break
                self._open[group] = True
                new.append(index)
            self._queue.pop()
            limit = self.limits[index]
            self.request[slot], self.limit[slot], self.counts[slot] = index, limit, 0
            uniforms = rng(*self.requests[index].key).random(limit, dtype=np.float32)
            self.uniforms[slot, :limit] = uniforms
            self.take(slot, group)
            started.append(slot)
        if new:
            self.compute(new)
        return np.array(started, np.int64)

    def _accept(self, slots: np.ndarray, drawn: np.ndarray) -> None:
        """Take a drawn token for each of `slots`; those that end are free afterwards."""
        ended = drawn == self.end_id
        self.tokens[slots, self.counts[slots]] = drawn  # END is written and not counted
        self.counts[slots] += ~ended
        done = ended | (self.counts[slots] == self.limit[slots])
        for slot, end in zip(slots[done].tolist(), ended[done].tolist(), strict=True):
            self._finish(slot, end)
        self.go_on(slots[~done], drawn[~done])

    def _finish(self, slot: int, ended: bool) -> None:
        index, count = int(self.request[slot]), int(self.counts[slot])
        tokens = self.tokens[slot, :count].copy()
        self._completions[index] = Completion(tokens, "end" if ended else "length")
        self.request[slot] = -1
        group = int(self.group_of[index])
        # The last token of a full one was not fed back.
        self.leave(slot, group, count if ended else count - 1)
        self._left[group] -= 1
        if not self._left[group]:
            self.close(group)

    @abstractmethod
    def open(self, group: int, length: int) -> bool:
        """Find room for the prompt of a group; False if there is none until others close."""

    @abstractmethod
    def take(self, slot: int, group: int) -> None:
        """A request of an open group has got a slot."""

    @abstractmethod
    def compute(self, indices: Sequence[int]) -> None:
        """The prompts of requests whose groups have just been opened."""

    @abstractmethod
    def first_tokens(self, slots: np.ndarray) -> np.ndarray:
        """Drawn after their prompts, int64 [slots]."""

    @abstractmethod
    def next_tokens(self, slots: np.ndarray) -> np.ndarray:
        """Drawn after the last token of each of `slots`, which are all live ones: int64 [slots]."""

    @abstractmethod
    def go_on(self, slots: np.ndarray, drawn: np.ndarray) -> None:
        """These tokens are to be fed back."""

    @abstractmethod
    def leave(self, slot: int, group: int, fed: int) -> None:
        """A request has ended, `fed` of whose tokens were fed back."""

    @abstractmethod
    def close(self, group: int) -> None:
        """All requests of a group have ended."""
