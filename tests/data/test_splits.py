"""From files to splits: names, fractions, duplicates, near documents (law 13), identity (law 1)."""

import gzip
import json
import math
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synboot.core.errors import BadInput
from synboot.data.corpus import Document
from synboot.data.documents import Documents
from synboot.data.ngrams import reference_windows
from synboot.data.splits import build_corpus, split_of

SPLITS = ("train", "valid", "test")


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def record(number: int, **more: Any) -> dict[str, Any]:
    """A document that shares no window with any other."""
    return {"id": f"d{number}", "text": f"text number {number}"} | more


def write(folder: Path, **files: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_bytes(lines(*records))
    return folder


def build(source: Path, **options: Any) -> tuple[dict[str, Any], dict[str, list[Document]]]:
    out = source.parent / f"{source.name}-built"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    options = {"seed": 0, "valid_fraction": 0.1, "test_fraction": 0.1} | options
    counts = build_corpus(str(source), out, **options)
    return counts, {split: list(Documents(out / f"{split}.arrow")) for split in SPLITS}


def ids(documents: list[Document]) -> list[str]:
    return [document.id for document in documents]


def test_split_of_depends_on_its_arguments_alone() -> None:
    keys = [f"k{i}" for i in range(20_000)]
    drawn = [split_of(3, key, 0.05, 0.1) for key in keys]
    counts = Counter(drawn)
    # Six standard deviations: fails by chance about once in 10^9 keys' worth of other functions.
    assert abs(counts["test"] - 2000) < 6 * math.sqrt(20_000 * 0.1 * 0.9)
    assert abs(counts["valid"] - 1000) < 6 * math.sqrt(20_000 * 0.05 * 0.95)
    assert [split_of(3, key, 0.05, 0.1) for key in reversed(keys)] == drawn[::-1]
    assert [split_of(4, key, 0.05, 0.1) for key in keys] != drawn
    in_test = [split == "test" for split in drawn]
    assert [split_of(3, key, 0.5, 0.1) == "test" for key in keys] == in_test
    assert {split_of(3, key, 0.0, 0.0) for key in keys} == {"train"}


def test_unnamed_files_are_split_by_whole_groups(tmp_path: Path) -> None:
    records = [record(i, topic=f"g{i % 300}") for i in range(1500)]
    source = write(tmp_path / "in", a=records[:700], b=records[700:])
    counts, splits = build(source, group_field="topic")
    groups = {split: {d.group for d in splits[split]} for split in SPLITS}
    assert sum(map(len, groups.values())) == 300
    assert set.union(*groups.values()) == {f"g{i}" for i in range(300)}
    # 30 groups expected in each of valid and test; six standard deviations are 31.
    assert all(5 <= len(groups[split]) <= 61 for split in ("valid", "test"))
    assert counts["documents"] == {s: 5 * len(groups[s]) for s in SPLITS}
    assert counts["groups_across_splits"] == 0
    order = [r["id"] for r in records]
    assert all(ids(splits[s]) == sorted(ids(splits[s]), key=order.index) for s in SPLITS)


def test_a_split_without_a_file_is_drawn_from_train(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in",
        train=[record(i) for i in range(400)],
        test=[record(i) for i in range(400, 410)],
    )
    _, splits = build(source)
    assert ids(splits["test"]) == [f"d{i}" for i in range(400, 410)]
    drawn = {f"d{i}" for i in range(400) if split_of(0, f"d{i}", 0.1, 0.0) == "valid"}
    assert set(ids(splits["valid"])) == drawn
    assert set(ids(splits["train"])) == {f"d{i}" for i in range(400)} - drawn


def test_the_earlier_copy_stays_and_test_goes_before_valid_before_train(tmp_path: Path) -> None:
    train = [
        record(0), record(1, text="only train"), record(2, text="only train"),
        record(3, text="in valid"), record(4, text="everywhere"), record(5, text="in test"),
    ]  # fmt: skip
    valid = [record(6, text="everywhere"), record(7, text="in valid"), record(8, text="in valid")]
    test = [record(9, text="everywhere"), record(10, text="in test"), record(11, text="in test")]
    source = write(tmp_path / "in", train=train, valid=valid, test=test)
    counts, splits = build(source, max_heldout_overlap=1.0)
    assert {s: ids(splits[s]) for s in SPLITS} == {
        "train": ["d0", "d1"],
        "valid": ["d7"],
        "test": ["d9", "d10"],
    }
    assert counts["exact_duplicates"] == {"train": 4, "valid": 2, "test": 1}
    assert counts["documents"] == {"train": 2, "valid": 1, "test": 2}
    assert counts["near_heldout"] == 0


WORDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=9).map(" ".join)
CORPORA = st.lists(
    st.tuples(st.sampled_from(SPLITS), WORDS, st.sampled_from([None, "g", "h"])),
    min_size=3,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(
    CORPORA, st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.integers(1, 4), st.sampled_from([1, 1 << 20])
)
def test_a_corpus_is_what_python_sets_say(
    tmp_path_factory: pytest.TempPathFactory,
    corpus: list[tuple[str, str, str | None]],
    max_overlap: float,
    n: int,
    merge_windows: int,
) -> None:
    """Duplicates, decontamination and counts against a slow reference (law 10)."""
    files: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for i, (split, text, group) in enumerate(corpus):
        files[split].append({"id": i, "text": text, "group": group})
    seen: set[str] = set()
    known: set[tuple[str, ...]] = set()
    expected: dict[str, list[str]] = {}
    duplicates, near = dict.fromkeys(SPLITS, 0), 0
    for split in ("test", "valid", "train"):
        expected[split] = []
        for entry in files[split]:
            windows = reference_windows(entry["text"], n)
            if entry["text"] in seen:
                duplicates[split] += 1
            elif split == "train" and len(windows & known) / len(windows) > max_overlap:
                near += 1
            else:
                expected[split].append(str(entry["id"]))
            seen.add(entry["text"])
            known |= windows if split != "train" else set()
    sides: dict[str | None, set[bool]] = {}
    for split, _, group in corpus:
        sides.setdefault(group, set()).add(split == "train")

    folder = tmp_path_factory.mktemp("reference")
    source = write(folder / "in", **files)
    options = {"group_field": "group", "max_heldout_overlap": max_overlap, "window_words": n}
    if not all(expected.values()):
        with pytest.raises(BadInput, match=r"the (split \w+|file) is empty"):
            build(source, **options)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synboot.data.ngrams._MERGE_WINDOWS", merge_windows)
        counts, splits = build(source, **options)
    assert {split: ids(splits[split]) for split in SPLITS} == expected
    assert counts["exact_duplicates"] == duplicates
    assert counts["near_heldout"] == near
    across = sum(len(where) == 2 for group, where in sides.items() if group is not None)
    assert counts["groups_across_splits"] == across


def test_near_documents_are_dropped_and_sampled(tmp_path: Path) -> None:
    draws = np.random.default_rng(0).integers(0, 10_000, (60, 100))
    texts = [" ".join(f"w{i}" for i in row) for row in draws]
    shared = texts[0].split()
    # Of the 88 windows of 13 words, k words taken over from a held-out text bring k - 12.
    train = [record(i, text=" ".join(shared[:k] + texts[i].split()[k:])) for i, k in
             enumerate([29, 30, 31, 100], start=1)]  # fmt: skip
    train[3]["text"] += " ü" * 300
    train += [record(i, text=texts[i]) for i in range(5, 30)]
    train += [record(i, text=f"{texts[30]} again {i}") for i in range(30, 60)]
    source = write(
        tmp_path / "in", train=train, valid=[record(60, text=texts[0])],
        test=[record(61, text=texts[30])],
    )  # fmt: skip
    counts, splits = build(source)
    # 29 words: 17 / 88 = 0.193 stays; 30: 0.205 goes; with its tail the fourth has few new windows.
    assert ids(splits["train"]) == ["d1", *(f"d{i}" for i in range(5, 30))]
    assert counts["near_heldout"] == 3 + 30
    sample = (tmp_path / "in-built" / "decontaminated.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in sample.splitlines()]
    assert [row["id"] for row in rows] == ["d2", "d3", "d4", *(f"d{i}" for i in range(30, 47))]
    held_out = reference_windows(texts[0]) | reference_windows(texts[30])
    by_id = {entry["id"]: entry["text"] for entry in train}
    for row in rows:
        windows = reference_windows(by_id[row["id"]])
        assert row["rate"] == len(windows & held_out) / len(windows) > 0.2
        assert row["text"] == by_id[row["id"]][:200]


def test_groups_in_train_and_held_out_files_are_counted(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in",
        train=[record(i, g=g) for i, g in enumerate(["a", "a", "b", "c", None])],
        valid=[record(10, g="a"), record(11, g=None)],
        test=[record(12, g="a"), record(13, g="c"), record(14, g="z")],
    )
    counts, _ = build(source, group_field="g")
    assert counts["groups_across_splits"] == 2


def test_counts_metadata_and_licenses(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in",
        train=[
            record(0, text="größer", license="MIT", title="ü\ud800"), record(1),
            record(2, text=""),
        ],
        valid=[record(3), record(1, text="taken id")],
        test=[record(4, source="wire", text="test")],
    )  # fmt: skip
    counts, splits = build(source, license="CC-BY-4.0", on_bad="skip")
    assert counts["bad"] == {"duplicate_id": 1, "empty_text": 1}
    assert counts["documents"] == {"train": 2, "valid": 1, "test": 1}
    assert counts["bytes"] == {"train": 8 + 13, "valid": 13, "test": 4}
    assert [d.license for d in splits["train"]] == ["MIT", "CC-BY-4.0"]
    assert splits["train"][0].metadata == {"title": "ü\ud800"}
    assert splits["test"][0].source == "wire"
    with pytest.raises(BadInput, match=r"train\.jsonl, line 3: field text"):
        build(source)


def test_files_are_uncompressed_in_bounded_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synboot.data.write._BATCH_BYTES", 10_000)
    monkeypatch.setattr("synboot.data.write._BATCH_ROWS", 30)
    big = [record(i, text=f"{i} " * 800) for i in range(20)]
    small = [record(i) for i in range(20, 200)]
    huge = [record(200, text="huge " * 9000)]
    source = write(
        tmp_path / "in", train=big + small + huge, valid=[record(300)], test=[record(999)]
    )
    build(source)
    path = tmp_path / "in-built" / "train.arrow"
    reader = pa.ipc.open_file(str(path))
    sizes = [
        (batch.num_rows, sum(len(t.as_py()) for t in batch["text"]))
        for batch in (reader.get_batch(i) for i in range(reader.num_record_batches))
    ]
    assert sum(rows for rows, _ in sizes) == 201
    assert max(rows for rows, _ in sizes) == 30
    assert all(num_bytes <= 10_000 or rows == 1 for rows, num_bytes in sizes)
    assert all(r["text"].encode() in path.read_bytes() for r in (big[3], small[50]))
    names = ["id", "text", "group", "source", "license", "metadata"]
    assert reader.schema.names == names
    assert all(field.type == pa.string() for field in reader.schema)


def test_every_format_gives_the_same_corpus(tmp_path: Path) -> None:
    records = [record(i, topic=f"g{i % 50}") for i in range(300)]
    built = []
    for name in ("plain", "packed", "columns"):
        folder = tmp_path / name / "in"
        folder.mkdir(parents=True)
        if name == "plain":
            (folder / "a.jsonl").write_bytes(lines(*records))
        elif name == "packed":
            (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines(*records)))
        else:
            pq.write_table(pa.Table.from_pylist(records), folder / "a.parquet", row_group_size=70)
        build(folder, group_field="topic")
        built.append([(folder.parent / "in-built" / f"{s}.arrow").read_bytes() for s in SPLITS])
    assert built[0] == built[1] == built[2]


def test_a_corpus_is_the_same_every_time_and_follows_its_seed(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=[{"text": f"text number {i}"} for i in range(300)])

    def files(seed: int) -> dict[str, bytes]:
        build(source, seed=seed)
        return {p.name: p.read_bytes() for p in sorted((tmp_path / "in-built").iterdir())}

    first = files(1)
    assert list(first) == ["decontaminated.jsonl", "test.arrow", "train.arrow", "valid.arrow"]
    assert files(1) == first
    assert files(2) != first


def test_made_ids_stay_unique_over_directories(tmp_path: Path) -> None:
    for number, split in enumerate(SPLITS):
        write(tmp_path / "in" / split, p=[{"text": f"text {number}"}])
    _, splits = build(tmp_path / "in")
    assert [ids(splits[s]) for s in SPLITS] == [["p.jsonl:1"], ["p.jsonl#2:1"], ["p.jsonl#3:1"]]


def test_empty_splits_say_which_and_how_to_mend_it(tmp_path: Path) -> None:
    source = write(tmp_path / "few", a=[record(i) for i in range(3)])
    with pytest.raises(BadInput, match=r"split valid is empty .*raise valid_fraction \(now 0\.0\)"):
        build(source, valid_fraction=0.0, test_fraction=0.9)
    source = write(tmp_path / "copy", train=[record(0)], valid=[record(1)], test=[record(2)])
    (source / "valid.jsonl").write_bytes(lines(record(1, text="text number 2")))
    with pytest.raises(
        BadInput, match=r"split valid is empty \(1 exact .*put other documents into .*valid\.jsonl"
    ):
        build(source)
    source = write(
        tmp_path / "near", train=[record(0, text="Same words!")], valid=[record(1)],
        test=[record(2, text="same words")],
    )  # fmt: skip
    with pytest.raises(BadInput, match=r"split train is empty .*1 near .*max_heldout_overlap"):
        build(source)
    source = write(tmp_path / "headless", valid=[record(1)], test=[record(2)])
    with pytest.raises(BadInput, match="holds no file of the split train"):
        build(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid_fraction": -0.1}, "field valid_fraction: .*got -0.1"),
        ({"test_fraction": 1.0}, "field test_fraction: .*got 1.0"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "expected a sum below 1"),
        ({"max_heldout_overlap": float("nan")}, "field max_heldout_overlap: .*got nan"),
        ({"window_words": 0}, "field window_words: expected at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_bad_input(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    source = write(tmp_path / "in", a=[record(i) for i in range(3)])
    with pytest.raises(BadInput, match=message):
        build(source, **options)


@pytest.mark.parametrize("change", ["shorter", "longer", "other"])
def test_files_that_change_between_the_readings_are_noticed(tmp_path: Path, change: str) -> None:
    records = [record(i) for i in range(60)]
    source = write(tmp_path / "in", test=records, valid=[record(90)], train=[record(91)])
    changed = {
        "shorter": records[:-1],
        "longer": [*records, record(70)],
        "other": [*records[:-1], record(70)],
    }[change]

    def progress(done: float, total: float, note: str) -> None:
        if done * 2 == total:
            write(source, test=changed)

    with pytest.raises(BadInput, match="the files changed while they were read"):
        build(source, progress=progress)


def test_progress_covers_both_readings(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=[record(i) for i in range(1000)])
    shares: list[float] = []
    build(source, progress=lambda done, total, note: shares.append(done / total))
    assert shares == sorted(shares)
    assert 0.5 in shares
    assert shares[-1] == 1.0


@pytest.mark.data
@pytest.mark.skipif("SYNBOOT_DATA" not in os.environ, reason="SYNBOOT_DATA is unset")
def test_real_news_text(tmp_path: Path) -> None:
    path = Path(os.environ["SYNBOOT_DATA"]) / "wikinews_small"
    (tmp_path / "out").mkdir()
    counts = build_corpus(
        str(path), tmp_path / "out", seed=0, valid_fraction=0.05, test_fraction=0.05
    )
    assert counts["documents"] == {"train": 3438, "valid": 110, "test": 197}
    assert counts["near_heldout"] == 6
    assert not counts["bad"]
    for split in SPLITS:
        documents = Documents(tmp_path / "out" / f"{split}.arrow")
        texts = documents.texts(0, len(documents))
        assert sum(len(text.encode()) for text in texts) == counts["bytes"][split]
