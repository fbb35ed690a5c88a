"""A verb's output: made whole or not at all, resumed, stamped, never over what is not ours."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synboot.core.errors import BadInput, Incomplete
from synboot.core.storage import exclusive_lock, read_json, write_json
from synboot.pipeline.stage import Artifact, Context, Counts, Stage
from synboot.verbs.work import (
    STAMP_KEY,
    Outcome,
    complete,
    partial_folder,
    publish_directory,
    publish_parquet,
    read_stamp,
)


class Squares(Stage):
    """A table of squares, two rows a part; may stop at a part, once."""

    name = "squares"
    version = 1
    fails_at: int | None = None

    def num_parts(self, context: Context) -> int:
        return 3

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        if index == self.fails_at:
            self.fails_at = None
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        (directory / "n").write_text(str(index))
        return {}

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        numbers = [int((part / "n").read_text()) ** self.config["power"] for part in parts]
        pq.write_table(pa.table({"square": numbers}), context.directory / "squares.parquet")
        return {"rows": len(numbers)}


def make(output: Path, *, power: int = 2, fails_at: int | None = None, **options: Any) -> Outcome:
    stage = Squares({"power": power}, {}, seed=0)
    stage.fails_at = fails_at

    def publish(made: Mapping[str, Artifact], stamp: dict[str, Any]) -> None:
        publish_parquet(made[stage.id].file("squares.parquet"), output, stamp)

    settings = {"workers": 1, "overwrite": False, "quiet": True} | options
    return complete("square", output, [stage], publish, **settings)


def test_output_is_whole_stamped_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    outcome = make(tmp_path / "new" / "out.parquet")
    table = pq.read_table(outcome.path)
    assert table["square"].to_pylist() == [0, 1, 4]
    assert outcome.counts == {"rows": 3}
    stamp = json.loads(table.schema.metadata[STAMP_KEY])
    assert stamp["id"] == outcome.id
    assert stamp["verb"] == "square"
    assert stamp["stages"][0]["config"] == {"power": 2}
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out.parquet"]


def test_same_command_again_does_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    first = make(output)
    before = output.stat()
    assert make(output, fails_at=0) == first  # no part runs, or it would fail
    assert output.stat().st_mtime_ns == before.st_mtime_ns


def test_other_settings_need_overwrite(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    make(output)
    before = output.read_bytes()
    with pytest.raises(BadInput, match="other settings"):
        make(output, power=3)
    assert output.read_bytes() == before
    assert not partial_folder(output).exists()
    make(output, power=3, overwrite=True)
    assert pq.read_table(output)["square"].to_pylist() == [0, 1, 8]


def test_full_disk_leaves_no_output_and_the_next_start_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    with pytest.raises(OSError, match="No space left"):
        make(output, fails_at=2)
    assert not output.exists()
    parts = sorted(p.name for p in partial_folder(output).rglob("parts/*"))
    assert parts == ["000000", "000001"]
    make(output)
    assert pq.read_table(output)["square"].to_pylist() == [0, 1, 4]
    assert not partial_folder(output).exists()


def test_overwrite_keeps_the_old_output_until_the_new_one_stands(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    make(output)
    before = output.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        make(output, power=3, fails_at=1, overwrite=True)
    assert output.read_bytes() == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", [b"", b"PAR1 no", None])
def test_what_is_not_ours_is_never_replaced(
    tmp_path: Path, content: bytes | None, overwrite: bool
) -> None:
    output = tmp_path / "out.parquet"
    if content is None:
        pq.write_table(pa.table({"text": ["the user's"]}), output)
        content = output.read_bytes()
    output.write_bytes(content)
    with pytest.raises(BadInput, match="was not made by synboot"):
        make(output, overwrite=overwrite)
    assert output.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["out.parquet"]


def test_a_directory_of_the_users_is_never_replaced(tmp_path: Path) -> None:
    output = tmp_path / "model"
    output.mkdir()
    assert read_stamp(output) is None  # an empty one may be filled
    (output / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(BadInput, match="was not made by synboot"):
        read_stamp(output)
    (output / "manifest.json").unlink()
    publish_directory(tmp_path / "ours", {"made_by": "synboot", "id": "x"}, lambda path: None)
    assert read_stamp(tmp_path / "ours") == {"made_by": "synboot", "id": "x", "files": {}}


def test_a_folder_in_the_way_of_unfinished_work_stays(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    folder = partial_folder(output)
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="it was not made by synboot"):
        make(output)
    assert (folder / "thesis.tex").read_text() == "years of work"


def test_a_kill_before_the_mark_does_not_lock_us_out(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    folder = partial_folder(output)
    folder.mkdir()
    (folder / ".synboot.json.123.tmp").write_text("{")
    make(output)
    assert not folder.exists()


def test_a_kill_after_the_output_stands_is_tidied_by_the_next_start(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    make(output)
    folder = partial_folder(output)
    write_json(folder / "synboot.json", {"made_by": "synboot"})
    (folder / "artifacts").mkdir()
    make(output)
    assert not folder.exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    folder = partial_folder(output)
    write_json(folder / "synboot.json", {"made_by": "synboot"})
    with (
        exclusive_lock(folder / "work.lock"),
        pytest.raises(Incomplete, match="another process is writing"),
    ):
        make(output)
    assert read_json(folder / "synboot.json")["made_by"] == "synboot"


def test_summary_reads_like_a_table(tmp_path: Path) -> None:
    counts = {"kept": 1234, "share": 0.5, "by_reason": {"near_copy": 2}, "mixture": [1], "no": None}
    lines = Outcome(tmp_path / "x", "id", counts).summary().splitlines()
    assert lines[:3] == ["kept                 1,234", "share                0.5000",
                         "by reason near copy  2"]  # fmt: skip
    assert lines[3] == f"output: {tmp_path / 'x'}"


def test_bad_input_at_once_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    stage = Squares({"power": 2}, {}, seed=0)
    stage.num_parts = refuse
    with pytest.raises(BadInput, match="line 3"):
        complete("square", output, [stage], publish_nothing, workers=1, overwrite=False, quiet=True)
    assert list(tmp_path.iterdir()) == []


def refuse(context: Context) -> int:
    raise BadInput("numbers.txt, line 3: expected a number")


def publish_nothing(made: Mapping[str, Artifact], stamp: dict[str, Any]) -> None:
    raise AssertionError("nothing was made")


def test_a_finished_output_leaves_the_work_of_another_start_alone(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    make(output)
    folder = partial_folder(output)
    write_json(folder / "synboot.json", {"made_by": "synboot", "id": "another"})
    (folder / "artifacts").mkdir()
    make(output)  # done before
    assert (folder / "artifacts").exists()
    write_json(folder / "synboot.json", {"made_by": "synboot"})
    with exclusive_lock(folder / "work.lock"):
        make(output)
    assert (folder / "artifacts").exists()


def test_what_a_kill_left_of_a_publication_goes(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    (tmp_path / ".out.parquet.4711.tmp").write_text("half")
    (tmp_path / ".out.parquet.mine.tmp").write_text("the user's")
    make(output)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.parquet.mine.tmp", "out.parquet"]
