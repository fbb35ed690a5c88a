"""Which files a corpus is made of, and which split each of them names."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

import fsspec

from synboot.core.errors import BadInput
from synboot.core.storage import fsync_path

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
Format = Literal["jsonl", "parquet", "text", "arrow"]
Paths = str | Sequence[str]
"""One path or several: files, directories, globs, fsspec URLs."""

FORMATS_UNDERSTOOD = (
    ".jsonl, .ndjson, .txt and .md (plain, .gz or .zst), .parquet, and what datasets' save_to_disk "
    "wrote"
)

_SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}
_SPLIT_NAMES_UNDERSTOOD = f"{', '.join(_SPLIT_WORDS)} (also as train-00000-of-00002)"
_SHARD = re.compile(r"([a-z]+)([-_]\d+(-of-\d+)?(-[0-9a-f]+)?)?")

_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "text",
    ".md": "text",
}
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_MAGIC = {b"PAR1": ".parquet", b"\x1f\x8b": ".jsonl.gz", b"\x28\xb5\x2f\xfd": ".jsonl.zst"}
_COPY_BYTES = 1 << 20
_STATE, _INFO, _DICT = "state.json", "dataset_info.json", "dataset_dict.json"


@dataclass(frozen=True)
class DataFile:
    """A file of a corpus: where it lies, how it is written, what ids and digests call it."""

    path: str
    name: str
    """The last part of the path; of a text, its path below the folder that was given."""
    format: Format
    codec: str | None = None


@dataclass(frozen=True)
class _Found:
    """A file, and the splits that its folders and its own name stand for."""

    file: DataFile
    by_folder: frozenset[Split] = frozenset()
    by_name: frozenset[Split] = frozenset()


def data_format(file: str) -> tuple[Format, str | None] | None:
    """`"a.jsonl.gz" -> ("jsonl", "gzip")`; None if `file` is not named as a data file is."""
    suffixes = PurePosixPath(file.lower()).suffixes
    codec = _CODECS.get(suffixes[-1]) if suffixes else None
    last = (suffixes[:-1] if codec else suffixes)[-1:]
    if last == [".parquet"]:
        return None if codec else ("parquet", None)
    return (_FORMATS[last[0]], codec) if last and last[0] in _FORMATS else None


def list_files(paths: Paths) -> list[DataFile]:
    """The files at `paths`: in the order given, within a directory or glob sorted.

    Hidden files and what is no data file are passed over in directories and globs, and so are
    texts that lie in one beside data files (README.md). Raises BadInput if there is nothing to
    read, or if a file comes twice.
    """
    return [found.file for found in _list(paths)]


def find_files(paths: Paths) -> dict[Split | None, list[DataFile]]:
    """`list_files` by the split that the files name.

    A split is named by a file's name before its first dot or by a directory below the one that
    was given. A lone file and files without such names stand under None. The own name of
    a text counts only if all texts name a split: `test.md` may be about tests. Raises BadInput also
    if only some of the files name a split, or one names two.
    """
    listed = _list(paths)
    texts = [each for each in listed if each.file.format == "text"]
    names_count = all(each.by_folder or each.by_name for each in texts)
    found: dict[Split | None, list[DataFile]] = {}
    for each in listed:
        named = each.by_folder | each.by_name
        if each.file.format == "text" and (each.by_folder or not names_count):
            named = each.by_folder
        if len(named) > 1:
            raise BadInput(
                f"{each.file.path}: expected the name of one split, found {sorted(named)}"
            )
        found.setdefault(next(iter(named), None), []).append(each.file)
    if None in found and len(found) > 1:
        one = next(files[0].path for split, files in found.items() if split is not None)
        raise BadInput(
            f"{show_paths(paths)}: {one} names a split and {found[None][0].path} does not; "
            f"expected all or none of the files to be named by {_SPLIT_NAMES_UNDERSTOOD}"
        )
    return {split: found[split] for split in (*SPLITS, None) if split in found}


def expect_files(paths: Sequence[str | Path]) -> None:
    """Look for the data files at those paths that are on this machine's disk. Raises BadInput where
    there are none."""
    local = [path for path in map(str, paths) if path != "-" and "://" not in path]
    if local:
        list_files(local)


def corpus_bytes_digest(paths: Paths) -> str:
    """SHA-256 (hexadecimal) over the data files at `paths`: bytes, file names, splits, order.

    The same wherever the files lie, for identity (law 1). Raises BadInput as `find_files` does.
    """
    return bytes_digest(find_files(paths))


def bytes_digest(found: Mapping[Split | None, Sequence[DataFile]]) -> str:
    """`corpus_bytes_digest` of files that were found already."""
    whole = hashlib.sha256()
    for split, files in found.items():
        for file in files:
            content = hashlib.sha256()
            with _reading(file.path):
                filesystem, place = fsspec.core.url_to_fs(file.path)
                with filesystem.open(place, "rb") as stream:
                    while block := stream.read(_COPY_BYTES):
                        content.update(block)
            entry = [split, file.name, content.hexdigest()]
            whole.update(json.dumps(entry).encode() + b"\n")
    return whole.hexdigest()


def file_size(file: DataFile) -> int:
    """Bytes of `file` as it is stored, 0 where that is not known. Raises BadInput."""
    with _reading(file.path):
        filesystem, place = fsspec.core.url_to_fs(file.path)
        return filesystem.size(place) or 0


def show_paths(paths: Paths) -> str:
    """`paths` for a message."""
    return paths if isinstance(paths, str) else ", ".join(paths)


def spool_stream(stream: BinaryIO, directory: Path) -> Path:
    """Copy `stream` to a file below `directory` that its bytes name, and return its path.

    Parquet, gzip and zstd are told by their first bytes and anything else is taken for JSON lines.
    The file appears complete or not at all. Raises BadInput if there are no bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".stdin.{os.getpid()}.tmp"
    content = hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            start = block = stream.read(_COPY_BYTES)
            while block:
                content.update(block)
                file.write(block)
                block = stream.read(_COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())
        if not start:
            raise BadInput("standard input: expected records (JSON lines or Parquet), it is empty")
        suffix = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), ".jsonl")
        path = directory / f"stdin-{content.hexdigest()[:24]}{suffix}"
        temporary.replace(path)
        fsync_path(directory)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Errors of the file system as BadInput that names `path`."""
    try:
        yield
    except ImportError as error:
        raise _no_backend(path, error) from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot read the file: {error}") from None


def _no_backend(path: str, error: ImportError) -> BadInput:
    scheme = path.partition("://")[0]
    return BadInput(
        f"{path}: {scheme}:// needs a package that is not installed ({error}); "
        "install it with pip beside synboot"
    )


def _list(paths: Paths) -> list[_Found]:
    elements = [paths] if isinstance(paths, str) else list(paths)
    if not elements:
        raise BadInput("expected at least one path of a corpus, got none")
    if len(elements) == 1:
        return _expand(elements[0], alone=True)
    listed: list[_Found] = []
    origins: dict[str, str] = {}
    for element in elements:
        for found in _expand(element, alone=False):
            key = _absolute(found.file.path)
            if key in origins:
                raise BadInput(
                    f"{found.file.path}: expected every file once, it is in {origins[key]} and "
                    f"again in {element}"
                )
            origins[key] = element
            listed.append(found)
    return listed


def _absolute(path: str) -> str:
    filesystem, place = fsspec.core.url_to_fs(path)
    return str(filesystem.unstrip_protocol(os.path.normpath(place)))


def _expand(path: str, alone: bool) -> list[_Found]:
    """The files of one path; a file that is the whole corpus (`alone`) names no split."""
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
        if filesystem.isfile(root):
            kind = data_format(path)
            if kind is None:
                raise BadInput(f"{path}: expected a data file: {FORMATS_UNDERSTOOD}")
            name = PurePosixPath(path).name
            by_name = frozenset[Split]() if alone else _splits_of([_stem(name)])
            return [_Found(DataFile(path, name, *kind), by_name=by_name)]
        if glob.has_magic(path) and not filesystem.isdir(root):
            return _glob(filesystem, path)
        names = [
            place[len(root.rstrip("/")) :].lstrip("/")
            for _, places in _walk(filesystem, root)
            for place in places
        ]
        folder = path.rstrip("/") + "/"
        if _DICT in names:
            return _saved_splits(filesystem, folder, root)
        if _STATE in names and _INFO in names:
            return _saved_dataset(filesystem, folder, root, "")
    except FileNotFoundError:
        raise BadInput(
            f"{path}: expected a data file, a directory of them or a glob, found none"
        ) from None
    except ImportError as error:
        raise _no_backend(path, error) from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot look for data files: {error}") from None
    return _choose(path, folder, names)


def _walk(filesystem: Any, directory: str) -> Iterator[tuple[str, list[str]]]:
    """A directory and those below it, each with its files. Unlike fsspec's own walk this passes
    over no inner directory that cannot be read."""
    entries = filesystem.ls(directory, detail=True)
    kinds = {entry["name"].rstrip("/"): entry["type"] for entry in entries}
    kinds.pop(directory.rstrip("/"), None)  # object stores list a directory in itself
    yield directory, [place for place, kind in kinds.items() if kind != "directory"]
    for place, kind in kinds.items():
        if kind == "directory":
            yield from _walk(filesystem, place)


def _choose(path: str, folder: str, names: Sequence[str]) -> list[_Found]:
    """The data files among `names` (relative to `folder`), or the texts if there are none."""
    shown = [name for name in names if not any(map(_is_passed_over, name.split("/")))]
    kinds = {name: kind for name in shown if (kind := data_format(name))}
    # What lies beside data files is about them, as README.md is.
    only_texts = all(form == "text" for form, _ in kinds.values())
    chosen = []
    for name in sorted(name for name in kinds if only_texts or kinds[name][0] != "text"):
        *folders, last = name.split("/")
        file = DataFile(folder + name, name if only_texts else last, *kinds[name])
        chosen.append(_Found(file, _splits_of(folders), _splits_of([_stem(last)])))
    if not chosen:
        raise BadInput(f"{path}: holds no data file; understood are {FORMATS_UNDERSTOOD}")
    return chosen


def _is_passed_over(part: str) -> bool:
    """Hidden files, and the unfinished work of a verb, are no part of a corpus."""
    return part.startswith(".") or part.endswith(".partial")


def _splits_of(words: Sequence[str]) -> frozenset[Split]:
    lower = [word.lower() for word in words]
    return frozenset(_SPLIT_WORDS[word] for word in lower if word in _SPLIT_WORDS)


def _stem(name: str) -> str:
    """`"Train-00000-of-00002.jsonl" -> "train"`; "" for a name that is made otherwise."""
    shard = _SHARD.fullmatch(name.lower().split(".")[0])
    return shard[1] if shard else ""


def _glob(filesystem: Any, pattern: str) -> list[_Found]:
    magic = next(place for place, sign in enumerate(pattern) if sign in "*?[")
    folder = pattern[: pattern.rfind("/", 0, magic) + 1]
    _, root = fsspec.core.url_to_fs(folder or ".")
    root = root.rstrip("/")
    matches = {
        place[len(root) :].lstrip("/")
        for place in _matches(filesystem, root or "/", pattern[len(folder) :].split("/"))
    }
    return _choose(pattern, folder, sorted(matches))


def _matches(filesystem: Any, directory: str, pattern: Sequence[str]) -> Iterator[str]:
    """Files below `directory`; looks into no directory that the pattern does not name."""
    first, *rest = pattern
    if first == "**":
        for inner, _ in _walk(filesystem, directory):
            yield from _matches(filesystem, inner, rest or ["*"])
        return
    for entry in filesystem.ls(directory, detail=True):
        place = entry["name"].rstrip("/")
        if fnmatch.fnmatchcase(PurePosixPath(place).name, first):
            is_directory = filesystem.isdir(place)
            if rest and is_directory:
                yield from _matches(filesystem, place, rest)
            elif not rest and not is_directory:
                yield place


def _saved_splits(filesystem: Any, folder: str, root: str) -> list[_Found]:
    """The files of a saved DatasetDict: a saved dataset per split."""
    splits = _json(filesystem, folder, root, _DICT).get("splits")
    if not isinstance(splits, list) or not all(_is_plain_name(split) for split in splits):
        raise BadInput(f"{folder}{_DICT}: field splits: expected a list of names")
    return [
        found
        for split in sorted(splits)
        for found in _saved_dataset(filesystem, folder, root, f"{split}/")
    ]


def _saved_dataset(filesystem: Any, folder: str, root: str, inner: str) -> list[_Found]:
    """The files that the state.json of a saved Dataset names, in its order."""
    state = _json(filesystem, folder, root, inner + _STATE)
    where = f"{folder}{inner}{_STATE}"
    moved = [key for key, value in state.items() if key.startswith("_indices") and value]
    if moved:
        raise BadInput(
            f"{where}: field {moved[0]}: expected none: the rows are chosen by an indices file; "
            "call flatten_indices() before save_to_disk"
        )
    files = state.get("_data_files")
    entries = files if isinstance(files, list) else []
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    if not names or not all(_is_plain_name(name) for name in names):
        raise BadInput(f"{where}: field _data_files: expected a list of {{'filename': NAME}}")
    for name in names:
        if not filesystem.isfile(f"{root.rstrip('/')}/{inner}{name}"):
            raise BadInput(f"{where}: field _data_files: expected the file {name}, it is missing")
    by_folder = _splits_of([inner.rstrip("/")])
    return [
        _Found(DataFile(f"{folder}{inner}{name}", str(name), "arrow"), by_folder) for name in names
    ]


def _json(filesystem: Any, folder: str, root: str, name: str) -> dict[str, Any]:
    try:
        values = json.loads(filesystem.cat_file(f"{root.rstrip('/')}/{name}"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder}{name}: expected a JSON object: {error}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{folder}{name}: expected a JSON object, got {type(values).__name__}")
    return values


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\")
