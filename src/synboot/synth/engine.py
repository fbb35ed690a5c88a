"""Sampling from a language model: requests in, completions out, each keyed on its own (law 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field

from synboot.core.config import Config
from synboot.core.errors import BadInput
from synboot.core.rng import Key, rng
from synboot.model.decode import CachedDecoder, Prefix


class SamplingConfig(Config):
    """How a token is drawn. Temperature 1 and top-p 0.9 are recalled of the paper."""

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    """Only the k most likely tokens; 0 for all."""
    max_tokens: int = Field(default=4096, ge=1)
    """Tokens of one document, END included; the context may allow fewer."""


@dataclass(frozen=True)
class Request:
    """A prompt, int64 [length], the key of the random numbers that continue it, and where it is to
    have a limit of its own, its most tokens."""

    prompt: np.ndarray
    key: tuple[Key, ...]
    max_tokens: int | None = None


@dataclass(frozen=True)
class Completion:
    """The sampled tokens, int64, without the prompt and without END."""

    tokens: np.ndarray
    finish_reason: Literal["end", "length"]


class Engine(Protocol):
    """Continues prompts until END or a limit. Token i of a request is drawn with the i-th
    uniform number of its key, by the inverse distribution function (`choose`), among the first
    `num_tokens` ids: a model's embedding may have more rows than its tokenizer has tokens."""

    name: str
    """What a manifest calls it."""

    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        """One completion for each request, in order."""


def choose(logits: torch.Tensor, uniforms: torch.Tensor, sampling: SamplingConfig) -> torch.Tensor:
    """Draw one token a row: logits [rows, vocabulary], uniforms float32 [rows] -> int64 [rows].

    Top-k keeps the k most likely tokens, top-p the fewest most likely whose mass reaches p (with
    those that tie with the last). Of what is kept, the first token, by id, at which the
    distribution function passes the uniform number. By id and not by rank: logits that differ in
    their last bits then nearly never give another token. Temperature 0 takes the most likely.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float()
    logits = logits - logits.amax(-1, keepdim=True)  # else a small temperature overflows
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p < 1 or sampling.top_k:
        ordered = _sorted(probabilities).flip(-1)
        if sampling.top_k:
            ordered = ordered[:, : sampling.top_k]
        before = ordered.cumsum(-1) - ordered
        wanted = sampling.top_p * (ordered.sum(-1, keepdim=True) if sampling.top_k else 1.0)
        kept = (before < wanted).sum(-1, keepdim=True).clamp_min(1)
        probabilities = probabilities.masked_fill(probabilities < ordered.gather(-1, kept - 1), 0.0)
    mass = probabilities.double().cumsum(-1)
    target = uniforms.double()[:, None] * mass[:, -1:]
    return torch.searchsorted(mass, target, right=True).clamp_max(mass.shape[-1] - 1).squeeze(-1)


def _sorted(values: torch.Tensor) -> torch.Tensor:
    """Rows in ascending order. On a CPU by NumPy, whose sort is vectorised: 30 times faster."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(-1).values


def limit_of(request: Request, context: int, sampling: SamplingConfig) -> int:
    """How many tokens may be drawn: the last one is not fed back, so it needs no position. Raises
    ValueError for a prompt that does not fit, and for a limit below 1."""
    length = len(request.prompt)
    if not 1 <= length <= context:
        raise ValueError(f"a prompt of {length} tokens does not fit a context of {context}")
    own = sampling.max_tokens if request.max_tokens is None else request.max_tokens
    if own < 1:
        raise ValueError(f"expected a limit of 1 token at least, got {own}")
    return min(own, sampling.max_tokens, context + 1 - length)


def drawable(model: Any, end_id: int, num_tokens: int | None) -> int:
    """How many first ids may be drawn, all of the model's by default. Raises BadInput if the
    tokenizer has more than the model, ValueError if `end_id` could not be drawn."""
    rows = len(model.get_input_embeddings().weight)
    count = rows if num_tokens is None else num_tokens
    if count > rows:
        raise BadInput(f"the tokenizer has {count} tokens, but the model's embedding {rows} rows")
    if not 0 <= end_id < count:
        raise ValueError(f"END is {end_id}, and the ids that may be drawn end before {count}")
    return count


class ReferenceEngine:
    """Slow and obvious: one request at a time, the whole sequence through transformers' model
    for every token. Any causal LM."""

    name = "reference"

    def __init__(
        self, model: Any, *, context: int, end_id: int, num_tokens: int | None = None
    ) -> None:
        self._model = model.eval()
        self._context = context
        self._end_id = end_id
        self._num_tokens = drawable(model, end_id, num_tokens)

    @torch.inference_mode()
    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        """One completion for each request, in order."""
        return [self._complete(request, sampling) for request in requests]

    def _complete(self, request: Request, sampling: SamplingConfig) -> Completion:
        limit = limit_of(request, self._context, sampling)
        uniforms = rng(*request.key).random(limit, dtype=np.float32)
        ids = torch.from_numpy(request.prompt).to(self._model.device)
        tokens: list[int] = []
        for uniform in uniforms:
            logits = self._model(input_ids=ids[None], use_cache=False).logits[:, -1]
            drawn = torch.tensor([float(uniform)], device=ids.device)
            token = int(choose(logits[:, : self._num_tokens], drawn, sampling))
            if token == self._end_id:
                return Completion(np.array(tokens, dtype=np.int64), "end")
            tokens.append(token)
            ids = torch.cat([ids, ids.new_tensor([token])])
        return Completion(np.array(tokens, dtype=np.int64), "length")


@dataclass
class _Running:
    """A request in a slot."""

    index: int
    uniforms: np.ndarray
    position: int
    tokens: list[int] = field(default_factory=list)


class _Prefixes:
    """The computed prompt of each request, in order: once for those that have the same."""

    def __init__(self, decoder: CachedDecoder, prompts: Sequence[torch.Tensor]) -> None:
        self._decoder = decoder
        self._prompts = prompts
        self._keys = [tuple(prompt.tolist()) for prompt in prompts]
        self._left = Counter(self._keys)
        self._kept: dict[tuple[int, ...], Prefix] = {}

    def __getitem__(self, index: int) -> Prefix:
        key = self._keys[index]
        prefix = self._kept.pop(key, None) or self._decoder.prefill(self._prompts[index])
        self._left[key] -= 1
        if self._left[key]:
            self._kept[key] = prefix
        return prefix


class SlotEngine:
    """The built-in engine: a fixed number of slots advance together, one token a step; a slot
    whose request ends is given the next one at once. Models that `CachedDecoder` understands."""

    name = "slots"

    def __init__(
        self, model: Any, *, context: int, end_id: int, slots: int, num_tokens: int | None = None
    ) -> None:
        self._decoder = CachedDecoder(model.eval(), slots=slots, capacity=context)
        self._device = next(model.parameters()).device
        self._context = context
        self._end_id = end_id
        self._slots = slots
        self._num_tokens = drawable(model, end_id, num_tokens)

    @torch.inference_mode()
    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        """One completion for each request, in order."""
        completions: list[Completion | None] = [None] * len(requests)
        limits = [limit_of(r, self._context, sampling) for r in requests]
        prefixes = _Prefixes(self._decoder, [self._tensor(r.prompt) for r in requests])
        waiting = iter(range(len(requests)))
        running: list[_Running | None] = [None] * self._slots
        ids = np.zeros(self._slots, dtype=np.int64)
        positions = np.zeros(self._slots, dtype=np.int64)
        uniforms = np.zeros(self._slots, dtype=np.float32)

        def accept(slot: int, state: _Running, token: int) -> bool:
            """Take a drawn token; True if the slot goes on with it."""
            ended = token == self._end_id
            if not ended:
                state.tokens.append(token)
            if ended or len(state.tokens) == len(state.uniforms):
                tokens = np.array(state.tokens, dtype=np.int64)
                completions[state.index] = Completion(tokens, "end" if ended else "length")
                running[slot] = None
                ids[slot] = positions[slot] = 0
                return False
            ids[slot], positions[slot] = token, state.position
            state.position += 1
            uniforms[slot] = state.uniforms[len(state.tokens)]
            return True

        while True:
            for slot in range(self._slots):
                while running[slot] is None and (index := next(waiting, None)) is not None:
                    prefix = prefixes[index]
                    drawn_by = rng(*requests[index].key).random(limits[index], dtype=np.float32)
                    state = _Running(index, drawn_by, prefix.length)
                    token = self._start(slot, state, prefix, sampling)
                    running[slot] = state
                    accept(slot, state, token)
            live = [(slot, state) for slot, state in enumerate(running) if state is not None]
            if not live:
                return [completion for completion in completions if completion is not None]
            logits = self._decoder.step(self._tensor(ids), self._tensor(positions))
            logits = logits[:, : self._num_tokens]
            drawn = choose(logits, self._tensor(uniforms), sampling).tolist()
            for slot, state in live:
                accept(slot, state, drawn[slot])

    def _start(self, slot: int, state: _Running, prefix: Prefix, sampling: SamplingConfig) -> int:
        """Put a computed prompt into a slot; the first token after it."""
        self._decoder.place(slot, prefix)
        logits = prefix.logits[None, : self._num_tokens]
        return int(choose(logits, self._tensor(state.uniforms[:1]), sampling))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)
