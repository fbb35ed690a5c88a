"""Canonical values, checksums and files that exist whole or not at all (laws 1-3)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from synboot.core.errors import Busy

_CHUNK_BYTES = 1 << 20


def canonical_json(value: object) -> str:
    """The one text that stands for `value` in an identity.

    Takes None, bool, int, float, str and lists, tuples and str-keyed mappings of them. Raises
    TypeError for anything else (a path, a set, an object: their text may name this machine or
    change between runs) and ValueError for NaN and infinities.
    """
    return json.dumps(_canonical(value, "value"), ensure_ascii=False, separators=(",", ":"))


def _canonical(value: object, where: str) -> object:
    if value is None or isinstance(value, (bool, str)):
        return value
    if type(value) is int:
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which has no canonical form")
        return value
    if isinstance(value, (list, tuple)):
        return [_canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        bad = [key for key in value if not isinstance(key, str)]
        if bad:
            raise TypeError(f"{where} has the key {bad[0]!r}; keys must be str")
        return {key: _canonical(value[key], f"{where}.{key}") for key in sorted(value)}
    raise TypeError(f"{where} is a {type(value).__name__}, which has no canonical form")


def digest(value: object) -> str:
    """24 hexadecimal digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def describe_files(directory: Path, skip: str = "") -> dict[str, dict[str, int | str]]:
    """`{relative name: {"bytes", "sha256"}}` of every file below `directory`, sorted by name,
    without those in its sub-directory `skip`."""
    relative = (p.relative_to(directory) for p in directory.rglob("*") if p.is_file())
    names = sorted(p.as_posix() for p in relative if p.parts[0] != skip)
    return {
        name: {
            "bytes": (directory / name).stat().st_size,
            "sha256": file_checksum(directory / name),
        }
        for name in names
    }


def damaged_files(directory: Path, described: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names in `described` whose file is missing or has another checksum."""
    return [
        name
        for name, facts in described.items()
        if not (directory / name).is_file()
        or (directory / name).stat().st_size != facts["bytes"]
        or file_checksum(directory / name) != facts["sha256"]
    ]


def fsync_path(path: Path) -> None:
    """Force a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Write `path` under a temporary name; it appears, complete and on disk, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    encoding = None if "b" in mode else "utf-8"
    try:
        with temporary.open(mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Fill a temporary directory that becomes `path`, complete and on disk, or disappears.

    An existing `path` is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            fsync_path(file)
        fsync_path(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        fsync_path(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinities raise ValueError."""
    with atomic_file(path, "w") as file:
        json.dump(value, file, ensure_ascii=False, indent=2, allow_nan=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file that synboot wrote. Raises ValueError if it is damaged."""
    return json.loads(path.read_text(encoding="utf-8"))


def remove_leftovers(directory: Path) -> None:
    """Remove what killed writers left under temporary names below `directory`.

    For the holder of the one writer's place only: a living writer's work would go too.
    """
    for path in sorted(directory.rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive_lock(path: Path, guarded: Path | None = None) -> Iterator[None]:
    """Hold the one writer's place on the file `path`; freed by the kernel when the process dies.

    Raises Busy if another process holds it; the message names `guarded`, by default what the
    lock is named after.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another process is writing {guarded or path.with_suffix('')}") from None
        yield
