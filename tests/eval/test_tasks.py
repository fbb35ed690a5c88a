from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synboot.core.errors import BadInput
from synboot.data.files import list_files
from synboot.eval.tasks import Form, Item, items_of, read_items, subset

CHOICES = {"id": "q1", "query": "What is wet?", "choices": ["fire", "water"], "gold": 1}
PAIR = {"id": "p1", "good": "Cats sleep.", "bad": "Cats sleeps.", "UID": "agreement"}
WORD = {"id": "w1", "text": "The cat sat on the mat"}


def write(folder: Path, *records: Any, name: str = "task.jsonl") -> Path:
    path = folder / name
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path, **form: Any) -> list[Item]:
    return read_items(list_files(str(path)), Form(**form))


def test_the_three_kinds_by_their_fields(tmp_path: Path) -> None:
    [item] = read(write(tmp_path, CHOICES))
    assert item.pairs == [
        ("Question: What is wet?\nAnswer:", " fire"),
        ("Question: What is wet?\nAnswer:", " water"),
    ]
    assert (item.gold, item.text, item.category) == (1, "What is wet? water", None)
    [item] = read(write(tmp_path, PAIR))
    assert item.pairs == [("", " Cats sleep."), ("", " Cats sleeps.")]
    assert (item.gold, item.text, item.category) == (0, "Cats sleep.", "agreement")
    [item] = read(write(tmp_path, WORD))
    assert item.pairs == [("The cat sat on the", " mat")]
    assert item.text == WORD["text"]
    other = {"id": "w2", "context": "The cat sat on the", "target": "mat", "text": "ignored"}
    [given_apart] = read(write(tmp_path, other))
    assert given_apart.pairs == item.pairs


def test_compressed_files_and_parquet_and_several_files(tmp_path: Path) -> None:
    first = write(tmp_path, CHOICES)
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(CHOICES | {"id": "q2"}).encode()))
    pq.write_table(pa.Table.from_pylist([CHOICES | {"id": "q3"}]), tmp_path / "c.parquet")
    files = list_files([str(first), str(packed), str(tmp_path / "c.parquet")])
    items = read_items(files, Form())
    assert [item.id for item in items] == ["q1", "q2", "q3"]
    assert len({item.pairs[0] for item in items}) == 1


def test_ids_are_made_where_there_are_none(tmp_path: Path) -> None:
    record = {k: v for k, v in CHOICES.items() if k != "id"}
    items = read(write(tmp_path, record, "", record))
    assert [item.id for item in items] == ["task.jsonl:1", "task.jsonl:3"]


def test_prompts_name_fields(tmp_path: Path) -> None:
    record = CHOICES | {"support": "Rain is water.", "query": "Goal: {support} {0}"}
    path = write(tmp_path, record)
    [item] = read(path, prompt="{support}\nQ: {query}", remove_prefix="Goal: ", delimiter="\n")
    assert item.pairs[0] == ("Rain is water.\nQ: {support} {0}", "\nfire")
    [item] = read(path, prompt="plain")
    assert item.context == "Goal: {support} {0}"
    [item] = read(path, prompt="")
    assert item.context == ""
    with pytest.raises(BadInput, match=r"line 1: field background: expected one"):
        read(path, prompt="{background} {query}")
    with pytest.raises(BadInput, match=r"line 1: field choices: expected text, got list"):
        read(path, prompt="{choices}")


@pytest.mark.parametrize(
    "prompt", ["qa", "{query", "{query!r}", "{query:>9}", "{query.__class__}", "{}", "{query[0]}"]
)
def test_what_is_no_template(prompt: str) -> None:
    with pytest.raises(BadInput, match="field prompt: "):
        Form(prompt=prompt)


def changed(**fields: Any) -> dict[str, Any]:
    values = CHOICES | fields
    return {name: value for name, value in values.items() if value is not ...}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"id": "q2", "que', "expected one JSON object on the line"),
        ("[1, 2]", "expected an object, got list"),
        (changed(gold=...), "field gold: expected one"),
        (changed(gold=2), "field gold: expected 0 to 1, there are 2 choices, got 2"),
        (changed(gold=-1), "field gold: expected 0 to 1, there are 2 choices, got -1"),
        (
            changed(gold=True),
            "field gold: expected the place of the right choice, from 0, got bool",
        ),
        (changed(gold="B"), "field gold: expected the place of the right choice, from 0, got str"),
        (changed(choices=["one"]), "field choices: expected 2 at least, got 1"),
        (changed(choices=[]), "field choices: expected 2 at least, got 0"),
        (changed(choices="ab"), "field choices: expected a list of texts, got str"),
        (changed(choices=["a", 3]), "field choices.1: expected text, got int"),
        (changed(choices=["a", " "]), "field choices.1: expected text, it is blank"),
        (changed(query=None), "field query: expected text, got null"),
        (changed(query="\\ud800"), "half of a surrogate pair"),
        (changed(id="q1"), "field id: the id 'q1' is taken"),
        (changed(id=2.5), "field id: expected text or a whole number, got float"),
        (PAIR, "field query: expected one"),
    ],
)
def test_bad_choices_name_file_line_and_field(tmp_path: Path, record: Any, message: str) -> None:
    if isinstance(record, dict) and record.get("query") == "\\ud800":
        record = json.dumps(record).replace("\\\\ud800", "\\ud800")
    path = write(tmp_path, CHOICES, record)
    with pytest.raises(BadInput) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}, line 2: ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"good": "a"}, "field bad: expected one"),
        ({"good": "", "bad": "b"}, "field good: expected text, it is blank"),
        ({"text": "alone"}, "field text: expected words before and after its last space"),
        ({"text": "ends with a space "}, "field text: expected words before and after"),
        ({"context": "a b"}, "field target: expected one"),
        ({"context": "a b", "target": " "}, "field target: expected text, it is blank"),
        ({"body": 1}, "expected the fields of a task"),
    ],
)
def test_bad_pairs_and_last_words(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(BadInput, match=r"task\.jsonl, line 1: ") as raised:
        read(write(tmp_path, record))
    assert message in str(raised.value)


def test_a_kind_that_was_asked_for_is_held_to(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"line 1: field good: expected one"):
        read(write(tmp_path, CHOICES), kind="minimal_pairs")
    with pytest.raises(BadInput, match="field kind: expected one of choices"):
        Form(kind="riddles")  # type: ignore[arg-type]


def test_a_category_field(tmp_path: Path) -> None:
    path = write(tmp_path, CHOICES | {"meta": {"topic": "nature"}, "category": "x"})
    assert read(path)[0].category == "x"
    assert read(path, category_field="meta.topic")[0].category == "nature"
    with pytest.raises(BadInput, match="field subject: expected one"):
        read(path, category_field="subject")


def test_empty_files(tmp_path: Path) -> None:
    (tmp_path / "task.jsonl").touch()
    with pytest.raises(BadInput, match="the file is empty"):
        read(tmp_path / "task.jsonl")


@given(num_items=st.integers(0, 30), limit=st.integers(1, 40), seed=st.integers(0, 5))
def test_subsets_are_keyed_by_id_and_nested(num_items: int, limit: int, seed: int) -> None:
    items = [Item(f"i{n}", None, "", " ", ("a",), 0, "a") for n in range(num_items)]
    chosen = subset(items, limit, seed, "x")
    assert len(chosen) == min(limit, num_items)
    assert [items.index(item) for item in chosen] == sorted(items.index(i) for i in chosen)
    larger = subset(items, limit + 3, seed, "x")
    assert {item.id for item in chosen} <= {item.id for item in larger}
    shuffled = subset(items[::-1], limit, seed, "x")
    assert {item.id for item in shuffled} == {item.id for item in chosen}


def test_the_text_of_an_item_has_all_that_its_prompt_shows() -> None:
    record = {"id": "a", "support": "Rain is water.", "query": "What is rain?",
              "choices": ["water", "wine"], "gold": 0}  # fmt: skip
    for prompt, text in (
        (None, "What is rain? water"),
        ("{support}\nQuestion: {query}\nAnswer:", "Rain is water. What is rain? water"),
        ("{support} {support}", "Rain is water. What is rain? water"),
        ("{query} ({support})", "What is rain? Rain is water. water"),
    ):
        (item,) = items_of([("x", "x", lambda: record)], Form(prompt=prompt))
        assert item.text == text
