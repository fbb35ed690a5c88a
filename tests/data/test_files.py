"""From paths to files and splits: lists, globs, directories, URLs, and the digest of bytes."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from synboot.core.errors import BadInput
from synboot.data.corpus import read_documents
from synboot.data.files import (
    corpus_bytes_digest,
    data_format,
    expect_files,
    find_files,
)

sys.path.append(str(Path(__file__).parent))

from corpus_files import lines
from folders import SPLITS, found, listed, record, touch, write


def test_data_formats() -> None:
    assert data_format("x/train-0.v2.JSONL.gz") == ("jsonl", "gzip")
    assert data_format("memory://x/a.parquet") == ("parquet", None)
    assert data_format("README.md") == ("text", None)
    assert data_format("a.txt.zst") == ("text", "zstd")
    for name in ("a.json", "README", "jsonl", ".jsonl", "a.parquet.gz", "a.jsonl.bz2", "a.gz"):
        assert data_format(name) is None


def test_files_are_expected_on_the_disk_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl")
    expect_files(["-", "memory://nowhere/a.jsonl", str(tmp_path)])
    expect_files([])
    with pytest.raises(BadInput, match=r"b\.jsonl: expected a data file"):
        expect_files(["-", tmp_path / "a.jsonl", tmp_path / "b.jsonl"])


def test_names_of_files_and_directories_name_splits(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "train-00000-of-00002.jsonl",
        "train-00001-of-00002-0a1b2c.jsonl.gz",
        "en/train/b.ndjson.zst",
        "en/TRAIN_3.extra.jsonl",
        "validation.parquet",
        "dev/x.jsonl",
        "test.v2.jsonl",
        # None of these is data.
        "README.md", "LICENSE", "state.json", ".hidden.jsonl", ".cache/train.jsonl", "_SUCCESS",
        "train.txt", "vocab.json.gz",
    )  # fmt: skip
    expected = {
        "train": [
            "en/TRAIN_3.extra.jsonl",
            "en/train/b.ndjson.zst",
            "train-00000-of-00002.jsonl",
            "train-00001-of-00002-0a1b2c.jsonl.gz",
        ],
        "valid": ["dev/x.jsonl", "validation.parquet"],
        "test": ["test.v2.jsonl"],
    }
    for path in (str(tmp_path), f"{tmp_path}/", f"{tmp_path}/**"):
        assert found(path) == {s: [f"{tmp_path}/{name}" for name in expected[s]] for s in SPLITS}
        assert list(found(path)) == ["train", "valid", "test"]


def test_a_single_file_names_no_split(tmp_path: Path) -> None:
    source = write(tmp_path / "test", train=[record(0)])
    path = str(source / "train.jsonl")
    assert found(path) == found([path]) == {None: [path]}
    write(source, train_notes=[record(1)])
    (source / "train.jsonl").unlink()
    assert found(str(source)) == {None: [str(source / "train_notes.jsonl")]}


def test_files_are_found_by_relative_path_through_links_and_by_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "blobs", a=[record(0)])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").symlink_to(tmp_path / "blobs" / "a.jsonl")
    monkeypatch.chdir(tmp_path)
    assert found("data") == {"train": ["data/train.jsonl"]}
    assert found("data/train.jsonl") == {None: ["data/train.jsonl"]}
    assert found("d*/*.jsonl") == {"train": ["data/train.jsonl"]}
    shutil.copy("data/train.jsonl", "here.jsonl")
    assert found("*.jsonl") == {None: ["here.jsonl"]}
    assert found(f"file://{tmp_path}/data") == {"train": [f"file://{tmp_path}/data/train.jsonl"]}
    fsspec.filesystem("memory").pipe("/find-test/dev/a.jsonl", b"")
    assert found("memory://find-test") == {"valid": ["memory://find-test/dev/a.jsonl"]}
    assert found("memory://find-test/*/*") == {"valid": ["memory://find-test/dev/a.jsonl"]}


@pytest.mark.parametrize(
    "missing", ["none", "none.jsonl", "none*.jsonl", "memory://none-test", "nowhere://a"]
)
def test_a_missing_path_is_bad_input(tmp_path: Path, missing: str) -> None:
    path = missing if ":" in missing else str(tmp_path / missing)
    with pytest.raises(BadInput) as caught:
        find_files(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_list_keeps_its_order_and_sorts_within(tmp_path: Path) -> None:
    write(tmp_path / "z", b=[record(0)], a=[record(1)])
    write(tmp_path / "a", d=[record(2)], c=[record(3)])
    write(tmp_path, one=[record(4)])
    paths = [str(tmp_path / "z"), str(tmp_path / "one.jsonl"), f"{tmp_path}/a/*.jsonl"]
    names = ["z/a", "z/b", "one", "a/c", "a/d"]
    assert listed(paths) == [str(tmp_path / f"{name}.jsonl") for name in names]
    assert list(find_files(paths)) == [None]
    ids = [document.id for document in read_documents(paths)]
    assert ids == ["d1", "d0", "d4", "d3", "d2"]


def test_files_of_a_list_or_glob_name_splits(tmp_path: Path) -> None:
    write(tmp_path / "x", train=[record(0)], valid=[record(1)])
    write(tmp_path / "y", test=[record(2)])
    names = {
        "train": [str(tmp_path / "x" / "train.jsonl")],
        "valid": [str(tmp_path / "x" / "valid.jsonl")],
        "test": [str(tmp_path / "y" / "test.jsonl")],
    }
    assert found([names["test"][0], names["train"][0], names["valid"][0]]) == names
    assert found([str(tmp_path / "y"), f"{tmp_path}/x/*"]) == names
    assert found(f"{tmp_path}/[xy]/*.jsonl") == names
    # The directories that were given name nothing, those below them do.
    shutil.move(tmp_path / "y", tmp_path / "dev")
    write(tmp_path / "dev", more=[record(3)])
    (tmp_path / "dev" / "test.jsonl").unlink()
    assert list(find_files([str(tmp_path / "dev"), str(tmp_path / "dev" / ".." / "dev")][:1])) == [
        None
    ]
    assert list(find_files(f"{tmp_path}/*/*.jsonl")) == ["train", "valid"]


def test_a_file_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in", a=[record(0)], b=[record(1)])
    monkeypatch.chdir(tmp_path)
    path = str(source / "a.jsonl")
    for again in (path, "in/a.jsonl", "./in/../in/a.jsonl", str(source), "in/*", f"file://{path}"):
        with pytest.raises(BadInput, match=r"a\.jsonl: expected every file once, it is in .*again"):
            find_files([path, again])
    with pytest.raises(BadInput, match="expected at least one path"):
        find_files([])


def test_a_glob_reads_files_and_looks_nowhere_else(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.jsonl", "b.jsonl.gz", "README.md", ".c.jsonl", "x/d.jsonl", "x/y/e.jsonl",
        "z1/f.jsonl", "odd[1].jsonl",
    )  # fmt: skip

    def names(pattern: str) -> list[str]:
        return [path.removeprefix(f"{tmp_path}/") for path in listed(f"{tmp_path}/{pattern}")]

    assert names("*") == ["a.jsonl", "b.jsonl.gz", "odd[1].jsonl"]
    assert names("?.jsonl*") == ["a.jsonl", "b.jsonl.gz"]
    assert names("[!a]*.jsonl*") == ["b.jsonl.gz", "odd[1].jsonl"]
    assert names("*/*.jsonl") == ["x/d.jsonl", "z1/f.jsonl"]
    assert names("x/**/*.jsonl") == names("x/**/**/*.jsonl") == ["x/d.jsonl", "x/y/e.jsonl"]
    assert names("**/e.*") == ["x/y/e.jsonl"]
    assert names("odd[1].jsonl") == ["odd[1].jsonl"]  # a file of this very name
    with pytest.raises(BadInput, match=r"x\*: holds no data file"):
        names("x*")  # a directory, no file


class Locked(MemoryFileSystem):
    """A file system with a directory that may not be read."""

    protocol = "locked"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the base class
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("locked://", "memory://"))

    def ls(self, path: str, detail: bool = True, **more: Any) -> Any:
        if path.rstrip("/").endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return super().ls(path, detail, **more)


@pytest.fixture
def locked() -> Iterator[None]:
    fsspec.register_implementation("locked", Locked, clobber=True)
    filesystem = fsspec.filesystem("locked")
    for name in ("open/a.jsonl", "secret/b.jsonl"):
        filesystem.pipe(f"/data/{name}", lines(record(0)))
    yield
    filesystem.store.clear()


@pytest.mark.usefixtures("locked")
def test_a_directory_that_cannot_be_read_stops() -> None:
    for path in ("locked://data", "locked://data/secret", "locked://data/**/*.jsonl"):
        with pytest.raises(BadInput, match=r"cannot look for data files: .*Permission denied"):
            find_files(path)
    assert listed("locked://data/o*/*.jsonl") == ["locked://data/open/a.jsonl"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_local_directory_that_cannot_be_read_stops(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=[record(0)])
    write(source / "secret", b=[record(1)])
    (source / "secret").chmod(0)
    with pytest.raises(BadInput, match=r"cannot look for data files: .*Permission denied"):
        find_files(str(source))
    (source / "secret").chmod(0o700)


def test_a_missing_backend_says_what_to_install() -> None:
    hint = "Install no_such_backend to access it"
    fsspec.register_implementation("faraway", "no_such_backend.Files", errtxt=hint, clobber=True)
    for use in (find_files, corpus_bytes_digest, lambda path: list(read_documents(path))):
        with pytest.raises(BadInput, match=r"faraway:// needs a package .*Install no_such_backend"):
            use("faraway://bucket/a.jsonl")


def test_paths_without_data_say_what_is_understood(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").touch()
    for path in (tmp_path, tmp_path / "notes.csv"):
        with pytest.raises(BadInput, match=r"\.jsonl, \.ndjson.* \.parquet"):
            find_files(str(path))


def test_named_and_unnamed_files_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path, train=[record(0)], more=[record(1)])
    two = [f"{tmp_path}/{name}.jsonl" for name in ("train", "more")]
    for paths in (str(tmp_path), f"{tmp_path}/*", two):
        with pytest.raises(BadInput, match=r"train\.jsonl names a split and .*more\.jsonl does"):
            find_files(paths)


def test_a_file_of_two_splits_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "test", train=[record(0)])
    with pytest.raises(BadInput, match=r"test/train\.jsonl: expected the name of one split"):
        find_files(str(tmp_path))


def test_the_digest_sees_bytes_names_and_splits_but_no_paths(tmp_path: Path) -> None:
    one = write(tmp_path / "one", train=[record(0)], test=[record(1)])
    digest = corpus_bytes_digest(str(one))
    shutil.copytree(one, tmp_path / "deep" / "two")
    two = tmp_path / "deep" / "two"
    (two / "README.md").write_text("not data")
    assert corpus_bytes_digest(str(two)) == digest
    assert corpus_bytes_digest(f"{two}/*.jsonl") == digest
    assert corpus_bytes_digest([f"{two}/train.jsonl", f"{one}/test.jsonl"]) == digest
    # As it was before lists and globs: the ids of runs that exist must stay.
    assert digest == "936fe2a2ed1bae862234fe1edba5e74775ec4a3225459beee03d5a98ff142a76"

    (two / "test.jsonl").rename(two / "valid.jsonl")
    others = {corpus_bytes_digest(str(two))}
    (two / "valid.jsonl").rename(two / "test-1.jsonl")
    others.add(corpus_bytes_digest(str(two)))
    write(two, test=[record(2)])
    (two / "test-1.jsonl").unlink()
    others.add(corpus_bytes_digest(str(two)))
    others.add(corpus_bytes_digest(str(two / "train.jsonl")))
    assert len(others | {digest}) == 5
