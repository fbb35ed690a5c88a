"""Sampling through transformers' own cached forward: any causal LM that it serves with a cache."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from synboot.core.errors import BadInput
from synboot.core.rng import rng
from synboot.synth.engine import Completion, Request, choose, drawable, limit_of
from synboot.synth.settings import SamplingConfig

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


class TransformersEngine:
    """Batches of `slots` requests, by the length of their prompts, which are padded on the left;
    each batch is sampled to its end before the next begins.

    A draw is a function of its request, apart from last bits: logits can differ in them with the
    shape of a batch, that is with `slots` and with which requests are asked together. A draw feels
    that only where its uniform number is as near to a step of the distribution function. The parts
    of a stage fix what is asked together, so what they hold stays reproducible (law 3).

    Raises BadInput for models that keep a state which padding would change (Mamba and its like).
    """

    name = "transformers"

    def __init__(
        self, model: Any, *, context: int, end_id: int, slots: int, num_tokens: int | None = None
    ) -> None:
        self._takes = inspect.signature(model.forward).parameters
        _check_understood(model, self._takes)
        self._model = model.eval()
        self._context = context
        self._end_id = end_id
        self._slots = slots
        self._num_tokens = drawable(model, end_id, num_tokens)

    @torch.inference_mode()
    def sample(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Completion]:
        """One completion for each request, in order."""
        limits = [limit_of(r, self._context, sampling) for r in requests]
        order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt))
        completions: dict[int, Completion] = {}
        for first in range(0, len(order), self._slots):
            batch = order[first : first + self._slots]
            found = self._complete(
                [requests[index] for index in batch], [limits[index] for index in batch], sampling
            )
            completions.update(zip(batch, found, strict=True))
        return [completions[index] for index in range(len(requests))]

    def _complete(
        self, requests: Sequence[Request], limits: Sequence[int], sampling: SamplingConfig
    ) -> list[Completion]:
        """Sample one batch to its end."""
        most = max(limits)
        uniforms = np.zeros((len(requests), most), dtype=np.float32)
        for own, request, limit in zip(uniforms, requests, limits, strict=True):
            own[:limit] = rng(*request.key).random(limit, dtype=np.float32)
        tokens = np.zeros((len(requests), most), dtype=np.int64)
        ids, seen = _padded([request.prompt for request in requests], self._end_id)
        places = (seen.cumsum(axis=1) - 1).clip(min=0)
        cache = DynamicCache(config=self._model.config)
        rows = np.arange(len(requests))  # the request of each row that is left in the batch
        live = np.ones(len(requests), dtype=bool)
        for step in range(most):
            logits = self._forward(ids, seen, places, cache)
            drawn = choose(logits, self._tensor(uniforms[rows, step]), sampling).cpu().numpy()
            tokens[rows, step] = np.where(live, drawn, self._end_id)
            live &= (drawn != self._end_id) & (step + 1 < np.array(limits)[rows])
            if not live.any():
                break
            ids = drawn[:, None]
            places = places[:, -1:] + live[:, None]  # a row that ended stays within the positions
            if 2 * live.sum() <= len(rows):  # the others cost more than copying the cache
                kept = np.flatnonzero(live)
                cache.batch_select_indices(self._tensor(kept))
                ids, seen, places, rows, live = (a[kept] for a in (ids, seen, places, rows, live))
            seen = np.pad(seen, ((0, 0), (0, 1)), constant_values=1)
        return [self._completion(own[:limit]) for own, limit in zip(tokens, limits, strict=True)]

    def _completion(self, drawn: np.ndarray) -> Completion:
        """What was drawn up to a request's limit, from its first END on without meaning."""
        ends = np.flatnonzero(drawn == self._end_id)
        if len(ends):
            return Completion(drawn[: ends[0]], "end")
        return Completion(drawn, "length")

    def _forward(
        self, ids: np.ndarray, seen: np.ndarray, places: np.ndarray, cache: DynamicCache
    ) -> torch.Tensor:
        """Logits [rows, num_tokens] after `ids` [rows, new]; `seen` [rows, all] is 0 at padding,
        `places` [rows, new] are positions without it."""
        options: dict[str, Any] = {}
        if "position_ids" in self._takes:
            options["position_ids"] = self._tensor(places)
        if "logits_to_keep" in self._takes:  # else the logits of a whole prompt take up memory
            options["logits_to_keep"] = 1
        output = self._model(
            input_ids=self._tensor(ids),
            attention_mask=self._tensor(seen),
            past_key_values=cache,
            use_cache=True,
            **options,
        )
        logits: torch.Tensor = output.logits[:, -1, : self._num_tokens]
        return logits

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._model.device)


def _padded(prompts: Sequence[np.ndarray], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as one array, int64 [rows, longest], padded on the left; 1 where there is a token."""
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), padding, dtype=np.int64)
    seen = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        seen[row, longest - len(prompt) :] = 1
    return ids, seen


def _check_understood(model: Any, takes: Any) -> None:
    types = set(getattr(model.config, "layer_types", None) or ())
    if (
        getattr(model, "_is_stateful", False)
        or types - _ATTENTION
        or not {"past_key_values", "attention_mask"} <= set(takes)
    ):
        raise BadInput(f"{type(model).__name__} cannot be sampled in batches of padded prompts")
