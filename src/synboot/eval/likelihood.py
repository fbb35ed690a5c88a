"""Held-out likelihood, document by document (law 14).

A document is scored alone, from the document-start token (END where a tokenizer has no other). Its
own END is not scored: bits per byte measure the text. A document longer than the context is read
in windows that move by half a context; every token is scored once, in the window where it has most
to look back on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from synboot.core.events import ReportProgress, ignore_progress
from synboot.train.device import autocast, tokens_at_once


@dataclass(frozen=True)
class Likelihoods:
    """For each document: tokens scored (int64), bytes of UTF-8 (int64), nats (float64)."""

    num_tokens: np.ndarray
    num_bytes: np.ndarray
    nats: np.ndarray

    @property
    def bits_per_byte(self) -> float:
        """Sum of nats / ln 2 / sum of bytes."""
        return float(self.nats.sum() / math.log(2) / self.num_bytes.sum())


@dataclass(frozen=True)
class Window:
    """Tokens `start` to `stop` of start token + document go in; those after `scored_from` are
    scored."""

    document: int
    start: int
    scored_from: int
    stop: int


def windows_of(document: int, num_tokens: int, context: int) -> list[Window]:
    """Windows over a document of `num_tokens` tokens: inputs are positions start..stop-1 of
    start token + tokens, targets positions scored_from+1..stop."""
    windows = []
    start = scored = 0
    while scored < num_tokens:
        stop = min(start + context, num_tokens)
        windows.append(Window(document, start, scored, stop))
        scored = stop
        start += max(context // 2, 1)
    return windows


@torch.inference_mode()
def score_documents(
    model: Any,
    documents: Sequence[np.ndarray],
    texts: Sequence[str],
    *,
    context: int,
    end_id: int,
    start_id: int | None = None,
    device: torch.device,
    precision: str = "float32",
    batch_tokens: int | None = None,
    progress: ReportProgress = ignore_progress,
) -> Likelihoods:
    """Nats of each document's tokens (ids without END) under `model`, any causal LM; `start_id` is
    `end_id` by default. `model` may be a list of several: a token's probability is the mean of
    theirs."""
    models = [one.eval().to(device) for one in (model if isinstance(model, list) else [model])]
    batch_tokens = batch_tokens or tokens_at_once(models[0], device)
    windows = [w for i, ids in enumerate(documents) for w in windows_of(i, len(ids), context)]
    windows.sort(key=lambda w: (w.stop - w.start, w.document, w.start))
    nats = np.zeros(len(documents))
    done = 0
    while done < len(windows):
        batch = _next_batch(windows, done, batch_tokens)
        length = batch[-1].stop - batch[-1].start
        start = end_id if start_id is None else start_id
        inputs = np.full((len(batch), length), start, dtype=np.int64)
        targets = np.full((len(batch), length), -100, dtype=np.int64)
        for row, window in enumerate(batch):
            ids = documents[window.document]
            size = window.stop - window.start
            skip = int(window.start == 0)  # the start token stands there already
            inputs[row, skip:size] = ids[window.start + skip - 1 : window.stop - 1]
            first = window.scored_from - window.start
            targets[row, first:size] = ids[window.scored_from : window.stop]
        given, wanted = torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
        of_models = []
        for one in models:
            with autocast(device, precision)():
                logits = one(input_ids=given, use_cache=False).logits
            losses = functional.cross_entropy(
                logits.float().transpose(1, 2), wanted, reduction="none"
            )
            of_models.append(losses.double())
        sums = _of_mean_probability(of_models).sum(1).cpu().numpy()
        for window, total in zip(batch, sums, strict=True):
            nats[window.document] += total
        done += len(batch)
        progress(done, len(windows), "")
    return Likelihoods(
        np.array([len(ids) for ids in documents], dtype=np.int64),
        np.array([len(text.encode()) for text in texts], dtype=np.int64),
        nats,
    )


def _of_mean_probability(losses: list[torch.Tensor]) -> torch.Tensor:
    """Nats of a token whose probability is the mean of those of several models; what is nothing to
    each of them, as padding is, stays nothing."""
    if len(losses) == 1:
        return losses[0]
    stacked = torch.stack(losses)
    mean = math.log(len(losses)) - torch.logsumexp(-stacked, 0)
    return torch.where((stacked == 0).all(0), 0.0, mean)


def _next_batch(windows: Sequence[Window], first: int, batch_tokens: int) -> list[Window]:
    """The longest run of windows whose padded batch stays within `batch_tokens`."""
    batch: list[Window] = []
    for window in itertools.islice(windows, first, None):
        if batch and (window.stop - window.start) * (len(batch) + 1) > batch_tokens:
            break
        batch.append(window)
    return batch
