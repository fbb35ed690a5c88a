"""What of the machine's settings a stage records, since results may depend on it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from synboot.experiment.recipe import RuntimeConfig
from synboot.synth.engines import engine_numerics
from synboot.train.compiled import resolve_compile
from synboot.train.device import resolve_device, resolve_precision

_SLOTS = {"cpu": 64, "cuda": 1024}
_PART_DRAWS = {"cpu": 512, "cuda": 8192}  # 8 a slot, so that few slots are empty at its end


@dataclass(frozen=True)
class Numerics:
    """The settings of `runtime` that results may depend on in their last bits."""

    runtime: RuntimeConfig
    eager_training: dict[str, Any]
    """`training` without its `compile`."""
    parts: dict[str, Any]
    draws: dict[str, Any]
    scoring: dict[str, Any]
    embedding: dict[str, Any]
    """Of parts of documents that a model reads."""

    @cached_property
    def training(self) -> dict[str, Any]:
        """Made where something is trained, since looking for a compiler takes a second. Raises
        BadInput for one that was asked for and that this machine does not have."""
        device = resolve_device(self.runtime.device)
        return self.eager_training | {"compile": resolve_compile(self.runtime.compile, device)}


def numerics_of(runtime: RuntimeConfig) -> Numerics:
    """The numerics of training, of parts of documents, of draws and of held-out scores. Raises
    BadInput for a device that this machine does not have."""
    device = resolve_device(runtime.device)
    shared = {"device": device.type, "attention": "sdpa"} | _versions("torch", "transformers")
    precision = resolve_precision(runtime.precision, device)
    part_documents = {"part_documents": runtime.part_documents}
    parts = {"threads": 1, **part_documents} | _versions(
        "numpy", "scipy", "scikit-learn", "tokenizers"
    )
    return Numerics(
        runtime=runtime,
        eager_training={
            **shared,
            "threads": runtime.threads,
            "precision": precision,
            "micro_rows": runtime.micro_rows,
        },
        parts=parts,
        embedding=parts | shared,
        draws={
            **shared,
            "threads": 1,
            **engine_numerics(runtime.engine, device.type, runtime.cache, precision),
            "slots": runtime.slots or _SLOTS[device.type],
            "part_draws": runtime.part_draws or _PART_DRAWS[device.type],
        },
        scoring={**shared, "threads": runtime.threads, "precision": "float32", **part_documents},
    )


def _versions(*packages: str) -> dict[str, str]:
    """The libraries whose next version may round otherwise."""
    return {package: importlib.metadata.version(package) for package in packages}
