"""The gradients of a model over a step's batches; on a GPU by a graph that is captured once.

A small model's step is some hundred operations that the GPU ends sooner than Python asks for them.
Batches of one shape all of whose positions carry loss, as those of pretraining are, ask for all of
them in one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from synboot.data.batches import IGNORED, Batch
from synboot.model.replay import Replay
from synboot.train.loss import loss_at, summed_loss


class Gradients:
    """Adds up the gradients of the batches of a step of `model`, on `device` and inside the context
    that `cast` makes. A step begins with gradients that are None. Compiled code is not captured:
    its capture fails (torch 2.11 on an H100)."""

    def __init__(
        self,
        model: Any,
        device: torch.device,
        cast: Callable[[], AbstractContextManager[Any]],
        *,
        compiled: bool = False,
    ) -> None:
        self._model, self._device, self._cast = model, device, cast
        self._replay = Replay(device)
        self._captures = self._replay.reason is None and not compiled
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._fixed: _Fixed | None = None

    def add(self, batch: Batch, *, alone: bool) -> tuple[torch.Tensor, int]:
        """(summed loss in nats, positions with loss) of a batch; `alone` says that it is all of its
        step. Gradients are those of the loss over the `global_targets` of the batch."""
        if alone and self._captures and self._can_be_fixed(batch):
            return self._replayed(batch)
        with self._cast():
            loss, targets = summed_loss(self._model, batch, self._device)
        torch.autograd.backward(loss / batch.global_targets)
        return loss.detach(), targets

    def _can_be_fixed(self, batch: Batch) -> bool:
        if batch.positions is not None or (batch.targets == IGNORED).any():
            return False
        return self._fixed is None or self._fixed.inputs.shape == batch.inputs.shape

    def _replayed(self, batch: Batch) -> tuple[torch.Tensor, int]:
        if self._fixed is None:
            self._fixed = _Fixed(batch, self._device)
        fixed = self._fixed
        fixed.fill(batch)

        def work() -> None:
            for parameter in self._parameters:
                parameter.grad = None  # it is made in memory that the graph keeps
            with self._cast():
                loss = loss_at(self._model, {"input_ids": fixed.inputs}, fixed.targets)
            torch.autograd.backward(loss / fixed.global_targets)
            fixed.loss.copy_(loss.detach())
            fixed.gradients = [parameter.grad for parameter in self._parameters]

        self._replay("step", work)
        for parameter, gradient in zip(self._parameters, fixed.gradients, strict=True):
            parameter.grad = gradient  # the graph's; a step's end has let go of it
        return fixed.loss, batch.targets.size


class _Fixed:
    """Tensors of a step that stay where they are."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self.inputs = torch.empty(batch.inputs.shape, dtype=torch.int64, device=device)
        self.targets = torch.empty(batch.targets.size, dtype=torch.int64, device=device)
        self.global_targets = torch.empty((), device=device)
        self.loss = torch.empty((), device=device)
        self.gradients: list[torch.Tensor | None] = []

    def fill(self, batch: Batch) -> None:
        """Put the batch there."""
        self.inputs.copy_(torch.from_numpy(batch.inputs))
        self.targets.copy_(torch.from_numpy(batch.targets).flatten())
        self.global_targets.fill_(batch.global_targets)
