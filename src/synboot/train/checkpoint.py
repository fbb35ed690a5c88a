"""The whole state of a training run as one value on disk (law 6). No pickle anywhere."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from synboot.core.storage import (
    atomic_directory,
    damaged_files,
    describe_files,
    read_json,
    write_json,
)

_BEST = "best.safetensors"
_ALWAYS_THERE = {"model.safetensors", "optimizer.safetensors", "state.json"}


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
    directory: Path,
    state: TrainState,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    best: Path | None = None,
) -> None:
    """Commit state, weights, optimizer and the file `best`, if it exists, below `directory`.

    The checkpoint before this one stays, in case this one is found damaged. What is older, and
    what a crash left half written, goes first, so that never more than two take up space.
    """
    path = directory / f"step-{state.step:08}"
    before = [old for old in checkpoints(directory) if old.name < path.name][-1:]
    for leftover in {*checkpoints(directory), *directory.glob(".step-*")} - {*before}:
        shutil.rmtree(leftover)
    with atomic_directory(path) as temporary:
        write_tensors(temporary / "model.safetensors", weights_of(model))
        write_tensors(temporary / "optimizer.safetensors", _optimizer_tensors(optimizer))
        write_json(temporary / "state.json", asdict(state))
        if best is not None and best.is_file():
            _link(best, temporary / _BEST)
        write_json(temporary / "checksums.json", describe_files(temporary))


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file. Raises OSError where the disk is full, as safetensors' own writer
    does not."""
    path.write_bytes(save(tensors))


def checkpoints(directory: Path) -> list[Path]:
    """The committed checkpoints, oldest first."""
    return sorted(directory.glob("step-????????"))


def load_checkpoint(
    directory: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    best: Path | None = None,
) -> TrainState | None:
    """Bring model, optimizer and the file `best` to the newest undamaged checkpoint; None if
    there is none. Damaged ones are removed."""
    for path in reversed(checkpoints(directory)):
        if not _is_whole(path):
            shutil.rmtree(path)
            continue
        put_weights(model, load_file(path / "model.safetensors"))
        _put_optimizer_tensors(optimizer, load_file(path / "optimizer.safetensors"))
        if best is not None:
            best.unlink(missing_ok=True)
            if (path / _BEST).is_file():
                _link(path / _BEST, best)
        return TrainState(**read_json(path / "state.json"))
    return None


def _is_whole(path: Path) -> bool:
    try:
        described = read_json(path / "checksums.json")
        return set(described) >= _ALWAYS_THERE and not damaged_files(path, described)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # the checksums themselves are damaged


def _link(source: Path, target: Path) -> None:
    """A second name for a file that is only ever replaced; a copy where links do not exist."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


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
        # A loaded tensor is a view of the file, which a later checkpoint removes.
        state.setdefault(int(index), {})[name] = value.clone()
    current = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})
