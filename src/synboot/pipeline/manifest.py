"""What an artifact says of itself: made of what, by what, with what."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from synboot.core.errors import SynbootError
from synboot.core.storage import describe_files, fsync_path
from synboot.pipeline.stage import SCRATCH, Artifact, Counts, Stage


def manifest_of(
    stage: Stage, inputs: Mapping[str, Artifact], counts: Counts, directory: Path, started: float
) -> dict[str, Any]:
    """The manifest of an artifact whose files lie in `directory`, which are synced. Raises
    SynbootError if there is none."""
    files = describe_files(directory, skip=SCRATCH)
    if not files:
        raise SynbootError(f"{stage.label} wrote no file")
    paths = [directory / name for name in files]
    folders = {p for path in paths for p in path.parents if p.is_relative_to(directory)}
    for path in (*paths, *folders):
        fsync_path(path)
    return {
        "schema": 1,
        "stage": stage.name,
        "label": stage.label,
        "id": stage.id,
        "version": stage.version,
        "config": stage.config,
        "inputs": {name: artifact.id for name, artifact in inputs.items()},
        "seed": stage.seed,
        "numerics": stage.numerics,
        "versions": _versions(),
        "counts": counts,
        "files": files,
        "started_at": round(started, 3),
        "wall_seconds": round(time.time() - started, 3),
    }


@cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("synboot", "numpy", "torch", "transformers", "tokenizers", "scikit-learn"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
