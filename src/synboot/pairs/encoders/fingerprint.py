"""Telling model directories apart without reading all of their weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from synboot.core.errors import BadInput

_WHOLE_BYTES = 16 << 20
_SAMPLES = 64
_SAMPLE_BYTES = 64 << 10


def fingerprint(directory: Path) -> str:
    """24 hexadecimal digits that stand for the files of a model directory, hidden ones apart:
    names, sizes and bytes; of a file over 16 MiB, 64 stretches from its first byte to its last.

    Any training changes weights everywhere, so that two models have two fingerprints; where the
    directory is does not matter. Raises BadInput if there is no such directory or no file in it.
    """
    if not directory.is_dir():
        raise BadInput(f"{directory}: expected the directory of a model")
    relative = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    names = sorted(
        path.as_posix() for path in relative if not any(part.startswith(".") for part in path.parts)
    )
    if not names:
        raise BadInput(f"{directory}: expected the files of a model, found none")
    hasher = hashlib.sha256()
    for name in names:
        path = directory / name
        hasher.update(
            f"{len(name)}:{name}:{path.stat().st_size}:".encode("utf-8", "surrogateescape")
        )
        _hash_bytes(path, hasher)
    return hasher.hexdigest()[:24]


def _hash_bytes(path: Path, hasher: hashlib._Hash) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            hasher.update(file.read())
            return
        for sample in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            hasher.update(file.read(_SAMPLE_BYTES))
