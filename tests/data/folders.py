"""Folders of users' files, written for a test, and what is found in them."""

import sys
from pathlib import Path
from typing import Any

from synboot.data.files import Paths, find_files, list_files

sys.path.append(str(Path(__file__).parent))

from corpus_files import lines

SPLITS = ("train", "valid", "test")


def record(number: int) -> dict[str, Any]:
    return {"id": f"d{number}", "text": f"text number {number}"}


def write(folder: Path, **files: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_bytes(lines(*records))
    return folder


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(paths: Paths) -> dict[str | None, list[str]]:
    return {split: [file.path for file in files] for split, files in find_files(paths).items()}


def listed(paths: Paths) -> list[str]:
    return [file.path for file in list_files(paths)]
