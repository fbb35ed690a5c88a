"""Where and in which precision a process computes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from synboot.core.errors import BadInput
from synboot.train.settings import DeviceName, Precision

_TOKENS_AT_ONCE = 4096
_TOKENS_AT_ONCE_ON_CUDA = 32_768
_LOGIT_BYTES = 2**30


def resolve_device(name: DeviceName) -> torch.device:
    """`auto` is the first CUDA device if there is one. Raises BadInput if `cuda` is asked of a
    machine without."""
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("field runtime.device: cuda was asked for, but there is no CUDA device")
    use_cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_cuda else "cpu")


def resolve_precision(name: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """`auto` is bfloat16 autocast on CUDA, float32 on a CPU (autocast is slower there)."""
    if name != "auto":
        return name
    return "bfloat16" if device.type == "cuda" else "float32"


def autocast(device: torch.device, precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """A factory of contexts in which matrix products run in `precision`; weights stay float32."""
    if precision == "bfloat16":
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext


def release_memory() -> None:
    """Leave to other processes what torch keeps of a GPU's memory for later."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()


def tokens_at_once(model: Any, device: torch.device) -> int:
    """How many tokens a causal LM reads at once where it is only asked: on a GPU more than on a
    CPU, so that it is busy with them, as long as their logits in float32 are a gibibyte."""
    if device.type != "cuda":
        return _TOKENS_AT_ONCE
    rows = len(model.get_input_embeddings().weight)
    return max(_TOKENS_AT_ONCE, min(_TOKENS_AT_ONCE_ON_CUDA, _LOGIT_BYTES // (4 * rows)))
