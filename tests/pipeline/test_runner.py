from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from synboot.core.errors import BadInput, Incomplete, Interrupted, NotFinite
from synboot.core.events import EventLog, PlainDisplay, ReportProgress, read_events
from synboot.core.storage import exclusive_lock
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import Artifact, Context, Counts, Stage
from synboot.pipeline.stop import StopFlag

sys.path.append(str(Path(__file__).parent))

from toy_stages import Bench, Total, pipeline


class Recorder:
    """A display that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.progress: list[tuple[str, float, float, str]] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def task(self, name: str) -> Iterator[ReportProgress]:
        def report(done: float, total: float, note: str) -> None:
            self.progress.append((name, done, total, note))

        yield report


class Home:
    """A store with a log, a screen and toy stages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bench = Bench(path)
        self.display = Recorder()

    def runner(self, **options: Any) -> Runner:
        log = EventLog(self.path / "events.jsonl")
        return Runner(self.path / "store", 1, log, self.display, **options)

    def stages(self, **options: Any) -> list[Stage]:
        return pipeline(self.bench, parts=3, **options)

    def executions(self) -> list[str]:
        path = self.path / "executions"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.rsplit(" ", 1)[0] for line in lines if not line.startswith("step")]

    def events(self) -> list[tuple[str, str | None, int | None]]:
        log = read_events(self.path / "events.jsonl")
        return [(event["event"], event.get("stage"), event.get("part")) for event in log]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # no power cut here: be quick
    return Home(tmp_path)


ALL = ["prepare", "part 0", "part 1", "part 2", "finish", "total"]


class TestRun:
    def test_artifacts_by_id_in_the_order_of_the_stages(self, home: Home) -> None:
        numbers, total = stages = home.stages()
        found = home.runner().run(stages)
        assert list(found) == [numbers.id, total.id]
        assert home.executions() == ALL
        text = found[numbers.id].file("numbers").read_text()
        expected = sum(int(line.split()[1]) for line in text.splitlines())
        assert found[total.id].file("total").read_text() == str(expected)
        assert found[total.id].counts == {"total": expected}
        assert found[numbers.id].counts == {"numbers": 12, "parts": 3}

    def test_what_happened_is_in_the_log(self, home: Home) -> None:
        home.runner().run(home.stages())
        assert home.events() == [
            ("stage_start", "numbers", None),
            ("part_done", "numbers", 0),
            ("part_done", "numbers", 1),
            ("part_done", "numbers", 2),
            ("stage_done", "numbers", None),
            ("stage_start", "total", None),
            ("stage_done", "total", None),
        ]
        first, *_ = read_events(home.path / "events.jsonl")
        assert first["id"] == home.stages()[0].id

    def test_what_is_done_is_not_done_again(self, home: Home) -> None:
        first = home.runner().run(home.stages())
        again = home.runner().run(home.stages())
        assert again == first
        assert home.executions() == ALL
        assert home.events()[-2:] == [
            ("stage_cached", "numbers", None),
            ("stage_cached", "total", None),
        ]
        assert home.display.lines[-2:] == ["[1/2] numbers: done before", "[2/2] total: done before"]

    def test_a_shared_stage_runs_once(self, home: Home) -> None:
        numbers, total = home.stages()
        twin = home.stages(label="the same numbers")[0]
        home.runner().run([numbers, twin, total])
        assert home.executions() == ALL

    def test_only_what_changed_and_what_follows_runs_again(self, home: Home) -> None:
        home.runner().run(home.stages())
        numbers, _ = home.stages()
        other = Total({"other": True}, {"numbers": numbers}, seed=1, bench=home.bench)
        home.runner().run([numbers, other])
        assert home.executions() == [*ALL, "total"]
        home.runner().run(home.stages(seed=2))
        assert home.executions() == [*ALL, "total", *ALL]

    def test_the_screen_shows_number_label_share_and_time(self, home: Home) -> None:
        home.runner().run(home.stages(label="toy numbers"))
        shown = " ".join(home.display.lines)
        assert re.fullmatch(r"\[1/2\] toy numbers: 0:\d\d \[2/2\] total: 0:\d\d", shown)
        assert home.display.progress == [
            ("[1/2] toy numbers", done, 3.0, f"{done} parts") for done in range(4)
        ]

    def test_the_share_of_a_need_is_that_of_the_need(self, home: Home) -> None:
        home.runner().run(home.stages(need=2))
        done = [(have, need) for _, have, need, _ in home.display.progress]
        assert {need for _, need in done} == {2}
        haves = [have for have, _ in done]
        assert haves[0] == 0
        assert max(haves[:-1]) < 2 <= haves[-1]

    def test_plain_lines(self, home: Home) -> None:
        stream = io.StringIO()
        runner = home.runner()
        runner.display = PlainDisplay(stream, interval_seconds=0)
        runner.run(home.stages())
        lines = stream.getvalue().splitlines()
        assert lines[0] == "  [1/2] numbers:   0%  0 parts"
        assert lines[3] == "  [1/2] numbers: 100%  3 parts"
        assert re.fullmatch(r"\[2/2\] total: 0:\d\d", lines[-1])

    def test_a_need_of_nothing_takes_no_part(self, home: Home) -> None:
        numbers = home.stages(need=0)[0]
        assert home.runner().run([numbers])[numbers.id].counts == {"numbers": 0, "parts": 0}
        assert home.executions() == ["prepare", "finish"]


class TestCheck:
    def test_sees_each_artifact_before_the_next_stage(self, home: Home) -> None:
        seen = []

        def check(stage: Stage, artifact: Artifact) -> None:
            seen.append((stage.label, artifact.id, len(home.executions())))

        numbers, total = stages = home.stages()
        home.runner().run(stages, check=check)
        assert seen == [("numbers", numbers.id, 5), ("total", total.id, 6)]
        home.runner().run(stages, check=check)
        assert len(seen) == 4, "cached artifacts are checked too"

    def test_that_raises_ends_the_run(self, home: Home) -> None:
        def check(stage: Stage, artifact: Artifact) -> None:
            raise BadInput("field budget.oracle_multiple: 10 times asked")

        with pytest.raises(BadInput, match="10 times asked"):
            home.runner().run(home.stages(), check=check)
        assert home.executions() == ALL[:-1]
        home.runner().run(home.stages())
        assert home.executions() == ALL


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_raises_interrupted_and_handlers_come_back(
        self, home: Home, number: signal.Signals
    ) -> None:
        before = signal.getsignal(number)

        def check(stage: Stage, artifact: Artifact) -> None:
            os.kill(os.getpid(), number)

        with pytest.raises(Interrupted) as error:
            home.runner().run(home.stages(), check=check)
        assert error.value.exit_code == 128 + number
        assert signal.getsignal(number) == before
        assert home.events()[-1] == ("interrupted", "total", None)

    def test_a_stage_that_stops_by_itself_is_incomplete(self, home: Home) -> None:
        class Stopping(Total):
            def finish(self, context: Context, parts: Any) -> Counts:
                raise Incomplete("no worker answered")

        with pytest.raises(Incomplete, match="no worker answered"):
            home.runner().run([Stopping({}, {}, seed=0, bench=home.bench)])

    def test_a_flag_that_is_set_already_starts_nothing(self, home: Home) -> None:
        with pytest.raises(Interrupted):
            home.runner(stop=StopFlag(signal.SIGTERM)).run(home.stages())
        assert home.executions() == []

    def test_runs_in_a_thread_that_hears_no_signals(self, home: Home) -> None:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(home.runner().run(home.stages())))
        thread.start()
        thread.join()
        assert len(found[0]) == 2

    def test_a_stage_is_entered_before_each_piece_of_its_work(self, home: Home) -> None:
        entered: list[int] = []

        class Entered(Total):
            def enter(self) -> None:
                entered.append(len(entered))

            def num_parts(self, context: Context) -> int:
                return 2

            def run_part(self, context: Context, index: int, directory: Path) -> Counts:
                assert len(entered) == 2 + index
                (directory / "x").touch()
                return {}

            def finish(self, context: Context, parts: Any) -> Counts:
                (context.directory / "x").touch()
                return {}

        home.runner().run([Entered({}, {}, seed=0, bench=home.bench)])
        assert entered == [0, 1, 2]

    def test_shares_with_another_process_what_that_one_is_not_at(self, home: Home) -> None:
        """A stage with its lock taken comes last, as does what is made from it."""
        held, free = home.stages(), pipeline(home.bench, parts=3, seed=2)
        lock = held[0].directory(home.path / "store")
        waits: list[int] = []
        runner = home.runner(share=True, on_wait=lambda: waits.append(len(home.executions())))
        with exclusive_lock(lock.with_name(lock.name + ".lock")):
            with pytest.raises(Incomplete, match="another process is writing"):
                home.runner().run([*held, *free])
            thread = threading.Thread(target=lambda: runner.run([*held, *free]))
            thread.start()
            while not any("waits for other processes" in line for line in home.display.lines):
                assert thread.is_alive()
                time.sleep(0.02)
            assert all(runner.artifact(stage) for stage in free)
            assert not any(runner.artifact(stage) for stage in held)
            assert len(waits) == 1
        thread.join()
        assert all(runner.artifact(stage) for stage in held)

    def test_a_signal_ends_the_wait_for_another_process(self, home: Home) -> None:
        [numbers, _] = home.stages()
        lock = numbers.directory(home.path / "store")
        with exclusive_lock(lock.with_name(lock.name + ".lock")):
            stop = StopFlag()
            stop.signal_number = signal.SIGTERM
            with pytest.raises(Interrupted):
                home.runner(share=True, stop=stop).run([numbers])

    def test_a_stage_made_from_one_that_was_not_given_is_refused(self, home: Home) -> None:
        for share in (False, True):
            with pytest.raises(AssertionError, match="total: made from stages that were not given"):
                home.runner(share=share).run(home.stages()[1:])

    def test_what_diverged_is_tried_again_by_one_alone_and_not_by_those_that_share(
        self, home: Home
    ) -> None:
        tries: list[int] = []

        class Diverging(Total):
            def finish(self, context: Context, parts: Any) -> Counts:
                tries.append(1)
                if len(tries) < 3:
                    raise NotFinite("step 3 of 9: the loss is not finite")
                (context.directory / "x").touch()
                return {}

        stage = Diverging({}, {}, seed=0, bench=home.bench)
        for share, number in ((True, 1), (True, 1), (False, 2), (True, 2)):
            with pytest.raises(NotFinite, match="step 3 of 9") as raised:
                home.runner(share=share).run([stage])
            assert raised.value.stage_id == stage.id
            assert len(tries) == number
        assert home.runner().run([stage])
        assert not (stage.directory(home.path / "store") / "scratch").exists()
