"""The whole state of a training run as one value on disk (law 6). No pickle anywhere."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from synboot.core.storage import (
    atomic_directory,
    damaged_files,
    describe_files,
    read_json,
    write_json,
)


@dataclass
class TrainState:
    """Everything that the next step depends on besides weights and optimizer.

    `step` counts finished steps and is the data cursor too; randomness is keyed by it, so there
    is no generator state. `loss_sum`, `loss_targets` gather the training loss since the last
    point of `history`.
    """

    step: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    loss_targets: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    history: list[dict[str, float | int | None]] = field(default_factory=list)


def save_checkpoint(
    directory: Path, state: TrainState, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Commit state, weights and optimizer below `directory`; older ones go afterwards."""
    path = directory / f"step-{state.step:08}"
    with atomic_directory(path) as temporary:
        save_file(weights_of(model), temporary / "model.safetensors")
        save_file(_optimizer_tensors(optimizer), temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", asdict(state))
        write_json(temporary / "checksums.json", describe_files(temporary))
    for old in checkpoints(directory):
        if old != path:
            shutil.rmtree(old)


def checkpoints(directory: Path) -> list[Path]:
    """The committed checkpoints, oldest first."""
    return sorted(directory.glob("step-????????"))


def load_checkpoint(
    directory: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> TrainState | None:
    """Bring model and optimizer to the newest undamaged checkpoint; None if there is none."""
    for path in reversed(checkpoints(directory)):
        checksums = path / "checksums.json"
        if not checksums.is_file() or damaged_files(path, read_json(checksums)):
            continue
        put_weights(model, load_file(path / "model.safetensors"))
        _put_optimizer_tensors(optimizer, load_file(path / "optimizer.safetensors"))
        return TrainState(**read_json(path / "state.json"))
    return None


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters by name; tied ones once."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}


def put_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copy `weights` into the model. Raises KeyError if one is missing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state[parameter].items()
    }


def _put_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    current = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})
