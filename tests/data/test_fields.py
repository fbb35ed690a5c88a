"""Fields: where they are found in a record, and how a wrong place is named."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

from corpus_files import lines, parquet, write

from synboot.core.errors import BadInput
from synboot.data.corpus import (
    Document,
    read_documents,
)


def test_fields_go_where_they_belong(tmp_path: Path) -> None:
    record = {
        "id": 7,
        "text": " Grüße\n",
        "topic": "news",
        "source": "wire",
        "license": "CC0-1.0",
        "title": "T",
        "scores": [1, None, float("nan")],
    }
    files = write(tmp_path / "a.jsonl", lines(record))
    assert list(read_documents(files, group_field="topic")) == [
        Document(
            id="7",
            text=" Grüße\n",
            group="news",
            source="wire",
            license="CC0-1.0",
            metadata={"title": "T", "scores": [1, None, None]},
        )
    ]


def test_dotted_fields_reach_into_objects_and_whole_names_come_first(tmp_path: Path) -> None:
    nested = {"doc": {"body": "inner", "key": 1, "lang": "en"}, "meta.label": "x", "source": 3}
    files = write(tmp_path / "a.jsonl", lines(nested))
    (document,) = read_documents(
        files, text_field="doc.body", id_field="doc.key", group_field="meta.label"
    )
    assert document == Document("1", "inner", "x", None, None, {"doc": {"lang": "en"}, "source": 3})


def test_elements_of_lists_are_fields(tmp_path: Path) -> None:
    turns = [{"text": "first", "by": "x"}, {"text": "second", "by": "y"}]
    record = {"id": ["k", 7], "turns": turns, "parts": ["one", "two"], "n": 1}

    def read(text: str, **more: Any) -> Document:
        files = write(tmp_path / "a.jsonl", lines(record))
        (document,) = read_documents(files, text_field=text, id_field=None, **more)
        return document

    assert read("turns.1.text").text == "second"
    assert read("turns.1.text").metadata["turns"] == [turns[0], {"by": "y"}]
    assert read("turns.*.text").text == "first\n\nsecond"
    assert read("turns.*.text").metadata["turns"] == [{"by": "x"}, {"by": "y"}]
    assert read("parts.*").text == "one\n\ntwo"
    assert read("parts.*").metadata == {k: v for k, v in record.items() if k != "parts"}
    document = read("parts.0", group_field="parts.1")
    assert (document.text, document.group, document.metadata["parts"]) == ("one", "two", [None] * 2)
    assert read("parts.0", group_field="id.1").group == "7"
    files = parquet(tmp_path / "b.parquet", {"turns": [turns], "id": ["x"]})
    assert [d.text for d in read_documents(files, text_field="turns.*.text")] == ["first\n\nsecond"]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("parts", r"field parts: expected text, got list; parts\.\* takes all of its elements"),
        ("turns", r"field turns: expected text, got list; turns\.\*\.NAME takes all"),
        ("empty", "field empty: expected text, got list$"),
        ("empty.*", r"field empty\.\*: expected text, it is blank"),
        ("turns.2.text", r"field turns\.2: expected one, the list has 2 elements"),
        ("turns.text", "field turns: expected an object with text, .*, got list"),
        ("turns.*.text", r"field turns\.1\.text: expected one, turns\.1 has 'said'"),
        ("turns.*", r"field turns\.0: expected text, got dict"),
        ("mixed.*", r"field mixed\.1: expected text, got null"),
        ("mixed.0.text", r"field mixed\.0: expected an object or a list, got str"),
        ("meta.none", r"field meta\.none: expected one, meta has 'text'"),
        ("nowhere.text", "field nowhere: expected one, the record has 'id', 'turns'"),
    ],
)
def test_a_wrong_place_is_named(tmp_path: Path, field: str, message: str) -> None:
    record = {
        "id": "x",
        "turns": [{"text": "t"}, {"said": "t"}],
        "parts": ["a", "b"],
        "empty": [],
        "mixed": ["a", None],
        "meta": {"text": 1},
    }
    files = write(tmp_path / "a.jsonl", lines(record))
    with pytest.raises(BadInput, match=rf"a\.jsonl, line 1: {message}"):
        list(read_documents(files, text_field=field))


def test_ids_and_groups_are_one_value() -> None:
    for options in ({"id_field": "tags.*"}, {"group_field": "tags.*.name"}):
        with pytest.raises(BadInput, match=r"_field: expected the name of one value, got tags\.\*"):
            list(read_documents("nowhere.jsonl", **options))
