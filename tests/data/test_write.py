"""Writers: what is written comes back equal, in groups of bounded size, whole or not at all."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.errors import BadInput
from synboot.data import write
from synboot.data.corpus import Document, Tally, read_documents
from synboot.data.records import DOCUMENTS_MARK
from synboot.data.write import SCHEMA, write_documents

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NAMES = st.none() | TEXT
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
DOCUMENTS = st.lists(
    st.builds(
        Document,
        id=TEXT,
        text=TEXT.filter(lambda text: not text.isspace()),
        group=NAMES,
        source=NAMES,
        license=NAMES,
        metadata=st.dictionaries(
            st.sampled_from(["id", "text", "group", "source", "metadata", "ü"]) | st.text(), JSON
        ),
    ),
    min_size=1,
    unique_by=lambda document: document.id,
)


def document(number: int, **more: Any) -> Document:
    values = {"group": None, "source": None, "license": None, "metadata": {}} | more
    return Document(id=f"d{number}", text=values.pop("text", f"text {number}"), **values)


@settings(max_examples=30, deadline=None)
@given(DOCUMENTS)
def test_documents_come_back_equal(
    tmp_path_factory: pytest.TempPathFactory, documents: list[Document]
) -> None:
    path = tmp_path_factory.mktemp("written") / "a.parquet"
    assert write_documents(path, documents) == len(documents)
    for options in ({}, {"group_field": "group"}, {"text_field": "body", "id_field": None}):
        assert list(read_documents(str(path), **options)) == documents


def test_another_group_may_stand_in_the_metadata(tmp_path: Path) -> None:
    metadata = {"topic": {"name": "x"}, "n": 1}
    write_documents(tmp_path / "a.parquet", [document(0, group="g", metadata=metadata)])
    (read,) = read_documents(str(tmp_path / "a.parquet"), group_field="topic.name")
    assert read == document(0, group="x", metadata={"topic": {}, "n": 1})


def test_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_GROUP_BYTES", 1000)
    monkeypatch.setattr(write, "_GROUP_ROWS", 30)
    documents = [document(i, text="t" * 90 if i < 40 else f"{i}") for i in range(200)]
    path = tmp_path / "deep" / "a.parquet"
    write_documents(path, iter(documents))
    file = pq.ParquetFile(path)
    rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sum(rows) == 200
    assert max(rows) == 30
    assert rows[0] <= 11
    assert list(read_documents(str(path))) == documents
    assert file.schema_arrow.names == ["id", "text", "group", "source", "license", "metadata"]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Iterator[Document]:
        yield document(0)
        raise RuntimeError("the source breaks")

    with pytest.raises(RuntimeError, match="the source breaks"):
        write_documents(tmp_path / "a.parquet", broken())
    assert not list(tmp_path.iterdir())
    assert write_documents(tmp_path / "a.parquet", [document(0)]) == 1
    with pytest.raises(RuntimeError, match="the source breaks"):
        write_documents(tmp_path / "a.parquet", broken())
    assert list(read_documents(str(tmp_path / "a.parquet"))) == [document(0)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_column_of_json_elsewhere_is_the_users_own(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "text": ["t"], "metadata": ['{"n": 1}'], "group": ["g"]})
    pq.write_table(table, tmp_path / "a.parquet")
    (read,) = read_documents(str(tmp_path / "a.parquet"))
    assert read == Document("a", "t", None, None, None, {"metadata": '{"n": 1}', "group": "g"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": "{"}, "field metadata: expected JSON"),
        ({"metadata": "[1]"}, "field metadata: expected a JSON object, got list"),
        ({"metadata": None}, "field metadata: expected text, got null"),
        ({"text": None}, "field text: expected text, got null"),
        ({"text": " "}, "field text: expected text, it is blank"),
        ({"metadata": "[" * 5000}, "field metadata: expected JSON"),
        ({"id": "d0"}, "field id: the id 'd0' is taken"),
        ({"id": None}, "field id: expected text or a whole number, got null"),
        ({"group": ""}, "field group: expected text or a whole number, got empty text"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    names = dict.fromkeys(("group", "source", "license"))
    rows = [
        {"id": f"d{i}", "text": "t", "metadata": "{}", **names} | (change if i == 1 else {})
        for i in range(3)
    ]
    schema = pa.schema([field.with_nullable(True) for field in SCHEMA], DOCUMENTS_MARK)
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=rf"a\.parquet, row 2: {message}"):
        list(read_documents(str(tmp_path / "a.parquet")))
    tally = Tally()
    read = read_documents(str(tmp_path / "a.parquet"), on_bad="skip", tally=tally)
    assert [d.id for d in read] == ["d0", "d2"]
    assert tally.bad.total() == 1
    json.dumps(tally.bad)
