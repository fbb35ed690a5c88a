"""Where a recipe's corpus may come from, and what of it is in the corpus's id (law 1)."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from synboot.core.errors import BadInput
from synboot.experiment.plan import corpus_file, make_plan
from synboot.experiment.recipe import Recipe, load_recipe


def load(path: Path, *settings: str) -> Recipe:
    return load_recipe(path, settings)


def test_one_path_or_several(small_recipe: Path) -> None:
    assert load(small_recipe, "corpus.path=[a.jsonl, b/*.txt]").corpus.path == (
        "a.jsonl",
        "b/*.txt",
    )
    assert load(small_recipe, "corpus.path=data/**/*.jsonl").corpus.path == "data/**/*.jsonl"
    assert load(small_recipe, "corpus.path=-").corpus.path == "-"
    dumped = load(small_recipe, "corpus.path=[a, b]").dump()
    assert json.loads(json.dumps(dumped))["corpus"]["path"] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("[]", "corpus.path: expected a path or a list of paths"),
        ("[a, 3]", "corpus.path: expected a path or a list of paths"),
        ("{a: b}", "corpus.path: expected a path or a list of paths"),
        ("''", "corpus.path: expected a path or a list of paths"),
        ("[a, '-']", r"corpus.path: expected - \(standard input\) alone"),
        ("null", "expected either path"),
    ],
)
def test_what_is_no_path(small_recipe: Path, path: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load(small_recipe, f"corpus.path={path}")


def test_the_corpus_id_knows_younger_fields_only_where_they_are_set(
    small_recipe: Path, tmp_path: Path
) -> None:
    def corpus_config(*settings: str) -> dict[str, Any]:
        config = dict(make_plan(load(small_recipe, *settings), tmp_path).stages[0].config)
        assert len(config.pop("content")) == 64
        return config

    # Word for word what it was before the younger fields: the ids of runs that exist must stay.
    first = {
        "text_field": "text",
        "id_field": "id",
        "group_field": "topic",
        "license": None,
        "on_bad": "stop",
        "valid_fraction": 0.1,
        "test_fraction": 0.1,
        "max_heldout_overlap": 0.2,
    }
    assert corpus_config() == first
    assert (
        corpus_config("corpus.long_documents=stop", "corpus.max_document_bytes=268435456") == first
    )
    assert corpus_config("corpus.long_documents=split") == first | {"long_documents": "split"}
    limited = corpus_config("corpus.max_document_bytes=5000")
    assert limited == first | {"max_document_bytes": 5000}


def test_paths_are_no_part_of_the_id(
    small_recipe: Path, small_corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / small_corpus.name
    other.parent.mkdir()
    other.write_bytes(small_corpus.read_bytes())
    ids = {
        make_plan(load(small_recipe, *settings), tmp_path).stages[0].id
        for settings in ([], [f"corpus.path={other}"], [f"corpus.path=['{other}']"])
    }
    assert len(ids) == 1


def test_standard_input_is_written_below_runs(
    small_recipe: Path, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load(small_recipe, "corpus.path=-")
    data = small_corpus.read_bytes()
    paths = []
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        paths.append(corpus_file(recipe, tmp_path / "runs"))
    assert paths[0] == paths[1]
    assert Path(str(paths[0])).parent == tmp_path / "runs" / "inputs"
    assert Path(str(paths[0])).read_bytes() == data


def test_the_program_reads_standard_input(
    small_recipe: Path, small_corpus: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable, "-m", "synboot.cli", "run", str(small_recipe), "--runs", str(tmp_path),
        "--dry-run", "--json", "--set", "corpus.path=-",
    ]  # fmt: skip
    data = small_corpus.read_bytes()
    outcome = subprocess.run(command, input=data, capture_output=True, timeout=120, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert {stage["status"] for stage in json.loads(outcome.stdout)["stages"]} == {"missing"}
    assert [path.read_bytes() for path in (tmp_path / "inputs").iterdir()] == [data]


def test_empty_standard_input_is_bad_input(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(BadInput, match=r"standard input: .*it is empty"):
        make_plan(load(small_recipe, "corpus.path=-"), tmp_path)
