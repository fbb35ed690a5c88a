"""Compiling a model's blocks with torch.compile, and knowing beforehand whether that can be done.

Only the blocks are compiled (one graph serves all of them, hence all depths and vocabularies):
embedding, norm and output layer gain nothing. In one process arms of equal shape share the
compiled code; on disk inductor keeps it below `TORCHINDUCTOR_CACHE_DIR`.
"""

from __future__ import annotations

import contextlib
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from synboot.core.errors import BadInput, SynbootError
from synboot.train.device import resolve_device
from synboot.train.settings import CompileName, DeviceName

AUTO_FLOPS = 10**13
"""`auto` compiles training that takes so many FLOPs: some minutes on one core, of which compiled
blocks save more than the quarter of a minute that a first compilation costs."""

_AUTO = f"inductor from {AUTO_FLOPS:.0e} FLOPs"
_PROBE = "#include <Python.h>\n#include <cmath>\n"
_RECOMPILE_LIMIT = 64
_compiled_for: object = None
"""What the compiled code of this process is for."""


@cache
def no_compiler() -> str | None:
    """Why inductor cannot make code for this machine's CPU; None if it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # a second or more to import
    from torch._inductor.exc import InvalidCxxCompiler

    headers = sysconfig.get_path("include")
    try:
        command = [get_cpp_compiler(), "-x", "c++", "-fsyntax-only", "-I", headers, "-"]
        tried = subprocess.run(
            command, input=_PROBE, capture_output=True, text=True, timeout=60, check=False
        )
    except InvalidCxxCompiler:
        return "no C++ compiler"
    except Exception as error:  # it tries programs that may be anything
        return f"no C++ compiler that works ({type(error).__name__})"
    if not (Path(headers) / "Python.h").is_file():
        return "no Python.h (the development files of Python)"
    if tried.returncode:
        errors = [line for line in tried.stderr.splitlines() if "error" in line]
        return f"no C++ compiler that works ({(errors or ['it fails'])[0][:100]})"
    return None


def resolve_compile(name: CompileName, device: torch.device) -> str:
    """What training records among its numerics: `inductor`, `eager`, or from how many FLOPs on
    it is the first. `auto` is eager without a compiler, and on CUDA. Raises BadInput for `on` where
    nothing can be compiled."""
    reason = no_compiler() if device.type == "cpu" else None
    if name == "on" and reason is not None:
        raise BadInput(f"field runtime.compile: on was asked for, but there is {reason}")
    if name == "auto" and (reason is not None or device.type != "cpu"):
        return "eager"
    return {"auto": _AUTO, "on": "inductor", "off": "eager"}[name]


def compiles(resolved: str, flops: int | None) -> bool:
    """Whether training of so many FLOPs (None: unknown) is compiled: a function of the stage's
    config and of recorded numerics alone."""
    if resolved == _AUTO:
        return flops is not None and flops >= AUTO_FLOPS
    return resolved == "inductor"


def why_eager(name: CompileName, device: DeviceName) -> str | None:
    """One line for the start of a run that would be compiled where there is a compiler."""
    reason = no_compiler() if resolve_device(device).type == "cpu" and name == "auto" else None
    if reason is None:
        return None
    return f"not compiled: {reason}; training of {AUTO_FLOPS:.0e} FLOPs and more runs eagerly"


@contextlib.contextmanager
def compiled_blocks(
    models: Sequence[Any], shape: tuple[int, int], kind: object = None
) -> Iterator[None]:
    """Inside it the blocks of `models`, one and its replicas, are compiled, forward and backward,
    for inputs of `shape` (rows, length); other shapes run eagerly. `kind` is what else the code
    depends on.

    What was compiled before is kept for the same config, shape and kind, and forgotten otherwise,
    all of torch's in this process: bits cannot depend on what it did earlier. Raises SynbootError
    at the first call of a block that cannot be compiled.
    """
    global _compiled_for
    from torch._inductor.exc import InductorError

    model = models[0]
    names = set(model._no_split_modules or ())
    blocks = [m for each in models for m in each.modules() if type(m).__name__ in names]
    key = (type(model), model.config.to_json_string(), str(model.device), shape, kind)
    if key != _compiled_for:
        torch._dynamo.reset()
        _compiled_for = key
    for block in blocks:
        block._compiled_call_impl = _for_shape(block, shape)
    # Without hook guards, blocks compiled without dropout would serve a model with it.
    settings = torch._dynamo.config.patch(
        recompile_limit=_RECOMPILE_LIMIT, skip_nnmodule_hook_guards=False
    )
    _reorder(False)
    try:
        with settings:
            yield
    except (torch._dynamo.exc.TorchDynamoException, InductorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise SynbootError(
            f"{type(model).__name__} cannot be compiled here: {reason}; with "
            "runtime.compile=off (SYNBOOT_RUNTIME__COMPILE=off) it is trained eagerly"
        ) from error
    finally:
        _reorder(True)
        for block in blocks:
            block._compiled_call_impl = None


def _reorder(reorders: bool) -> None:
    """Whether torch moves the code used last to the front of its list, as it does by default. A
    thread that searches the list meanwhile can miss its code, and compile it anew (torch 2.13;
    pytorch#195355 mends it)."""
    set_order = getattr(torch._C._dynamo.eval_frame, "_set_lru_cache", None)
    if set_order is not None:
        set_order(reorders)


def _for_shape(block: Any, shape: tuple[int, int]) -> Callable[..., Any]:
    compiled = torch.compile(block._call_impl, dynamic=False)

    def call(*inputs: Any, **options: Any) -> Any:
        states = inputs[0] if inputs else options["hidden_states"]  # [rows, length, width]
        return (compiled if states.shape[:2] == shape else block._call_impl)(*inputs, **options)

    return call
