from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from synboot.core import events
from synboot.core.events import (
    EventLog,
    PlainDisplay,
    QuietDisplay,
    display_for,
    format_seconds,
    read_events,
)

TERMINAL = """
import sys
from synboot.core.events import TerminalDisplay, display_for
display = display_for(sys.stderr)
assert isinstance(display, TerminalDisplay), display
display.message("[1/2] corpus [bold]: done before")
with display.task("[2/2] tokens [red]") as report:
    report(0, 0, "")
    report(3, 0, "the end is not known")
    for done in range(11):
        report(done, 10, f"{done} parts [of 10]")
    report(12, 10, "more than all")
try:
    with display.task("fails") as report:
        report(1, 2, "")
        raise RuntimeError
except RuntimeError:
    display.message("after a failure")
print("result")
"""


class TestEventLog:
    def test_events_come_back_in_order(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "events.jsonl"
        before = time.time()
        log = EventLog(path)
        log.emit("part_done", part=3, counts={"ü": [1, None]})
        log.emit("line\nbreak", text="a\nb\r\u2028c")
        read = list(read_events(path))
        assert before - 0.001 <= read[0].pop("time") <= read[1].pop("time") <= time.time() + 0.001
        assert read == [
            {"event": "part_done", "part": 3, "counts": {"ü": [1, None]}},
            {"event": "line\nbreak", "text": "a\nb\r\u2028c"},
        ]
        assert path.read_bytes().count(b"\n") == 2

    def test_a_later_run_appends(self, tmp_path: Path) -> None:
        for number in range(3):
            EventLog(tmp_path / "e").emit("run_start", number=number)
        assert [event["number"] for event in read_events(tmp_path / "e")] == [0, 1, 2]

    @pytest.mark.parametrize("torn", ['{"time": 1, "ev', "{", '"text"', "17", "\x00\x00", "\udc80"])
    def test_a_torn_line_is_passed_over_and_ended(self, tmp_path: Path, torn: str) -> None:
        path = tmp_path / "events.jsonl"
        EventLog(path).emit("before")
        with path.open("ab") as file:
            file.write(torn.encode("utf-8", "surrogateescape"))
        assert [event["event"] for event in read_events(path)] == ["before"]
        log = EventLog(path)
        log.emit("after")
        log.emit("after that")
        names = [event["event"] for event in read_events(path)]
        assert names == ["before", "after", "after that"]
        assert EventLog(path) is not None
        assert path.read_bytes().count(b"\n") == 4

    def test_writers_do_not_tear_each_others_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "events.jsonl"

        def write(name: str) -> None:
            log = EventLog(path)
            for number in range(30):
                log.emit(name, number=number, text=name * 20_000)

        threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        read = list(read_events(path))
        for name in "abc":
            own = [event for event in read if event["event"] == name]
            assert [event["number"] for event in own] == list(range(30))
            assert {event["text"] for event in own} == {name * 20_000}

    def test_no_file_no_events(self, tmp_path: Path) -> None:
        EventLog(None).emit("anything", path=object())
        assert list(read_events(tmp_path / "none")) == []

    def test_what_json_does_not_know_leaves_the_log_whole(self, tmp_path: Path) -> None:
        log = EventLog(tmp_path / "e")
        log.emit("good")
        with pytest.raises(TypeError):
            log.emit("bad", path=tmp_path)
        log.emit("good")
        assert [event["event"] for event in read_events(tmp_path / "e")] == ["good", "good"]


class TestPlainDisplay:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        clock = SimpleNamespace(now=1000.0)
        fake = SimpleNamespace(monotonic=lambda: clock.now)
        monkeypatch.setattr(events, "time", fake)
        return clock

    def report(
        self, clock: SimpleNamespace, *calls: tuple[float, float, float, str], interval: float = 10
    ) -> list[str]:
        """The lines after calls at (second, done, total, note)."""
        clock.now = 1000.0
        stream = io.StringIO()
        with PlainDisplay(stream, interval).task("[2/9] embed") as report:
            for second, done, total, note in calls:
                clock.now = 1000.0 + second
                report(done, total, note)
        return stream.getvalue().splitlines()

    def test_share_note_and_time_left(self, clock: SimpleNamespace) -> None:
        lines = self.report(
            clock, (0, 0, 100, ""), (10, 10, 100, "10 parts"), (50, 20, 100, ""), (60, 100, 100, "")
        )
        assert lines == [
            "  [2/9] embed:  10%, 1:30 left  10 parts",
            "  [2/9] embed:  20%, 3:20 left",
            "  [2/9] embed: 100%",
        ]

    def test_work_of_earlier_runs_does_not_count_as_speed(self, clock: SimpleNamespace) -> None:
        assert self.report(clock, (0, 90, 100, ""), (100, 91, 100, "")) == [
            "  [2/9] embed:  91%, 15:00 left"
        ]

    def test_at_most_one_line_in_an_interval(self, clock: SimpleNamespace) -> None:
        calls = [(second, second, 1000, "") for second in range(100)]
        assert len(self.report(clock, *calls)) == 9
        assert len(self.report(clock, *calls, interval=30)) == 3

    def test_no_time_left_where_it_is_not_known(self, clock: SimpleNamespace) -> None:
        assert self.report(clock, (0, 1, 0, ""), (10, 7, 0, "reading")) == [
            "  [2/9] embed: 7  reading"
        ]
        assert self.report(clock, (0, 5, 10, ""), (10, 5, 10, "")) == ["  [2/9] embed:  50%"]
        assert self.report(clock, (20, 5, 10, "")) == ["  [2/9] embed:  50%"]

    def test_more_than_all_takes_no_negative_time(self, clock: SimpleNamespace) -> None:
        assert self.report(clock, (0, 0, 10, ""), (10, 12, 10, "")) == ["  [2/9] embed: 120%"]

    def test_messages_and_stderr(self, capsys: pytest.CaptureFixture[str]) -> None:
        PlainDisplay().message("[1/2] corpus: 0:03")
        assert capsys.readouterr() == ("", "[1/2] corpus: 0:03\n")


def test_quiet_display_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    display = QuietDisplay()
    display.message("text")
    with display.task("task") as report:
        report(1, 2, "note")
    assert capsys.readouterr() == ("", "")


def test_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    display = display_for(stream)
    assert isinstance(display, PlainDisplay)
    display.message("text")
    assert stream.getvalue() == "text\n"


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_bar_on_a_terminal(term: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": term, "COLUMNS": "100", "NO_COLOR": "1"},
        text=True,
    )
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 20)[0]:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        shown += chunk
    os.close(ours)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0, shown.decode()
    assert output == "result\n"
    text = shown.decode()
    assert "[1/2] corpus [bold]: done before" in text
    assert "after a failure" in text
    if term != "dumb":
        assert "[2/2] tokens [red]" in text
        assert "100%" in text


def test_importing_synboot_core_loads_no_rich() -> None:
    code = "import sys, json, synboot.core.events; print(json.dumps('rich' in sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert json.loads(output) is False


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.6, "1:00"),
        (85, "1:25"),
        (3599.9, "1:00:00"),
        (4000, "1:06:40"),
        (360_000, "100:00:00"),
    ],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
