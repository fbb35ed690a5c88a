"""From paths to files and splits: lists, globs, URLs, folders of text, saved datasets, stdin."""

import gzip
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem

from synboot.core.errors import BadInput
from synboot.data.corpus import read_documents
from synboot.data.files import (
    Paths,
    corpus_bytes_digest,
    data_format,
    find_files,
    list_files,
    spool_stream,
)

SPLITS = ("train", "valid", "test")


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


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


def test_data_formats() -> None:
    assert data_format("x/train-0.v2.JSONL.gz") == ("jsonl", "gzip")
    assert data_format("memory://x/a.parquet") == ("parquet", None)
    assert data_format("README.md") == ("text", None)
    assert data_format("a.txt.zst") == ("text", "zstd")
    for name in ("a.json", "README", "jsonl", ".jsonl", "a.parquet.gz", "a.jsonl.bz2", "a.gz"):
        assert data_format(name) is None


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


TEXTS = {
    "intro.md": "# Intro\n\nHello.\n",
    "deep/er/one.txt": "\ufeffOne line, Grüße\r\n",
    "deep/test.txt": "About tests.",
}


def text_folder(folder: Path) -> Path:
    for name, text in TEXTS.items():
        touch(folder, name)
        (folder / name).write_bytes(text.encode())
    (folder / "packed.txt.gz").write_bytes(gzip.compress(b"packed"))
    (folder / "packed.md.zst").write_bytes(zstandard.compress(b"packed too"))
    return touch(folder, ".hidden.txt", "LICENSE", "picture.png")


def test_a_folder_of_texts_is_a_document_a_file(tmp_path: Path) -> None:
    source = text_folder(tmp_path / "in")
    expected = {name: text.lstrip("\ufeff") for name, text in TEXTS.items()}
    expected |= {"packed.txt.gz": "packed", "packed.md.zst": "packed too"}
    documents = list(read_documents(str(source)))
    assert {d.id: d.text for d in documents} == expected
    assert [d.id for d in documents] == sorted(expected)
    assert all(d.group is None and d.metadata == {} for d in documents)
    by_folder = {d.id: d.group for d in read_documents(str(source), group_field="folder")}
    assert by_folder["deep/er/one.txt"] == "deep/er"
    assert by_folder["intro.md"] is None
    with pytest.raises(BadInput, match=r"deep/er/one\.txt: field topic: expected folder"):
        list(read_documents(str(source), group_field="topic"))
    assert [d.id for d in read_documents(str(source / "deep" / "er" / "one.txt"))] == ["one.txt"]
    moved = shutil.copytree(source, tmp_path / "elsewhere")
    assert corpus_bytes_digest(str(source)) == corpus_bytes_digest(str(moved))
    (moved / "deep" / "test.txt").rename(moved / "test.txt")
    assert corpus_bytes_digest(str(source)) != corpus_bytes_digest(str(moved))


def test_a_text_is_named_by_its_own_name_only_if_all_are(tmp_path: Path) -> None:
    source = text_folder(tmp_path / "in")
    assert list(find_files(str(source))) == [None]
    touch(tmp_path / "named", "train.txt", "valid.txt", "test.txt")
    assert list(find_files(str(tmp_path / "named"))) == ["train", "valid", "test"]
    touch(tmp_path / "folders", "train/valid.txt", "train/b.md", "test/a.md")
    assert list(find_files(str(tmp_path / "folders"))) == ["train", "test"]
    touch(tmp_path / "folders", "more/a.md")
    with pytest.raises(BadInput, match=r"names a split and .*more/a\.md does not"):
        find_files(str(tmp_path / "folders"))


def test_texts_beside_data_files_are_about_them(tmp_path: Path) -> None:
    source = text_folder(tmp_path / "in")
    write(source / "deep", data=[record(0)])
    assert listed(str(source)) == [str(source / "deep" / "data.jsonl")]
    assert listed(f"{source}/**") == [str(source / "deep" / "data.jsonl")]
    # A list says what it wants.
    paths = [str(source / "deep" / "data.jsonl"), f"{source}/*.md"]
    assert [d.id for d in read_documents(paths)] == ["d0", "intro.md"]


def test_texts_of_one_name_from_two_folders_stay_apart(tmp_path: Path) -> None:
    paths = [str(touch(tmp_path / name, "a.txt")) for name in "xy"]
    for path in paths:
        (Path(path) / "a.txt").write_text(path)
    assert [d.id for d in read_documents(paths)] == ["a.txt", "a.txt#2"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"fine, then \xff", "in/a.txt: expected UTF-8; byte 12 of the file is not"),
        (b"\xef\xbb\xbffine, then \xff", "in/a.txt: expected UTF-8; byte 15 of the file is not"),
        (b"", r"in/a.txt: expected at least one record, the file is empty \(0 bytes\)"),
        (b" \n\t\n", "in/a.txt: the text: expected text, it is blank"),
        (b"\xef\xbb\xbf", "in/a.txt: the text: expected text, it is blank"),
    ],
)
def test_bad_texts_are_named_or_skipped(tmp_path: Path, data: bytes, message: str) -> None:
    source = touch(tmp_path / "in", "b.txt")
    (source / "a.txt").write_bytes(data)
    (source / "b.txt").write_text("good")
    with pytest.raises(BadInput, match=message):
        list(read_documents(str(source)))
    assert [d.id for d in read_documents(str(source), on_bad="skip")] == ["b.txt"]


@pytest.mark.skipif(os.name != "posix", reason="names of files are Unicode elsewhere")
def test_a_name_that_is_no_unicode_is_a_bad_id(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "b.txt", "x/b.txt")
    (source / "b.txt").write_text("good")
    (source / "x" / "b.txt").rename(source / os.fsdecode(b"a\xff.txt"))
    (source / os.fsdecode(b"a\xff.txt")).write_text("text")
    assert len(corpus_bytes_digest(str(source))) == 64
    with pytest.raises(BadInput, match=r"the id: expected Unicode text, character 2 is .udcff"):
        list(read_documents(str(source)))
    assert [d.id for d in read_documents(str(source), on_bad="skip")] == ["b.txt"]


def save_dataset(folder: Path, *shards: list[dict[str, Any]], **state: Any) -> Path:
    """What datasets' Dataset.save_to_disk leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{i:05d}-of-{len(shards):05d}.arrow" for i in range(len(shards))]
    for name, records in zip(names, shards, strict=True):
        table = pa.Table.from_pylist(records)
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    values = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0123456789abcdef",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(values | state))
    (folder / "dataset_info.json").write_text(json.dumps({"citation": "", "features": {}}))
    return folder


def test_a_saved_dataset_is_read_in_the_order_of_its_state(tmp_path: Path) -> None:
    rows = [record(i) | {"n": i} for i in range(7)]
    source = save_dataset(tmp_path / "saved", rows[:4], rows[4:])
    touch(source, "data-00001-of-00009.arrow", "cache-1.arrow", "README.md")
    assert list(find_files(str(source))) == [None]
    documents = list(read_documents(str(source)))
    assert [d.id for d in documents] == [r["id"] for r in rows]
    assert documents[3].metadata == {"n": 3}
    digest = corpus_bytes_digest(str(source))
    state = json.loads((source / "state.json").read_text())
    turned = {"_data_files": state["_data_files"][::-1]}
    (source / "state.json").write_text(json.dumps(state | turned))
    assert [d.id for d in read_documents(str(source))] == [r["id"] for r in rows[4:] + rows[:4]]
    assert corpus_bytes_digest(str(source)) != digest


def test_a_saved_dictionary_of_datasets_has_its_splits(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "validation", "test", "unlisted")):
        save_dataset(tmp_path / split, [record(number)])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    where = {split: str(tmp_path / split / "data-00000-of-00001.arrow") for split in SPLITS}
    where["valid"] = where["valid"].replace("/valid/", "/validation/")
    assert found(str(tmp_path)) == {split: [where[split]] for split in SPLITS}
    fsspec.filesystem("memory").put(str(tmp_path), "/saved-test", recursive=True)
    remote = find_files("memory://saved-test")
    assert list(remote) == list(SPLITS)
    assert [d.id for d in read_documents("memory://saved-test")] == ["d2", "d0", "d1"]
    (tmp_path / "validation" / "state.json").unlink()
    with pytest.raises(
        BadInput, match=r"validation/state\.json: expected a JSON object: .*No such"
    ):
        find_files(str(tmp_path))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_indices_files": [{"filename": "indices.arrow"}]}, "field _indices_files.*flatten_ind"),
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "field _indices_data_files.*flatten"),
        ({"_data_files": None}, "field _data_files: expected a list"),
        ({"_data_files": []}, "field _data_files: expected a list"),
        ({"_data_files": ["a.arrow"]}, "field _data_files: expected a list"),
        ({"_data_files": [{"filename": "../a.arrow"}]}, "field _data_files: expected a list"),
        ({"_data_files": [{"filename": "b.arrow"}]}, r"expected the file b\.arrow, it is missing"),
    ],
)
def test_a_saved_dataset_that_is_not_what_it_says_stops(
    tmp_path: Path, state: dict[str, Any], message: str
) -> None:
    source = save_dataset(tmp_path / "saved", [record(0)], **state)
    with pytest.raises(BadInput, match=rf"saved/state\.json: .*{message}"):
        find_files(str(source))


def test_indices_of_none_are_no_harm(tmp_path: Path) -> None:
    source = save_dataset(tmp_path / "saved", [record(0)], _indices_files=None, _indices_x=[])
    assert [d.id for d in read_documents(str(source))] == ["d0"]


@pytest.mark.parametrize(
    ("pack", "suffix"),
    [(bytes, ".jsonl"), (gzip.compress, ".jsonl.gz"), (zstandard.compress, ".jsonl.zst")],
)
def test_standard_input_becomes_a_file_that_its_bytes_name(
    tmp_path: Path, pack: Any, suffix: str
) -> None:
    data = pack(lines(*map(record, range(20))))
    path = spool_stream(io.BytesIO(data), tmp_path / "deep" / "inputs")
    assert path.parent == tmp_path / "deep" / "inputs"
    assert path.name.startswith("stdin-")
    assert path.name.partition(".")[1:] == (".", suffix[1:])
    assert path.read_bytes() == data
    assert len(list(read_documents(str(path)))) == 20
    assert spool_stream(io.BytesIO(data), path.parent) == path
    assert spool_stream(io.BytesIO(data + pack(lines(record(99)))), path.parent) != path
    assert len(list(path.parent.iterdir())) == 2


def test_standard_input_may_be_parquet(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist([record(0)]), sink)
    path = spool_stream(io.BytesIO(sink.getvalue()), tmp_path)
    assert path.suffix == ".parquet"
    assert [d.id for d in read_documents(str(path))] == ["d0"]


class Breaking(io.BytesIO):
    """A pipe that breaks after its first block."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise OSError("broken pipe")
        return super().read(8)


def test_standard_input_leaves_nothing_behind_if_it_is_empty_or_breaks(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"standard input: .* it is empty"):
        spool_stream(io.BytesIO(), tmp_path)
    with pytest.raises(OSError, match="broken pipe"):
        spool_stream(Breaking(b"{}\n" * 99), tmp_path)
    assert not list(tmp_path.iterdir())
