"""Sampling with torch: continuous batching in fixed shapes, on a GPU by CUDA graphs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from synboot.core.errors import SynbootError
from synboot.model.decode import CachedDecoder, bucket
from synboot.model.replay import Replay
from synboot.model.settings import CacheType
from synboot.synth.engine import Completion, Request, choose, choose_near, drawable
from synboot.synth.settings import SamplingConfig
from synboot.synth.slots import SlotRun, groups_of

_PREFILL_TOKENS = {"cuda": 1 << 14}
"""Of prompts that are computed together, padding included; else one prompt is computed alone, so
that its numbers are its own."""
_LEAST = {"cuda": 1 / 32}
"""Of slots that are free before the next requests are taken; else each is taken at once."""
_MEMORY = 0.8  # of a GPU's free memory, for keys and values
_ROWS = 256  # of logits that are sorted together


class SlotEngine:
    """At most `slots` requests, on a GPU as many as its memory has room for, advance together, one
    token a step; those that end make room for the next. Requests with the same prompt are taken one
    after the other: it is computed once, and its keys and values are stored once. Models that
    `CachedDecoder` understands.

    A step has the same shapes whatever the slots hold, but for how far back attention looks: to the
    longest prompt and the longest text at hand, each rounded up to one of few lengths. A draw is a
    function of its request, apart from last bits, which can differ with these lengths, and on a GPU
    with the prompts that are computed together. A draw feels that only where its uniform number is
    as near to a step of the distribution function. The parts of a stage fix what is asked together,
    so what they hold stays reproducible (law 3).

    `precision` is of matrix products; keys and values are bfloat16 if it is, or `cache`.
    """

    name = "slots"

    def __init__(
        self,
        model: Any,
        *,
        context: int,
        end_id: int,
        slots: int,
        num_tokens: int | None = None,
        precision: CacheType = "float32",
        cache: CacheType = "float32",
        prefill_tokens: int | None = None,
        least: int | None = None,
    ) -> None:
        self.num_tokens = drawable(model, end_id, num_tokens)
        self.context = context
        self.end_id = end_id
        self.device = next(model.parameters()).device
        self.decoder = CachedDecoder(
            model.eval(), capacity=context, precision=getattr(torch, precision)
        )
        self.prefill_tokens = prefill_tokens or _PREFILL_TOKENS.get(self.device.type, 1)
        self._kept = torch.bfloat16 if "bfloat16" in (precision, cache) else torch.float32
        # A text of its own may fill the context, and so may a prompt that nobody shares.
        bytes_of_slot = 2 * context * self.decoder.bytes_of_position(self._kept)
        self.slots = slots
        _check_memory(slots, bytes_of_slot, self.device)
        self.least = least or math.ceil(self.slots * _LEAST.get(self.device.type, 0)) or 1
        self._desk: _Desk | None = None

    @torch.inference_mode()
    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        """One completion for each request, in order. Raises SynbootError if memory runs out."""
        try:
            return _Run(self, requests, sampling).complete()
        except torch.OutOfMemoryError as error:
            raise SynbootError(f"{error}; set a smaller runtime.slots") from error

    def desk(self, need: _Sizes) -> _Desk:
        """One of these sizes at least, with nothing going on: the last one, if it will do."""
        if self._desk is None or not self._desk.sizes.hold(need):
            if self._desk is not None:
                need = self._desk.sizes.joined(need)
            self._desk = None  # its memory is needed
            self._desk = _Desk(self, need, self._kept)
        self._desk.clear()
        return self._desk


@dataclass(frozen=True)
class _Sizes:
    """Of a cache, apart from its slots."""

    places: int
    shared: int
    prompt_room: int
    own_room: int

    def hold(self, need: _Sizes) -> bool:
        return self.shared == need.shared and self.joined(need) == self

    def joined(self, other: _Sizes) -> _Sizes:
        """Rooms of both; the numbers of places are the other's, if it shares otherwise."""
        same = self.shared == other.shared
        return _Sizes(
            max(self.places, other.places) if same else other.places,
            other.shared,
            max(self.prompt_room, other.prompt_room),
            max(self.own_room, other.own_room),
        )


class _Desk:
    """What lies on the device: cache, logits, uniform numbers, and which slots are live."""

    def __init__(self, engine: SlotEngine, sizes: _Sizes, kept: torch.dtype) -> None:
        self.sizes = sizes
        self._decoder = engine.decoder
        self._end_id = engine.end_id
        self._num_tokens = engine.num_tokens
        slots, device = engine.slots, engine.device
        self.cache = engine.decoder.cache(dtype=kept, slots=slots, **vars(sizes))
        self.prompt_logits = torch.zeros(sizes.places, self._num_tokens, device=device)
        self._logits = torch.zeros(slots, self._num_tokens, device=device)
        self._uniforms = torch.zeros(slots, sizes.own_room + 1, device=device)
        self._limit = torch.zeros(slots, dtype=torch.int64, device=device)
        self._live = torch.zeros(slots, dtype=torch.bool, device=device)
        self._drawn = torch.zeros(2, slots, dtype=torch.int64, device=device)
        self.replay = Replay(device)

    def clear(self) -> None:
        """No slot is live, also where a run was broken off."""
        for state in (self.cache.ids, self.cache.counts, self._live):
            state.zero_()

    def start(self, numbers: np.ndarray, uniforms: np.ndarray) -> None:
        """Slots go on with a first token: int64 [(slot, token, place, column, limit), count] and
        float32 [count, most]."""
        slots, ids, places, columns, limit = self._tensor(numbers)
        self.cache.seat(slots, places, columns)
        self.cache.ids[slots], self.cache.counts[slots] = ids, torch.zeros_like(ids)
        self._limit[slots], self._live[slots] = limit, torch.ones_like(slots, dtype=torch.bool)
        most = min(uniforms.shape[1], self._uniforms.shape[1])
        self._uniforms[slots, :most] = self._tensor(uniforms[:, :most])

    def step(self, prompt_room: int, own_room: int, sampling: SamplingConfig) -> np.ndarray:
        """Feed the live slots their tokens and draw the next: int64 [(token, settled), slots].
        Those that are settled go on or end by themselves."""

        def forward() -> None:
            logits = self._decoder.step(self.cache, prompt_room, own_room)
            self._logits.copy_(logits[:, : self._num_tokens])

        def draw() -> None:
            tokens, settled = choose_near(self._logits, self._next_uniforms(), sampling)
            self._drawn[0].copy_(tokens)
            self._drawn[1].copy_(settled)
            self._advance(tokens, settled)

        self.replay((prompt_room, own_room), forward)
        self.replay(sampling, draw)
        return _array(self._drawn)

    def settle(self, slots: np.ndarray, sampling: SamplingConfig) -> np.ndarray:
        """Draw what `step` left open: int64 [slots]."""
        rows, uniforms = self._tensor(slots), self._next_uniforms()
        drawn = [choose(self._logits[r], uniforms[r], sampling) for r in _parts(rows)]
        tokens, settled = torch.zeros_like(self._limit), torch.zeros_like(self._live)
        tokens[rows], settled[rows] = torch.cat(drawn), torch.ones_like(rows, dtype=torch.bool)
        self._advance(tokens, settled)
        return _array(tokens[rows])

    def first(
        self, places: np.ndarray, uniforms: np.ndarray, sampling: SamplingConfig
    ) -> np.ndarray:
        """Draw after the prompts at `places`: int64, as many."""
        pairs = zip(_parts(self._tensor(places)), _parts(self._tensor(uniforms)), strict=True)
        drawn = [choose(self.prompt_logits[p], own, sampling) for p, own in pairs]
        return _array(torch.cat(drawn))

    def prefill(self, places: Sequence[int], prompts: Sequence[np.ndarray]) -> None:
        """Compute prompts together, padded to the longest."""
        lengths = np.array([len(prompt) for prompt in prompts])
        ids = np.zeros((len(prompts), lengths.max()), np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        at = self._tensor(np.array(places))
        logits = self._decoder.prefill(self.cache, at, self._tensor(ids), self._tensor(lengths))
        self.prompt_logits[at] = logits[:, : self._num_tokens]

    def _next_uniforms(self) -> torch.Tensor:
        """A slot that was fed n tokens has drawn one more."""
        return self._uniforms[self.cache.slots, self.cache.counts + 1]

    def _advance(self, tokens: torch.Tensor, settled: torch.Tensor) -> None:
        """Live slots whose token is settled are fed it next, or end."""
        ids, counts = self.cache.ids, self.cache.counts
        goes = self._live & (tokens != self._end_id) & (counts + 2 < self._limit)
        ids.copy_(torch.where(settled, tokens * goes, ids))
        counts.copy_(torch.where(settled, (counts + 1) * goes, counts))
        self._live.copy_(torch.where(settled, goes, self._live))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.cache.ids.device)


def _parts(rows: torch.Tensor) -> list[torch.Tensor]:
    return [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array


class _Run(SlotRun):
    """One call of `sample`. A group of draws has a place in the cache, a draw a column of it."""

    def __init__(
        self, engine: SlotEngine, requests: Sequence[Request], sampling: SamplingConfig
    ) -> None:
        alike = groups_of(requests)
        shared = _shared([len(group) for group in alike], engine.slots)
        groups = [g[at : at + shared] for g in alike for at in range(0, len(g), shared)]
        options = {"slots": engine.slots, "context": engine.context, "end_id": engine.end_id}
        super().__init__(requests, sampling, groups, least=engine.least, **options)
        self._columns = {index: at for group in groups for at, index in enumerate(group)}
        self._prefill_tokens = engine.prefill_tokens
        self._context = engine.context
        longest = max((len(request.prompt) for request in requests), default=1)
        # Draws of a prompt end one by one, so about twice as many prompts are at hand as would
        # fill the slots; where it is more, a slot waits.
        places = min(len(groups), engine.slots, -(-2 * engine.slots // shared))
        self._desk = engine.desk(
            _Sizes(
                max(places, 1),
                shared,
                bucket(longest, engine.context),
                bucket(max(self.limits, default=1), engine.context),
            )
        )
        self._free_places = list(range(self._desk.sizes.places))[::-1]
        self._place_of: dict[int, int] = {}  # of open groups
        self._lengths = np.zeros(self._desk.sizes.places, np.int64)  # 0 of a free place

    def open(self, group: int, length: int) -> bool:
        """A place, if one is free."""
        if not self._free_places:
            return False
        self._place_of[group] = self._free_places.pop()
        self._lengths[self._place_of[group]] = length
        return True

    def take(self, slot: int, group: int) -> None:
        """What a slot is told comes with its first token."""

    def compute(self, indices: Sequence[int]) -> None:
        """Prompts of like length together."""
        for part in _of_like_length(indices, self.requests, self._prefill_tokens):
            places = [self._place_of[int(self.group_of[index])] for index in part]
            self._desk.prefill(places, [self.requests[index].prompt for index in part])

    def first_tokens(self, slots: np.ndarray) -> np.ndarray:
        """From the logits of each prompt."""
        return self._desk.first(self._places(slots), self.uniforms[slots, 0], self.sampling)

    def next_tokens(self, slots: np.ndarray) -> np.ndarray:
        """A step of all slots, and once more where what top-p keeps is large."""
        prompt_room = bucket(int(self._lengths.max()), self._context)
        own_room = bucket(int(self.counts[slots].max()), self._context)
        drawn, settled = self._desk.step(prompt_room, own_room, self.sampling)[:, slots]
        if len(left := np.flatnonzero(settled == 0)):
            drawn[left] = self._desk.settle(slots[left], self.sampling)
        return np.asarray(drawn)

    def go_on(self, slots: np.ndarray, drawn: np.ndarray) -> None:
        """The device knows, but of first tokens."""
        first = self.counts[slots] == 1
        if not first.any():
            return
        slots, drawn = slots[first], drawn[first]
        columns = [self._columns[index] for index in self.request[slots].tolist()]
        numbers = [slots, drawn, self._places(slots), np.array(columns), self.limit[slots]]
        self._desk.start(np.stack(numbers), self.uniforms[slots])

    def leave(self, slot: int, group: int, fed: int) -> None:
        """Its own positions are written anew by the next."""

    def close(self, group: int) -> None:
        """The place is free."""
        place = self._place_of.pop(group)
        self._free_places.append(place)
        self._lengths[place] = 0

    def _places(self, slots: np.ndarray) -> np.ndarray:
        groups = self.group_of[self.request[slots]].tolist()
        return np.array([self._place_of[group] for group in groups], np.int64)


def _check_memory(slots: int, bytes_of_slot: int, device: torch.device) -> None:
    """Raise SynbootError where a GPU's free memory has no room: fewer slots than a stage records
    would be other numerics."""
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if (most := int(_MEMORY * free) // bytes_of_slot) < slots:
        raise SynbootError(
            f"the device's free memory has room for {most} sequences, not for {slots}: "
            "set runtime.slots (SYNBOOT_RUNTIME__SLOTS)"
        )


def _shared(sizes: Sequence[int], slots: int) -> int:
    """How many draws share a prompt at most, for groups of these sizes: all of the largest, unless
    the others are so much smaller that most of the columns would be empty."""
    if not sizes:
        return 1
    mean = sum(sizes) / len(sizes)
    return min(slots, max(sizes) if max(sizes) <= 2 * mean else math.ceil(mean))


def _of_like_length(
    indices: Sequence[int], requests: Sequence[Request], most: int
) -> Iterator[list[int]]:
    """The numbers of requests in parts, whose prompts have at most `most` tokens when they are
    padded to the longest; a longer one is a part."""
    part: list[int] = []
    for index in sorted(indices, key=lambda index: len(requests[index].prompt)):
        if part and (len(part) + 1) * len(requests[index].prompt) > most:
            yield part
            part = []
        part.append(index)
    if part:
        yield part
