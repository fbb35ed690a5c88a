"""Forward and backward of a training step as one launch: on a GPU a graph that is captured once.

A small model's step is some hundred operations that the GPU ends sooner than Python asks for them.
Batches of one shape all of whose positions carry loss, as those of pretraining are, ask for all of
them in one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from synboot.data.batches import IGNORED, Batch
from synboot.model.replay import Replay
from synboot.train.loss import PlacedBatch

Work = Callable[[Batch | PlacedBatch], tuple[torch.Tensor, int]]
"""Adds the gradients of a batch to a model's; (summed loss in nats, positions with loss)."""


class StepGraph:
    """Runs the work of the steps of `model`, which begin with gradients that are None. Compiled
    code is not captured: its capture fails (torch 2.11 on an H100)."""

    def __init__(self, model: Any, device: torch.device, *, captures: bool = True) -> None:
        self._device = device
        self._replay = Replay(device)
        self._captures = captures and self._replay.reason is None
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._fixed: PlacedBatch | None = None
        self._loss = torch.empty((), device=device)
        self._gradients: list[torch.Tensor | None] = []

    def run(self, work: Work, batch: Batch) -> tuple[torch.Tensor, int]:
        """What `work`, the same at every call, does with a batch."""
        if self._captures and self._can_be_fixed(batch):
            return self._replayed(work, batch)
        return work(batch)

    def _can_be_fixed(self, batch: Batch) -> bool:
        all_of_its_step = batch.targets.size == batch.global_targets
        masked = (batch.targets == IGNORED).any()
        if not all_of_its_step or masked or batch.positions is not None:
            return False
        return self._fixed is None or self._fixed.inputs["input_ids"].shape == batch.inputs.shape

    def _replayed(self, work: Work, batch: Batch) -> tuple[torch.Tensor, int]:
        fixed = self._fixed = self._fixed or _empty(batch, self._device)
        fixed.inputs["input_ids"].copy_(torch.from_numpy(batch.inputs))
        fixed.targets.copy_(torch.from_numpy(batch.targets).flatten())
        assert isinstance(fixed.global_targets, torch.Tensor)
        fixed.global_targets.fill_(batch.global_targets)

        def step() -> None:
            for parameter in self._parameters:
                parameter.grad = None  # it is made in memory that the graph keeps
            self._loss.copy_(work(fixed)[0])
            self._gradients = [parameter.grad for parameter in self._parameters]

        self._replay("step", step)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient  # the graph's; a step's end has let go of it
        return self._loss, batch.targets.size


def _empty(batch: Batch, device: torch.device) -> PlacedBatch:
    """Tensors for batches like this one, which stay where they are."""
    return PlacedBatch(
        inputs={"input_ids": torch.empty(batch.inputs.shape, dtype=torch.int64, device=device)},
        targets=torch.empty(batch.targets.size, dtype=torch.int64, device=device),
        places=None,
        global_targets=torch.empty((), device=device),
    )
