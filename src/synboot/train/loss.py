"""The loss of a batch without all of its logits at once, and what a model must be for that.

Where a model's logits are a linear map of its last hidden states (nearly every causal LM), only
positions with loss reach the output layer, some hundred at a time: a chunk's logits turn into their
own gradient in place, and [positions, vocabulary] never exists whole. Models that do more to their
logits (scale or cap them) are found by trying, and keep them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from synboot.data.batches import IGNORED, Batch, Batches, Rows
from synboot.train.device import autocast, tokens_at_once
from synboot.train.replicas import Replicas

_CHUNK_ROWS = 512
_MIN_CHUNK_ROWS = 64
_CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Logits that exist at once, by device."""

_LARGE_LOGITS = 1000.0
_BATCHES_AT_ONCE = 16
"""Of validation, that a replica has in memory."""
_PLAIN_HEADS: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


@dataclass
class PlacedBatch:
    """A batch where the model is. `inputs` are those of its forward pass, `targets` int64 those at
    `places`, numbers of its flattened positions, which are all if that is None."""

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor
    places: torch.Tensor | None
    global_targets: int | torch.Tensor


def summed_loss(
    model: Any, batch: Batch | PlacedBatch, device: torch.device
) -> tuple[torch.Tensor, int]:
    """(summed cross-entropy in nats, positions with loss) of a batch. Of one that is on the device
    already, the device is not waited for."""
    placed = batch if isinstance(batch, PlacedBatch) else _placed(batch, device)

    def chosen(flat: torch.Tensor) -> torch.Tensor:
        return flat if placed.places is None else flat[placed.places]

    if not has_plain_head(model):
        logits = model(**placed.inputs, use_cache=False).logits  # [rows, length, vocab]
        loss = functional.cross_entropy(
            chosen(logits.flatten(0, 1)).float(), placed.targets, reduction="sum"
        )
        return loss, len(placed.targets)
    hidden = model.base_model(**placed.inputs, use_cache=False)[0]  # [rows, length, width]
    head = model.get_output_embeddings()
    loss = head_loss(chosen(hidden.flatten(0, 1)), head.weight, head.bias, placed.targets)
    return loss, len(placed.targets)


def _placed(batch: Batch, device: torch.device) -> PlacedBatch:
    targets = torch.from_numpy(batch.targets)
    places = (targets.flatten() != IGNORED).nonzero().flatten().to(device)
    inputs = {"input_ids": torch.from_numpy(batch.inputs).to(device)}
    if batch.positions is not None:
        inputs["position_ids"] = torch.from_numpy(batch.positions).to(device)
    chosen = targets.flatten().to(device)[places]
    return PlacedBatch(inputs, chosen, places, batch.global_targets)


def rows_at_once(model: Any, rows: Rows, batch_rows: int, device: torch.device) -> int:
    """How many of `rows` a validation reads at once: `batch_rows`, on a GPU more of them."""
    if device.type != "cuda":
        return batch_rows
    return max(batch_rows, tokens_at_once(model, device) // len(rows.row(0)[0]))


def mean_loss(
    model: Any,
    rows: Rows,
    batch_rows: int,
    device: torch.device,
    precision: str = "float32",
) -> float:
    """Mean cross-entropy in nats per position with loss, over all of `rows`, without dropout;
    `model` may be several that share the work."""
    replicas = model if isinstance(model, Replicas) else Replicas(model)

    @torch.no_grad()  # of a thread
    def loss_of(replica: Any, batch: Batch) -> tuple[float, int]:
        replica.eval()
        with autocast(device, precision)():
            loss, targets = summed_loss(replica, batch, device)
        return loss.item(), targets

    batches = Batches(rows, batch_rows)
    size = _BATCHES_AT_ONCE * len(replicas.models)
    found: list[tuple[float, int]] = []
    for first in range(0, batches.num_steps, size):
        steps = range(first, min(first + size, batches.num_steps))
        found += replicas.run(loss_of, [batch for step in steps for batch in batches.batch(step)])
    return sum(loss for loss, _ in found) / sum(targets for _, targets in found)


def head_loss(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """Summed cross-entropy in nats of `hidden` [positions, width] through an output layer,
    `weight` [vocabulary, width] and `bias` [vocabulary]; `targets` int64 [positions]."""
    apply: Callable[..., torch.Tensor] = _HeadLoss.apply
    return apply(hidden, weight, bias, targets, torch.is_grad_enabled())


class _HeadLoss(torch.autograd.Function):
    """`head_loss`; gradients are made in the forward pass, where a chunk's logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        with_gradient: bool,
    ) -> torch.Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        loss = torch.zeros((), device=hidden.device)
        to_hidden = torch.empty_like(hidden) if with_gradient else None
        to_weight = torch.zeros_like(weight) if with_gradient else None
        to_bias = torch.zeros_like(bias) if with_gradient and bias is not None else None
        with torch.autocast(kind, enabled=False):
            output, size = weight.to(dtype), _chunk_rows(weight)
            # One buffer for all chunks: fresh memory costs as much as a pass over it.
            buffer = output.new_empty(min(size, len(hidden)), len(output))
            for start in range(0, len(hidden), size):
                part = hidden[start : start + size].to(dtype)
                logits = torch.mm(part, output.t(), out=buffer[: len(part)]).float()
                if bias is not None:
                    logits += bias
                loss += _to_gradient(logits, targets[start : start + size])
                if to_hidden is None or to_weight is None:
                    continue
                if to_bias is not None:
                    to_bias += logits.sum(0)
                logits = logits.to(dtype)
                to_hidden[start : start + size] = torch.mm(logits, output)
                if dtype == to_weight.dtype:
                    to_weight.addmm_(logits.t(), part)
                else:
                    to_weight += torch.mm(logits.t(), part)
        ctx.save_for_backward(to_hidden, to_weight, to_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = [None if g is None else g * upstream for g in ctx.saved_tensors]
        return *found, None, None


def _to_gradient(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The summed loss of `logits` [positions, vocabulary], which become its gradient in place."""
    highest = logits.amax(-1)
    chosen = logits.gather(1, targets[:, None])[:, 0]
    torch.softmax(logits, -1, out=logits)
    # The most probable token has 1 / sum(exp(logits - highest)).
    loss = (highest - logits.amax(-1).log() - chosen).sum()
    logits.scatter_add_(1, targets[:, None], logits.new_full((len(targets), 1), -1.0))
    return loss


def _chunk_rows(weight: torch.Tensor) -> int:
    logits = _CHUNK_LOGITS.get(weight.device.type, _CHUNK_LOGITS["cuda"])
    most = _CHUNK_ROWS if weight.device.type == "cpu" else logits
    return max(_MIN_CHUNK_ROWS, min(most, logits // len(weight)))


def has_plain_head(model: Any) -> bool:
    """Whether the logits are the output layer's of the base model's last hidden states, tried on
    three tokens once a model: what a config says of scales and caps has no common form."""
    if model not in _PLAIN_HEADS:
        _PLAIN_HEADS[model] = _try_head(model)
    return _PLAIN_HEADS[model]


@torch.no_grad()
def _try_head(model: Any) -> bool:
    head, base = model.get_output_embeddings(), model.base_model
    if not isinstance(head, nn.Linear) or base is model:
        return False
    device = head.weight.device
    ids = torch.tensor([[0, len(model.get_input_embeddings().weight) - 1, 0]], device=device)
    was_training = model.training
    model.eval()  # dropout would draw
    with torch.autocast(device.type, enabled=False):
        hidden = base(input_ids=ids, use_cache=False)[0]
        # A cap shows on large logits only, and those of a fresh model are small.
        scale = _LARGE_LOGITS / functional.linear(hidden, head.weight).abs().max().clamp_min(1e-20)
        scaling = head.register_forward_pre_hook(lambda _head, inputs: (inputs[0] * scale,))
        try:
            logits = model(input_ids=ids, use_cache=False).logits
        finally:
            scaling.remove()
        found = functional.linear(hidden * scale, head.weight, head.bias)
    model.train(was_training)
    return found.shape == logits.shape and torch.allclose(
        found, logits, rtol=1e-4, atol=1e-5 * logits.abs().max().item()
    )


@torch.no_grad()
def keeps_apart(model: Any) -> bool:
    """Whether texts in one row, whose positions begin at 0 each, are computed as each alone.
    transformers' masks see to it for most models; it is tried, since some know no positions."""
    ids = torch.arange(12, device=model.device)[None] % len(model.get_input_embeddings().weight)
    positions = torch.tensor([[*range(5), *range(7)]], device=model.device)
    was_training = model.training
    model.eval()
    try:
        alone = model(input_ids=ids[:, 5:], use_cache=False).logits
        run_on = model(input_ids=ids, use_cache=False).logits[:, 5:]
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 5:]
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError):
        return False  # a model that takes no positions
    finally:
        model.train(was_training)
    off, mixed = (packed - alone).abs().max().item(), (run_on - alone).abs().max().item()
    return bool(off <= 1e-3 * mixed)  # apart from rounding
