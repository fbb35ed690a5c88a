"""Records: the formats that are read, and how a record or a file that cannot be is named."""

import gzip
import json
import re
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from corpus_files import GOOD, lines, parquet, write, zstd

from synboot.core.errors import BadInput
from synboot.data import records
from synboot.data.corpus import (
    Document,
    Rules,
    Tally,
    read_documents,
    read_documents_by_file,
)
from synboot.data.fields import Fields
from synboot.data.files import DataFile


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", bytes),
        ("a.ndjson", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.ndjson.gz", gzip.compress),
        ("a.jsonl.zst", zstd),
        ("a.ndjson.ZST", zstd),
    ],
)
def test_compressed_files_read_like_plain_ones(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    records = [{"id": i, "text": f"ü {i} " * 50} for i in range(5000)]
    # Two members or frames in one file are legal and common: shards are joined with cat.
    data = pack(lines(*records[:3000])) + pack(lines(*records[3000:]))
    documents = list(read_documents(write(tmp_path / name, data)))
    assert [(d.id, d.text) for d in documents] == [(str(r["id"]), r["text"]) for r in records]


def test_parquet_reads_like_json(tmp_path: Path) -> None:
    number = 777
    columns = {
        "id": [f"d{i}" for i in range(number)],
        "text": pa.array([f"text {i}" for i in range(number)], pa.large_string()),
        "label": pa.array([f"g{i % 5}" for i in range(number)]).dictionary_encode(),
        "meta": [{"page": i} for i in range(number)],
        "day": [date(2020, 1, 2)] * number,
        "price": [Decimal("1.50")] * number,
        "raw": [b"\x00\xff"] * number,
        "score": [float("inf")] * number,
    }
    files = parquet(tmp_path / "a.parquet", columns)
    documents = list(read_documents(files, group_field="label"))
    assert [d.id for d in documents] == columns["id"]
    assert documents[500] == Document(
        "d500",
        "text 500",
        "g0",
        None,
        None,
        {
            "meta": {"page": 500},
            "day": "2020-01-02",
            "price": "1.50",
            "raw": "00ff",
            "score": None,
        },
    )
    json.dumps(documents[0].metadata, allow_nan=False)
    files = parquet(tmp_path / "b.parquet", {"page": [{"n": 4}], "text": ["t"]})
    assert [d.id for d in read_documents(files, id_field="page.n")] == ["4"]


def test_blank_lines_carriage_returns_and_a_byte_order_mark_are_no_harm(tmp_path: Path) -> None:
    body = lines(GOOD[0]).replace(b"\n", b"\r\n") + b"\n  \n" + lines(GOOD[1]).rstrip()
    files = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + body)
    assert [d.id for d in read_documents(files)] == ["d0", "d1"]


def test_remote_files_read_like_local_ones() -> None:
    fsspec.filesystem("memory").pipe("/corpus-test/a.jsonl.gz", gzip.compress(lines(*GOOD)))
    documents = read_documents(["memory://corpus-test/a.jsonl.gz"])
    assert [d.text for d in documents] == [r["text"] for r in GOOD]


BAD_LINES = {
    "broken_json": (b'{"id": "x", "text": "unclosed', "column 21"),
    "not_an_object": (b'["id", "text"]', "expected a JSON object, got list"),
    "missing_field": (b'{"id": "x", "body": "b"}', "field text: expected one"),
    "wrong_type": (b'{"id": "x", "text": ["t"]}', "field text: expected text, got list"),
    "invalid_utf8": (b'{"id": "x", "text": "\xff"}', "byte 22 of the line"),
    "empty_text": (b'{"id": "x", "text": " \\n "}', "field text: expected text, it is blank"),
    "lone_surrogate": (b'{"id": "x", "text": "ab\\ud800"}', "field text: .* character 3 is .ud800"),
    "duplicate_id": (b'{"id": "d1", "text": "t"}', "field id: the id 'd1' is taken"),
}
MORE_BAD_LINES = {
    "null text": (b'{"id": "x", "text": null}', "field text: expected text, got null"),
    "no id": (b'{"text": "t"}', "field id: expected one, the record has 'text'"),
    "null id": (b'{"id": null, "text": "t"}', "field id: .*got null"),
    "id of a wrong type": (b'{"id": 1.5, "text": "t"}', "field id: .*whole number, got float"),
    "id that is true": (b'{"id": true, "text": "t"}', "field id: .*got bool"),
    "empty id": (b'{"id": "", "text": "t"}', "field id: .*got empty text"),
    "surrogate in the id": (b'{"id": "\\udfff", "text": "t"}', "field id: .*udfff"),
    "surrogate in the license": (
        b'{"id": "x", "text": "t", "license": "\\udc00"}',
        "field license: .*udc00",
    ),
    "trailing comma": (b'{"id": "x", "text": "t"},', "column 25"),
    "a deep nest": (b"[" * 200_000, "expected a JSON object of usual size"),
    "a huge number": (b'{"id": "x", "text": "t", "n": ' + b"9" * 5000 + b"}", "of usual size"),
    "UTF-16": ('{"id": "x", "text": "t"}'.encode("utf-16"), "expected UTF-8; byte 1"),
}


@pytest.mark.parametrize(
    ("line", "message"), [*BAD_LINES.values(), *MORE_BAD_LINES.values()],
    ids=[*BAD_LINES, *MORE_BAD_LINES],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str, packed: bool) -> None:
    data = lines(*GOOD) + line.replace(b"\n", b"") + b"\n"
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    files = write(path, gzip.compress(data) if packed else data)
    with pytest.raises(BadInput, match=f"{re.escape(str(path))}, line 4: .*{message}"):
        list(read_documents(files))


def test_skip_counts_by_kind_and_keeps_the_rest(tmp_path: Path) -> None:
    bad_lines = b"".join(line + b"\n" for line, _ in BAD_LINES.values())
    more = {"id": "late", "text": "still read"}
    files = write(tmp_path / "a.jsonl", lines(*GOOD) + bad_lines + bad_lines + lines(more))
    tally = Tally()
    documents = list(read_documents(files, on_bad="skip", tally=tally))
    assert [d.id for d in documents] == ["d0", "d1", "d2", "late"]
    assert tally.bad == dict.fromkeys(BAD_LINES, 2)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
RECORDS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("id", "text", "meta.g", "meta", "source", "license"), VALUES)
)


@settings(deadline=None)
@given(st.lists(RECORDS.map(lambda r: json.dumps(r).encode()) | st.binary(max_size=30)))
def test_whatever_the_lines_hold_skip_goes_on(
    tmp_path_factory: pytest.TempPathFactory, rows: list[bytes]
) -> None:
    """Every line is a good document or counted, never an error or a document that breaks later;
    but for records with ids after a first one without, which would take all others along."""
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    files = write(path, b"\n".join(rows))
    tally = Tally()
    try:
        documents = list(read_documents(files, group_field="meta.g", on_bad="skip", tally=tally))
    except BadInput as error:
        if "field id: expected none, as in the first record" not in str(error):
            raise
        return
    filled = [line for line in path.read_bytes().split(b"\n") if line and not line.isspace()]
    assert len(documents) + tally.bad.total() == len(filled) + tally.bad["empty_file"]
    assert tally.bad["empty_file"] == (not filled)
    assert len({d.id for d in documents}) == len(documents)
    for d in documents:
        assert d.id.encode()
        assert d.text.encode().strip()
        json.dumps(d.metadata, allow_nan=False)


@pytest.mark.parametrize("depth", [100, 400, 700, 950, 3000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a": ', "}")])
def test_however_deep_a_record_is_it_is_read_or_named(
    tmp_path: Path, depth: int, opened: str, closed: str
) -> None:
    """How deep is too deep depends on Python's version."""
    nest = (
        f"{opened * depth}1{closed * depth}" if opened != "[" else opened * depth + closed * depth
    )
    files = write(tmp_path / "a.jsonl", f'{{"id": "x", "text": "t", "n": {nest}}}\n'.encode())
    tally = Tally()
    documents = list(read_documents(files, on_bad="skip", tally=tally))
    assert len(documents) + tally.bad["broken_json"] == 1
    assert all(json.dumps(document.metadata) for document in documents)
    if not documents:
        assert depth > 400
        with pytest.raises(BadInput, match=r"line 1: expected an? (JSON )?object of usual"):
            list(read_documents(files))


def test_parquet_problems_name_the_row(tmp_path: Path) -> None:
    ids = [f"d{i}" for i in range(400)]
    texts: list[str | None] = ["text"] * 400
    texts[310] = None
    files = parquet(tmp_path / "a.parquet", {"id": ids, "text": texts})
    with pytest.raises(BadInput, match=r"a\.parquet, row 311: field text: .*got null"):
        list(read_documents(files))
    files = parquet(tmp_path / "b.parquet", {"id": ids, "text": list(range(400))})
    with pytest.raises(BadInput, match="row 1: field text: expected text, got int"):
        list(read_documents(files))
    files = parquet(tmp_path / "c.parquet", {"id": ids, "body": ["t"] * 400})
    with pytest.raises(BadInput, match="row 1: field text: expected one, the record has 'id'"):
        list(read_documents(files))
    files = parquet(tmp_path / "d.parquet", {"id": ids, "text": [b"raw"] * 400})
    with pytest.raises(BadInput, match="row 1: field text: expected text, got bytes"):
        list(read_documents(files))


def test_parquet_with_broken_utf8_names_row_and_field(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"ab\xff", b"fine too"]).view(pa.string())
    files = parquet(tmp_path / "a.parquet", {"id": ["a", "b", "c"], "text": raw})
    with pytest.raises(BadInput, match="row 2: expected UTF-8; field text: byte 3 is not"):
        list(read_documents(files))
    tally = Tally()
    assert [d.id for d in read_documents(files, on_bad="skip", tally=tally)] == ["a", "c"]
    assert tally.bad == {"invalid_utf8": 1}


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize("cut", [1, 9, 1000])
@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstd)])
def test_a_cut_file_always_stops(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], cut: int, on_bad: Any
) -> None:
    noise = np.random.default_rng(0).integers(0, 1 << 62, 2000)
    data = pack(lines(*({"id": i, "text": str(n)} for i, n in enumerate(noise.tolist()))))
    files = write(tmp_path / name, data[:-cut])
    with pytest.raises(BadInput, match=rf"{name}.*: cannot read, expected a whole .* file"):
        list(read_documents(files, on_bad=on_bad))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_that_is_something_else_stops(tmp_path: Path, name: str) -> None:
    files = write(tmp_path / name, b"not what the name says" * 100)
    with pytest.raises(BadInput, match=f"{name}: cannot read"):
        list(read_documents(files, on_bad="skip"))


def test_a_cut_parquet_file_stops(tmp_path: Path) -> None:
    (file,) = parquet(tmp_path / "a.parquet", {"id": ["a"] * 100, "text": ["t"] * 100})
    write(Path(file), Path(file).read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"a\.parquet: cannot read"):
        list(read_documents([file]))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b""),
        ("a.jsonl.gz", b""),
        ("a.parquet", b""),
        ("a.jsonl", b" \n\n"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.jsonl.zst", zstd(b"\n")),
    ],
)
def test_a_file_without_a_record_is_bad(tmp_path: Path, name: str, data: bytes) -> None:
    files = write(tmp_path / name, data) + write(tmp_path / "b.jsonl", lines(*GOOD))
    why = "the file has none" if data else r"the file is empty \(0 bytes\)"
    with pytest.raises(BadInput, match=rf"{name}: expected at least one record, {why}$"):
        list(read_documents(files))
    tally = Tally()
    assert len(list(read_documents(files, on_bad="skip", tally=tally))) == 3
    assert tally.bad == {"empty_file": 1}


def test_columns_without_a_row_are_bad(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    pq.write_table(schema.empty_table(), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"a\.parquet: expected at least one record, the file has"):
        list(read_documents(str(tmp_path / "a.parquet")))
    with pa.ipc.new_stream(tmp_path / "a.arrow", schema):
        pass
    file = DataFile(str(tmp_path / "a.arrow"), "a.arrow", "arrow")
    with pytest.raises(BadInput, match=r"a\.arrow: expected at least one record, the file has"):
        list(read_documents_by_file([file], Fields()))


@pytest.mark.parametrize("batches", [1, 3])
def test_a_cut_arrow_stream_stops_wherever_it_is_cut(tmp_path: Path, batches: int) -> None:
    path = tmp_path / "a.arrow"
    table = pa.table({"id": [f"d{i}" for i in range(9)], "text": ["some text"] * 9})
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table, max_chunksize=9 // batches)
    data = path.read_bytes()
    file = DataFile(str(path), "a.arrow", "arrow")
    assert len(list(read_documents_by_file([file], Fields()))) == 9
    for size in (1, 9, *range(8, len(data), 8), len(data) - 1):  # messages are multiples of 8
        path.write_bytes(data[:size])
        with pytest.raises(BadInput, match=r"a\.arrow.*: cannot read, expected a whole"):
            list(read_documents_by_file([file], Fields()))


def test_arrow_problems_name_the_row(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"ab\xff", b"fine too"]).view(pa.string())
    table = pa.table({"id": ["a", "b", "c"], "text": raw})
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as stream:
        stream.write_table(table)
    file = DataFile(str(tmp_path / "a.arrow"), "a.arrow", "arrow")
    with pytest.raises(BadInput, match=r"a\.arrow, row 2: expected UTF-8; field text: byte 3 is"):
        list(read_documents_by_file([file], Fields()))
    skipped = read_documents_by_file([file], Fields(), Rules(on_bad="skip"))
    assert [d.id for _, d in skipped] == ["a", "c"]


def test_large_rows_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    batches = pq.ParquetFile.iter_batches

    def counted(file: Any, batch_size: int) -> Any:
        sizes.append(batch_size)
        return batches(file, batch_size=batch_size)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    texts = [f"{i} " + "x" * 4000 for i in range(200)]
    monkeypatch.setattr(records, "_ROWS_BYTES", 40_000)
    pq.write_table(
        pa.table({"id": list(range(200)), "text": texts}),
        tmp_path / "a.parquet",
        use_dictionary=False,
    )
    assert [d.text for d in read_documents(str(tmp_path / "a.parquet"))] == texts
    assert len(sizes) == 1
    assert 8 <= sizes[0] <= 10
