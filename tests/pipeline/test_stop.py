"""Work that is asked to end after some time ends at a checkpoint, and goes on from there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from synboot.core.errors import OutOfTime
from synboot.core.events import EventLog, QuietDisplay, read_events
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import Context, Counts, Stage
from synboot.pipeline.stop import StopFlag

sys.path.append(str(Path(__file__).parent))

from toy_stages import Bench, Total, pipeline


class Home:
    """A store with toy stages; time is over when `over_at` is reached, where one is named."""

    def __init__(self, path: Path) -> None:
        self.path, self.over_at, self.stop = path, "", StopFlag()
        home = self

        class Timed(Bench):
            def reach(self, place: str) -> None:
                if place == home.over_at:
                    home.stop.made -= 1e9

        self.bench = Timed(path)

    def run(self, over_at: str, seconds: float | None = 1e6) -> Any:
        self.over_at, self.stop = over_at, StopFlag(seconds=seconds)
        log = EventLog(self.path / "events.jsonl")
        runner = Runner(self.path / "store", 1, log, QuietDisplay(), stop=self.stop)
        return runner.run(pipeline(self.bench, parts=3, per_part=2))

    def executions(self) -> list[str]:
        path = self.path / "executions"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.rsplit(" ", 1)[0] for line in lines]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # no power cut here: be quick
    return Home(tmp_path)


def test_no_time_begins_nothing(home: Home) -> None:
    with pytest.raises(OutOfTime, match=r"time given, 0:00, is over; .* before numbers") as error:
        home.run("", seconds=0.0)
    assert error.value.exit_code == 4
    assert home.executions() == []
    assert [event["event"] for event in read_events(home.path / "events.jsonl")] == ["out_of_time"]


def test_parts_and_long_loops_end_at_a_checkpoint_and_go_on(home: Home) -> None:
    with pytest.raises(OutOfTime, match="the same command goes on"):
        home.run("part 1")
    assert home.executions() == ["prepare", "part 0", "part 1"]  # which is kept
    with pytest.raises(OutOfTime, match="; total: stopped after step 3"):
        home.run("step 2")
    steps = [f"step {number}" for number in range(6)]
    assert home.executions() == ["part 2", "finish", "total", *steps[:3]]
    found = home.run("")
    assert home.executions() == ["total", *steps[3:]]
    events = [event["event"] for event in read_events(home.path / "events.jsonl")]
    assert events.count("out_of_time") == 2
    whole = Home(home.path / "whole")
    (home.path / "whole").mkdir()
    unbroken = whole.run("", seconds=None)
    for id_, artifact in unbroken.items():
        assert found[id_].counts == artifact.counts


def test_what_is_done_needs_no_time(home: Home) -> None:
    home.run("")
    assert len(home.run("", seconds=0.0)) == 2


def test_a_stage_that_keeps_nothing_is_named(home: Home) -> None:
    class Reading(Total):
        def finish(self, context: Context, parts: Any) -> Counts:
            home.stop.made -= 1e9
            context.advance(1, 2, "reading")
            raise AssertionError("not reached")

    home.stop = StopFlag(seconds=1e6)
    runner = Runner(home.path, 1, EventLog(None), QuietDisplay(), stop=home.stop)
    stage: Stage = Reading({}, {}, seed=0, bench=home.bench)
    with pytest.raises(OutOfTime, match="total: stopped; this stage begins again"):
        runner.run([stage])
