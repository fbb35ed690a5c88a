"""Documents: their ids, their size, and what is counted of them."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

from corpus_files import GOOD, lines, parquet, write, zstd

from synboot.core.errors import BadInput
from synboot.data import corpus
from synboot.data.corpus import (
    Document,
    Tally,
    read_documents,
    read_documents_by_file,
)
from synboot.data.fields import Fields
from synboot.data.files import DataFile


def test_a_null_or_empty_group_is_none(tmp_path: Path) -> None:
    records = [GOOD[0] | {"g": None}, GOOD[1] | {"g": ""}, GOOD[2] | {"g": 0}]
    files = write(tmp_path / "a.jsonl", lines(*records))
    assert [d.group for d in read_documents(files, group_field="g")] == [None, None, "0"]


def test_a_bad_record_does_not_take_its_id(tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", lines({"id": "x", "text": ""}, {"id": "x", "text": "t"}))
    assert [d.text for d in read_documents(files, on_bad="skip")] == ["t"]


def test_ids_are_unique_across_files(tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", lines(*GOOD)) + write(tmp_path / "b.jsonl", lines(GOOD[2]))
    with pytest.raises(BadInput, match=r"b\.jsonl, line 1: field id: the id 'd2' is taken"):
        list(read_documents(files))


def test_a_missing_or_wrong_group_is_named(tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", lines(GOOD[0] | {"topic": "x"}, GOOD[1]))
    with pytest.raises(BadInput, match="line 2: field topic: expected one, the record has 'id'"):
        list(read_documents(files, group_field="topic"))
    files = write(tmp_path / "b.jsonl", lines(GOOD[0] | {"topic": ["x"]}))
    with pytest.raises(BadInput, match="field topic: expected text or a whole number, got list"):
        list(read_documents(files, group_field="topic"))


def test_missing_and_unknown_files_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.jsonl: expected a data file, .*found none"):
        list(read_documents([str(tmp_path / "none.jsonl")]))
    gone = DataFile(str(tmp_path / "none.jsonl"), "none.jsonl", "jsonl")
    with pytest.raises(BadInput, match=r"none\.jsonl: cannot read"):
        list(read_documents_by_file([gone], Fields()))
    with pytest.raises(BadInput, match=r"a\.csv: expected a data file: \.jsonl"):
        list(read_documents(write(tmp_path / "a.csv", b"id,text\n")))


def test_a_document_beyond_the_limit_is_bad(tmp_path: Path) -> None:
    records = [GOOD[0], {"id": "a", "text": "y" * 101}, {"id": "b", "text": "ü" * 51}]
    last = {"id": "last", "text": "ü" * 50, "more": "z" * 1000}
    files = write(tmp_path / "a.jsonl", lines(*records, last))
    message = r"a\.jsonl, line 2: field text: expected at most 100 bytes .*, got 101"
    with pytest.raises(BadInput, match=message):
        list(read_documents(files, max_document_bytes=100))
    tally = Tally()
    documents = read_documents(files, max_document_bytes=100, on_bad="skip", tally=tally)
    assert [d.id for d in documents] == ["d0", "last"]
    assert tally.bad == {"too_long": 2}
    assert (tally.split_documents, tally.pieces) == (0, 0)
    with pytest.raises(BadInput, match="field max_document_bytes: expected at least 16, got 15"):
        list(read_documents(files, max_document_bytes=15))


@pytest.mark.parametrize("rule", ["stop", "split"])
def test_a_line_or_text_beyond_reason_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Any
) -> None:
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_BYTES", 100)
    files = write(tmp_path / "a.jsonl", lines(GOOD[0], {"id": "x", "text": "x" * 950}, GOOD[1]))
    options: dict[str, Any] = {"max_document_bytes": 90, "long_documents": rule}
    with pytest.raises(BadInput, match=r"a\.jsonl, line 2: expected at most 200 bytes"):
        list(read_documents(files, **options))
    assert len(list(read_documents(files, on_bad="skip", **options))) == 2
    files = write(tmp_path / "a.txt.zst", zstd(b"word " * 41))
    with pytest.raises(BadInput, match=r"a\.txt\.zst: expected at most 200 bytes"):
        list(read_documents(files, **options))


def test_a_long_document_is_split_into_pieces_of_one_group(tmp_path: Path) -> None:
    text = "One two three.\n\nFour five six.\nSeven.\n\nEight nine ten eleven twelve"
    records = [
        GOOD[0],
        {"id": "long", "text": text, "g": None, "source": "s", "license": "l", "n": 1},
        {"id": "own", "text": text, "g": "mine"},
    ]
    files = write(tmp_path / "a.jsonl", lines(*[{"g": None} | record for record in records]))
    tally = Tally()
    documents = list(
        read_documents(
            files, group_field="g", max_document_bytes=25, long_documents="split", tally=tally
        )
    )
    pieces = [
        "One two three.\n\n",
        "Four five six.\nSeven.\n\n",
        "Eight nine ten eleven ",
        "twelve",
    ]
    assert documents[1:5] == [
        Document(f"long/{n}", piece, "long", "s", "l", {"n": 1})
        for n, piece in enumerate(pieces, 1)
    ]
    assert documents[0] == Document("d0", "text 0", None, None, None, {})
    assert {d.group for d in documents[5:]} == {"mine"}
    assert (tally.split_documents, tally.pieces) == (2, 8)
    assert not tally.bad
    folder = tmp_path / "texts"
    folder.mkdir()
    write(folder / "book.txt", text.encode())
    book = list(read_documents(str(folder), max_document_bytes=25, long_documents="split"))
    assert [d.id for d in book] == [f"book.txt/{n}" for n in (1, 2, 3, 4)]


def test_pieces_take_their_ids_and_that_of_the_whole(tmp_path: Path) -> None:
    long = {"id": "a", "text": "word " * 10}
    options: dict[str, Any] = {"max_document_bytes": 30, "long_documents": "split"}
    for other in ({"id": "a/2", "text": "t"}, {"id": "a", "text": "t"}, {"id": "a/1", "text": "t"}):
        for first, second in ((other, long), (long, other)):
            files = write(tmp_path / "a.jsonl", lines(first, second))
            with pytest.raises(BadInput, match=r"line 2: field id: the id 'a(/[12])?' is taken"):
                list(read_documents(files, **options))
            documents = list(read_documents(files, on_bad="skip", **options))
            assert len(documents) == (1 if first is other else 2)


def test_ids_are_made_where_records_have_none(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    body = b'{"text": "a"}\n\n{"text": "b"}\n'
    files = write(tmp_path / "x" / "p.jsonl", body) + write(tmp_path / "y" / "p.jsonl", body)
    made = ["p.jsonl:1", "p.jsonl:3", "p.jsonl#2:1", "p.jsonl#2:3"]
    assert [d.id for d in read_documents(files)] == made
    files = write(tmp_path / "q.jsonl", lines(*GOOD))
    documents = list(read_documents(files, id_field=None))
    assert [d.id for d in documents] == ["q.jsonl:1", "q.jsonl:2", "q.jsonl:3"]
    assert documents[0].metadata == {"id": "d0"}


def test_ids_that_come_and_go_are_an_error(tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", lines({"text": "t"}, GOOD[0]))
    with pytest.raises(BadInput, match="line 2: field id: expected none, as in the first record"):
        list(read_documents(files))


def test_an_id_field_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", lines(GOOD[0]))
    with pytest.raises(BadInput, match="line 1: field url: expected one, the record has 'id'"):
        list(read_documents(files, id_field="url"))


def test_progress_ends_at_the_size_of_the_files(tmp_path: Path) -> None:
    records = [{"id": i, "text": "t"} for i in range(1000)]
    files = write(tmp_path / "a.jsonl", lines(*records[:600]))
    files += parquet(tmp_path / "b.parquet", {"id": list(range(600, 1000)), "text": ["t"] * 400})
    calls: list[tuple[float, float, str]] = []
    list(read_documents(files, progress=lambda *call: calls.append(call)))
    total = sum(Path(file).stat().st_size for file in files)
    assert len(calls) == 4
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert {total for _, total, _ in calls} == {total}
    assert calls[-1] == (total, total, "1000 documents")
