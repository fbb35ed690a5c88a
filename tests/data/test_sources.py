"""What is no file of records: folders of text, saved datasets, standard input."""

import gzip
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
import zstandard

from synboot.core.errors import BadInput
from synboot.data.corpus import read_documents
from synboot.data.files import (
    corpus_bytes_digest,
    find_files,
    spool_stream,
)

sys.path.append(str(Path(__file__).parent))

from corpus_files import lines
from folders import SPLITS, found, listed, record, touch, write

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
