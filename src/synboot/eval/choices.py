"""Which continuation of a context a model thinks likeliest (law 14).

The boundary between the two is that of lm-evaluation-harness: white space at the end of the context
moves to the continuation, both are encoded as one text, and the continuation is what follows as
many tokens as the context alone has. Special tokens that the model's tokenizer itself puts before a
text stand before the context; an empty context is the start token. What is too long loses tokens
of its context from the left; a continuation that is longer than the model's context is read in
pieces of half of it.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import DynamicCache

from synboot.core.events import ReportProgress, ignore_progress
from synboot.data.tokenizer import TextTokenizer
from synboot.train.device import autocast, tokens_at_once
from synboot.train.loss import has_plain_head

MIN_SHARED_TOKENS = 8
"""A context is computed once for its continuations if it has so many tokens."""

_CHUNK_LOGITS = 1 << 24
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class Request:
    """Tokens of a context, one at least, and of the continuation to score, one at least; int64."""

    context: npt.NDArray[np.int64]
    continuation: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """For each request: negative log-likelihood of its continuation in nats (float64), tokens of
    the continuation (int64), whether each of them is the likeliest at its place.

    `spans`: (first, stop) of positions that were computed after `first` known ones, for FLOPs.
    """

    nats: npt.NDArray[np.float64]
    num_tokens: npt.NDArray[np.int64]
    greedy: npt.NDArray[np.bool_]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Piece:
    """Tokens `start` to `stop - 1` of a request go in; those from `scored_from` on are scored."""

    request: int
    start: int
    scored_from: int
    stop: int


def encode_requests(tokenizer: TextTokenizer, pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """(context, continuation) pairs as tokens; no continuation is empty."""
    moved = [_move_white_space(*pair) for pair in pairs]
    texts = list(dict.fromkeys(text for a, b in moved for text in (a, a + b)))
    ids = dict(zip(texts, tokenizer.encode(texts), strict=True))
    before = tokenizer.ids_before_text
    requests = []
    for context, continuation in moved:
        whole, length = ids[context + continuation], len(ids[context])
        if length < len(whole):
            first, rest = ids[context], whole[length:]
        else:  # the two are joined in one token
            first, rest = whole[:-1], whole[-1:]
        first = np.concatenate([before, first]) if context else first[:0]
        if not len(first):
            first = np.array([tokenizer.start_id])
        requests.append(Request(first.astype(np.int64), rest.astype(np.int64)))
    return requests


def joined(tokenizer: TextTokenizer, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether a context with its continuation has no more tokens than it has alone: the two meet in
    one token, so that there is no boundary between them. An empty context has one."""
    moved = [_move_white_space(*pair) for pair in pairs]
    ids = iter(tokenizer.encode([text for a, b in moved for text in (a, a + b)]))
    lengths = [(len(alone), len(next(ids))) for alone in ids]
    return [
        whole <= alone and a != "" for (a, _), (alone, whole) in zip(moved, lengths, strict=True)
    ]


def _move_white_space(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def pieces_of(number: int, request: Request, context: int) -> list[Piece]:
    """What goes through the model for a request: one piece unless its continuation is longer than
    `context`. Every token of the continuation is scored once, after up to `context` tokens."""
    first = len(request.context)
    length = first + len(request.continuation)
    size = length - first if length - first <= context else max(context // 2, 1)
    return [
        Piece(number, max(0, min(begin + size, length) - 1 - context), begin,
              min(begin + size, length))
        for begin in range(first, length, size)
    ]  # fmt: skip


def score_requests(
    model: Any,
    groups: Sequence[Sequence[Request]],
    *,
    context: int,
    device: torch.device,
    precision: str = "float32",
    batch_tokens: int | None = None,
    progress: ReportProgress = ignore_progress,
) -> Answers:
    """Score the requests of all groups, in order, under `model`, any causal LM.

    Requests of a group that have one context share its computation, where the model keeps a cache
    of attention and all of them fit into `context` positions; other requests are read whole.
    """
    model.eval().to(device)
    batch_tokens = batch_tokens or tokens_at_once(model, device)
    scorer = _Scorer(model, device, precision, [r for group in groups for r in group])
    first = np.cumsum([0, *map(len, groups)])
    shares = _keeps_cache(model)
    together = [
        range(first[i], first[i + 1])
        for i, group in enumerate(groups)
        if shares and _can_share(group, context)
    ]
    ours = set(itertools.chain.from_iterable(together))
    rest = [i for i in range(len(scorer.requests)) if i not in ours]
    pieces = [p for i in rest for p in pieces_of(i, scorer.requests[i], context)]
    done, total = 0, len(ours) + len(pieces)
    with torch.inference_mode():
        for batch in _batches_of_groups(together, scorer.requests, batch_tokens):
            scorer.score_together(batch)
            done += sum(map(len, batch))
            progress(done, total, "")
        for part in _batches_of_pieces(pieces, batch_tokens):
            scorer.score_pieces(part)
            done += len(part)
            progress(done, total, "")
    return Answers(
        scorer.nats,
        np.array([len(r.continuation) for r in scorer.requests], dtype=np.int64),
        scorer.greedy,
        scorer.spans,
    )


class _Scorer:
    """A model, the requests, and what has been found of them so far."""

    def __init__(
        self, model: Any, device: torch.device, precision: str, requests: Sequence[Request]
    ) -> None:
        self.requests = requests
        self.nats = np.zeros(len(requests))
        self.greedy = np.ones(len(requests), dtype=bool)
        self.spans: list[tuple[int, int]] = []
        self._model = model
        self._device = device
        self._autocast = autocast(device, precision)
        self._head = model.get_output_embeddings() if has_plain_head(model) else None

    def score_pieces(self, pieces: Sequence[Piece]) -> None:
        """Score pieces in one batch, padded on the right."""
        length = max(piece.stop - 1 - piece.start for piece in pieces)
        inputs = np.zeros((len(pieces), length), dtype=np.int64)
        rows, places, targets = [], [], []
        for row, piece in enumerate(pieces):
            request = self.requests[piece.request]
            ids = np.concatenate([request.context, request.continuation])
            inputs[row, : piece.stop - 1 - piece.start] = ids[piece.start : piece.stop - 1]
            wanted = np.arange(piece.scored_from, piece.stop)
            rows.append(np.full(len(wanted), row))
            places.append(wanted - 1 - piece.start)
            targets.append(ids[wanted])
            self.spans.append((0, piece.stop - 1 - piece.start))
        states = self._forward(inputs)[self._tensor(rows), self._tensor(places)]
        owners = np.array([piece.request for piece in pieces])[np.concatenate(rows)]
        self._add(owners, states, np.concatenate(targets))

    def score_together(self, groups: Sequence[range]) -> None:
        """Score groups whose contexts have one length; each context is computed once."""
        contexts = np.stack([self.requests[group[0]].context for group in groups])
        cache = DynamicCache(config=self._model.config)
        last = self._forward(contexts, cache)[:, -1]
        members = np.concatenate([np.array(group) for group in groups])
        group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        rests = [self.requests[i].continuation for i in members]
        first = contexts.shape[1]
        self.spans += [(0, first)] * len(groups)
        self._add(members, last[self._tensor([group_of])], np.array([ids[0] for ids in rests]))
        longer = np.flatnonzero([len(ids) > 1 for ids in rests])
        if not len(longer):
            return
        cache.batch_select_indices(self._tensor([group_of[longer]]))
        length = max(len(rests[i]) for i in longer) - 1
        inputs = np.zeros((len(longer), length), dtype=np.int64)
        for row, i in enumerate(longer):
            inputs[row, : len(rests[i]) - 1] = rests[i][:-1]
            self.spans.append((first, first + len(rests[i]) - 1))
        rows = [np.full(len(rests[i]) - 1, row) for row, i in enumerate(longer)]
        places = [np.arange(len(rests[i]) - 1) for i in longer]
        states = self._forward(inputs, cache)[self._tensor(rows), self._tensor(places)]
        owners = members[longer][np.concatenate(rows)]
        self._add(owners, states, np.concatenate([rests[i][1:] for i in longer]))

    def _forward(self, inputs: np.ndarray, cache: Any = None) -> torch.Tensor:
        """Last hidden states where the head is plain, else logits: [rows, length, size]."""
        options = {"past_key_values": cache, "use_cache": True} if cache is not None else {
            "use_cache": False
        }  # fmt: skip
        ids = torch.from_numpy(inputs).to(self._device)
        with self._autocast():
            if self._head is not None:
                states: torch.Tensor = self._model.base_model(input_ids=ids, **options)[0]
                return states
            logits: torch.Tensor = self._model(input_ids=ids, **options).logits
            return logits

    def _add(self, owners: np.ndarray, states: torch.Tensor, targets: np.ndarray) -> None:
        """Score `states` [positions, size] and add to the requests that own them."""
        vocabulary = states.shape[-1] if self._head is None else len(self._head.weight)
        size = max(1, _CHUNK_LOGITS // vocabulary)
        for start in range(0, len(targets), size):
            part, wanted = states[start : start + size], targets[start : start + size]
            with self._autocast():
                logits = part if self._head is None else functional.linear(
                    part, self._head.weight, self._head.bias
                )  # fmt: skip
            chosen = torch.from_numpy(wanted).to(self._device)
            losses = functional.cross_entropy(logits.float(), chosen, reduction="none")
            hits = (logits.argmax(-1) == chosen).cpu().numpy()
            own = owners[start : start + size]
            np.add.at(self.nats, own, losses.double().cpu().numpy())
            np.logical_and.at(self.greedy, own, hits)

    def _tensor(self, parts: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(self._device)


def _keeps_cache(model: Any) -> bool:
    """Whether a model goes on from a cache of keys and values alone."""
    types = set(getattr(model.config, "layer_types", None) or ())
    takes = inspect.signature(model.forward).parameters
    return (
        not getattr(model, "_is_stateful", False)
        and types <= _ATTENTION
        and "past_key_values" in takes
    )


def _can_share(group: Sequence[Request], context: int) -> bool:
    first = group[0].context if group else np.empty(0)
    return (
        len(group) > 1
        and len(first) >= MIN_SHARED_TOKENS
        and all(np.array_equal(first, other.context) for other in group)
        and all(len(first) + len(r.continuation) - 1 <= context for r in group)
    )


def _batches_of_groups(
    groups: Sequence[range], requests: Sequence[Request], batch_tokens: int
) -> Iterator[list[range]]:
    """Groups with contexts of one length whose rows, padded, stay within `batch_tokens`."""
    sizes = {
        group: (len(requests[group[0]].context), max(len(requests[i].continuation) for i in group))
        for group in groups
    }
    batch: list[range] = []
    rows = 0
    for group in sorted(groups, key=lambda group: (*sizes[group], group.start)):
        length = sizes[group][0]
        full = (rows + len(group)) * sum(sizes[group]) > batch_tokens
        if batch and (full or length != sizes[batch[0]][0]):
            yield batch
            batch, rows = [], 0
        batch.append(group)
        rows += len(group)
    if batch:
        yield batch


def _batches_of_pieces(pieces: Sequence[Piece], batch_tokens: int) -> Iterator[list[Piece]]:
    """Pieces by length; a padded batch stays within `batch_tokens`, or is one piece."""
    batch: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: (p.stop - p.start, p.request, p.start)):
        if batch and (piece.stop - 1 - piece.start) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch
