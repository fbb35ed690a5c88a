"""A built split, read one by one, by range and in another order."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synboot.data.corpus import Document
from synboot.data.documents import Documents
from synboot.data.splits import build_corpus


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """An Arrow file of many batches, and the records that went in."""
    folder = tmp_path_factory.mktemp("built")
    records = [
        {"id": f"d{i}", "text": f"text {i} ü" * (1 + i % 7), "label": f"g{i % 11}", "n": i}
        for i in range(500)
    ]
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    (folder / "in" / "train.jsonl").write_bytes(lines(*records))
    (folder / "in" / "valid.jsonl").write_bytes(
        lines({"id": "v", "text": "v", "label": None, "n": 0})
    )
    (folder / "in" / "test.jsonl").write_bytes(
        lines({"id": "t", "text": "t", "label": None, "n": 0})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synboot.data.write._BATCH_BYTES", 1000)
        build_corpus(
            str(folder / "in"),
            folder / "out",
            seed=0,
            valid_fraction=0,
            test_fraction=0,
            group_field="label",
        )
    return folder / "out" / "train.arrow", records


def test_documents_come_back_by_index_and_by_range(
    built: tuple[Path, list[dict[str, Any]]],
) -> None:
    path, records = built
    assert pa.ipc.open_file(str(path)).num_record_batches > 20
    documents = Documents(path)
    assert len(documents) == 500
    for i in (0, 17, 499, -1):
        record = records[i]
        expected = Document(
            record["id"], record["text"], record["label"], None, None, {"n": record["n"]}
        )
        assert documents[i] == expected
    assert documents.texts(0, 500) == [r["text"] for r in records]
    assert documents.ids(37, 212) == [r["id"] for r in records[37:212]]
    assert documents.groups(490, 9999) == [r["label"] for r in records[490:]]
    assert documents.texts(5, 5) == []
    sizes = documents.sizes(3, 480)
    assert sizes.dtype == np.int64
    assert sizes.tolist() == [len(r["text"].encode()) for r in records[3:480]]
    places = np.array([499, 3, 3, 250])
    assert documents.texts_of(places) == [records[i]["text"] for i in places]
    with pytest.raises(IndexError):
        documents[500]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_pass_over_a_large_file_leaves_little_of_it_resident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mapped() -> int:
        """Resident bytes of mapped files."""
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(re.findall(r"RssFile:\s+(\d+) kB", status)[0])

    monkeypatch.setattr("synboot.data.documents._RESIDENT_BYTES", 4 << 20)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    large = ({"id": f"d{i}", "text": f"{i} " * 500} for i in range(12_000))
    (tmp_path / "in" / "train.jsonl").write_bytes(lines(*large))
    for name in ("valid", "test"):
        (tmp_path / "in" / f"{name}.jsonl").write_bytes(lines({"id": name, "text": name}))
    build_corpus(str(tmp_path / "in"), tmp_path / "out", seed=0, valid_fraction=0, test_fraction=0)
    path = tmp_path / "out" / "train.arrow"
    assert path.stat().st_size > 30e6
    documents = Documents(path)
    before, highest = mapped(), 0
    for start in range(0, len(documents), 500):
        assert documents.texts(start, start + 1) == [f"{start} " * 500]
        documents.texts(start, start + 500)
        highest = max(highest, mapped() - before)
    assert highest < 15e6
    for start in range(0, len(documents), 97):  # the views of all batches are there by now
        assert documents[start].text == f"{start} " * 500
        highest = max(highest, mapped() - before)
    random = np.random.default_rng(0)
    for _ in range(20):
        documents.texts_of(random.integers(0, len(documents), 500))
        highest = max(highest, mapped() - before)
    assert highest < 15e6


def test_documents_in_another_order(built: tuple[Path, list[dict[str, Any]]]) -> None:
    path, records = built
    order = np.random.default_rng(1).permutation(500)[:123]
    documents = Documents(path, order)
    expected = [records[i]["id"] for i in order]
    assert len(documents) == 123
    assert documents.ids(0, 123) == expected
    assert documents.ids(40, 60) == expected[40:60]
    assert documents.texts_of(np.array([5, 2])) == [records[order[i]]["text"] for i in (5, 2)]
    assert [documents[i].id for i in range(123)] == expected
    assert [document.id for document in documents] == expected
    assert len(Documents(path, np.empty(0, np.int64))) == 0
    for wrong in ([500], [-1]):
        with pytest.raises(IndexError, match="outside of the 500 rows"):
            Documents(path, np.array(wrong))
