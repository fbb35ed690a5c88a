from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from synboot.core.events import ignore_progress
from synboot.pipeline.stage import Artifact, Context, Stage

sys.path.append(str(Path(__file__).parent))

from toy_stages import Bench, Numbers, Total, pipeline


def test_an_artifact_lies_below_its_stage_and_id(tmp_path: Path) -> None:
    numbers, total = pipeline(Bench(tmp_path))
    assert numbers.directory(tmp_path) == tmp_path / "numbers" / numbers.id
    assert total.directory(tmp_path) == tmp_path / "total" / total.id
    assert len(numbers.id) == 24
    assert set(numbers.id) <= set("0123456789abcdef")


def test_a_stage_keeps_its_own_copy_of_what_it_was_given(tmp_path: Path) -> None:
    config = {"parts": 1, "per_part": 1, "need": None, "philox": False}
    numerics = {"threads": 1}
    stage = Numbers(config, {}, seed=0, numerics=numerics, bench=Bench(tmp_path))
    config["parts"] = numerics["threads"] = 7
    assert (stage.config["parts"], stage.numerics["threads"]) == (1, 1)


def test_the_label_is_the_name_unless_it_is_given(tmp_path: Path) -> None:
    assert pipeline(Bench(tmp_path))[0].label == "numbers"
    assert pipeline(Bench(tmp_path), label="first numbers")[0].label == "first numbers"


def test_workers_get_the_stage_without_the_graph_behind_it(tmp_path: Path) -> None:
    total = pipeline(Bench(tmp_path))[1]
    sent = pickle.loads(pickle.dumps(total))  # noqa: S301
    assert isinstance(sent, Total)
    assert (sent.id, sent.config, sent.seed) == (total.id, total.config, total.seed)
    assert sent.inputs == {}
    assert set(total.inputs) == {"numbers"}


def test_a_stage_without_parts_has_none(tmp_path: Path) -> None:
    total = pipeline(Bench(tmp_path))[1]
    context = Context(tmp_path, {}, ignore_progress, lambda: False, lambda event, **fields: None)
    assert total.num_parts(context) == 0
    assert total.need(context, []) is None
    with pytest.raises(AssertionError, match="total has no parts"):
        total.run_part(context, 0, tmp_path)
    assert context.prepared == tmp_path / "scratch" / "prepared"


def test_a_stage_must_say_how_it_finishes() -> None:
    class Unfinished(Stage):
        name = "unfinished"
        version = 1

    with pytest.raises(TypeError, match="finish"):
        Unfinished({}, {}, seed=0)  # type: ignore[abstract]


def test_an_artifact_knows_its_files_and_counts(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, {"id": "0123", "counts": {"documents": 3}, "files": {}})
    assert artifact.id == "0123"
    assert artifact.file("train.arrow") == tmp_path / "train.arrow"
    artifact.counts["documents"] = 4
    assert artifact.counts == {"documents": 3}
