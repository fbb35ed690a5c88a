"""What ends a run before its time: signals, dead workers, a dead runner, a full disk, bugs."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

from toy import Toy
from toy_stages import lock_is_free

PARTS = list(range(6))
CLEAN = "stopped at a clean checkpoint; the same command resumes\n"


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path / "toy")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an unbroken run with one worker."""
    toy = Toy(tmp_path_factory.mktemp("unbroken"))
    assert toy.run() == (0, "")
    return toy.results()


class TestSignals:
    @pytest.mark.parametrize(
        ("name", "workers"),
        [("SIGINT", 1), ("SIGTERM", 1), ("SIGTERM", 2), ("group SIGINT", 2), ("group SIGTERM", 2)],
    )
    def test_end_with_what_is_in_flight_committed(
        self, toy: Toy, unbroken: dict[str, bytes], name: str, workers: int
    ) -> None:
        code, errors = toy.run(workers=workers, faults={"part 2": name})
        number = signal.Signals[name.removeprefix("group ")]
        assert (code, errors) == (128 + number, CLEAN)
        begun = toy.parts_run()
        assert 2 in begun
        assert begun != PARTS
        assert toy.committed() == sorted(begun), "a part in flight was lost"
        assert sorted(event["part"] for event in toy.events("part_done")) == sorted(begun)
        assert [event["signal"] for event in toy.events("interrupted")] == [number]
        assert toy.results() == {}

        assert toy.run() == (0, "")
        assert toy.results() == unbroken
        assert sorted(toy.parts_run()) == PARTS, "a part was run twice"

    def test_while_workers_start_do_not_reach_them(
        self, toy: Toy, unbroken: dict[str, bytes]
    ) -> None:
        """Ctrl-C at a terminal goes to every process of the group, new-born ones too."""
        marker = str(toy.home.parent / "sent")
        with toy.start(environment={"TOY_CTRL_C": marker}, workers=2) as process:
            _, errors = process.communicate(timeout=25)
        assert Path(marker).exists()
        assert (process.returncode, errors) == (130, CLEAN)
        assert toy.committed() == sorted(toy.parts_run()) != []
        assert toy.run() == (0, "")
        assert toy.results() == unbroken
        assert sorted(toy.parts_run()) == PARTS

    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
    def test_in_prepare_end_after_it(self, toy: Toy, unbroken: dict[str, bytes], name: str) -> None:
        assert toy.run(faults={"prepare": name}) == (128 + signal.Signals[name], CLEAN)
        assert toy.parts_run() == []
        assert toy.run() == (0, "")
        assert toy.executions().count("prepare") == 1
        assert toy.results() == unbroken

    def test_in_the_last_part_end_before_finish(self, toy: Toy, unbroken: dict[str, bytes]) -> None:
        assert toy.run(faults={"part 5": "SIGTERM"}) == (143, CLEAN)
        assert toy.committed() == PARTS
        assert "finish" not in toy.executions()
        assert toy.run() == (0, "")
        assert toy.results() == unbroken
        assert toy.parts_run() == PARTS

    def test_in_a_long_loop_let_the_stage_save(self, toy: Toy, unbroken: dict[str, bytes]) -> None:
        assert toy.run(faults={"step 7": "SIGTERM"}) == (143, CLEAN)
        assert toy.run() == (0, "")
        assert toy.results() == unbroken
        steps = [name for name in toy.executions() if name.startswith("step ")]
        assert steps == [f"step {number}" for number in range(24)], "a step was lost or repeated"

    def test_in_finish_end_before_the_next_stage(
        self, toy: Toy, unbroken: dict[str, bytes]
    ) -> None:
        assert toy.run(faults={"finish": "SIGINT"}) == (130, CLEAN)
        assert (toy.directory() / "manifest.json").exists()
        assert "total" not in toy.executions()
        assert toy.run() == (0, "")
        assert toy.results() == unbroken

    @pytest.mark.parametrize("workers", [1, 2])
    def test_twice_end_at_once(self, toy: Toy, unbroken: dict[str, bytes], workers: int) -> None:
        started = time.monotonic()
        code, _ = toy.run(workers=workers, faults={"part 2": "SIGINT twice"})
        assert code == 130
        assert time.monotonic() - started < 10, "it waited for the part"
        assert lock_is_free(toy.home / "side" / "lingering"), "the worker lives on"
        assert 2 not in toy.committed()
        assert toy.run() == (0, "")
        assert toy.results() == unbroken


class TestRunnerKilled:
    @pytest.mark.parametrize("place", ["part 0", "part 3"])
    def test_its_workers_end_within_two_seconds(self, toy: Toy, place: str) -> None:
        with toy.start(workers=2, faults={place: "kill runner"}) as process:
            assert process.wait(timeout=25) == -signal.SIGKILL
            killed = time.monotonic()
            while not lock_is_free(toy.home / "side" / "lingering"):
                assert time.monotonic() - killed < 2
                time.sleep(0.01)
            process.communicate(timeout=2)  # returns when no process holds its stderr any more
            assert time.monotonic() - killed < 2
        assert not (toy.home / "side" / "survived").exists()

    def test_an_idle_worker_ends_too(self, toy: Toy) -> None:
        job: dict[str, Any] = {
            "workers": 3,
            "waits": {"part 0": "part 3"},
            "faults": {"finish": "kill runner"},
        }
        with toy.start(**job) as process:
            assert process.wait(timeout=25) == -signal.SIGKILL
            killed = time.monotonic()
            process.communicate(timeout=2)
            assert time.monotonic() - killed < 2
        assert len(toy.workers()) >= 2


class TestWorkerKilled:
    @pytest.mark.parametrize("place", ["part 0", "part 3"])
    def test_at_work(self, toy: Toy, unbroken: dict[str, bytes], place: str) -> None:
        code, errors = toy.run(workers=2, faults={place: "die"})
        assert code == 4
        assert errors == (
            "a worker process died in numbers (often: out of memory); the same command resumes\n"
        )
        assert toy.results() == {}
        committed = toy.committed()
        assert int(place.removeprefix("part ")) not in committed
        assert toy.run() == (0, "")
        assert toy.results() == unbroken
        assert all(toy.parts_run().count(index) == 1 for index in committed)

    def test_while_it_waits_for_work(self, toy: Toy) -> None:
        """It dies with the lock of the queue in its hands, which no other worker then gets."""
        job = {"parts": 3, "workers": 2}
        code, errors = toy.run(**job, faults={"part 0": "kill idle sibling"})
        assert code == 4, errors
        assert "a worker process died" in errors
        assert toy.run(parts=3) == (0, "")
        assert [toy.parts_run().count(index) for index in range(3)] == [2, 1, 1]

    def test_after_the_last_part(self, toy: Toy, unbroken: dict[str, bytes]) -> None:
        """The others must not be waited for at the end of the run."""
        job: dict[str, Any] = {
            "workers": 3,
            "waits": {"part 0": "part 3"},
            "faults": {"finish": "wait"},
        }
        with toy.start(**job) as process:
            while "finish" not in toy.executions():
                assert process.poll() is None
                time.sleep(0.02)
            os.kill(min(toy.workers()), signal.SIGKILL)
            (toy.home / "side" / "go on").touch()
            _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
        assert toy.results() == unbroken


class TestFailures:
    def test_of_a_real_write(self, toy: Toy) -> None:
        """The operating system refuses to let any file grow beyond the limit."""
        job = {"parts": 2, "per_part": 200}
        code, errors = toy.run(**job, max_file_bytes=4000)
        assert code == 1
        assert "File too large" in errors
        assert toy.committed(**job) == [0, 1]
        assert not list(toy.store.rglob("manifest.json"))
        assert toy.run(**job) == (0, "")
        assert toy.parts_run() == [0, 1], "the parts were made again"
        reference = Toy(toy.home / "reference")
        assert reference.run(**job) == (0, "")
        assert toy.results() == reference.results()

    @pytest.mark.parametrize(
        ("fault", "workers", "code", "text"),
        [
            ("disk full", 1, 1, "No space left on device"),
            ("bad input", 1, 2, "toy.txt, line 3: expected a number"),
            ("bad input", 2, 2, "toy.txt, line 3: expected a number"),
            ("raise", 2, 1, "a bug of the toy"),
        ],
    )
    def test_in_a_part_keep_the_others(
        self,
        toy: Toy,
        unbroken: dict[str, bytes],
        fault: str,
        code: int,
        text: str,
        workers: int,
    ) -> None:
        exit_code, errors = toy.run(workers=workers, faults={"part 2": fault})
        assert exit_code == code
        assert errors.rstrip().endswith(text)
        committed = toy.committed()
        assert {0, 1} <= set(committed)
        assert 2 not in committed
        assert not list(toy.store.rglob(".*.tmp"))
        assert toy.run() == (0, "")
        assert toy.results() == unbroken
        assert [toy.parts_run().count(index) for index in PARTS] == [1, 1, 2, 1, 1, 1]

    @pytest.mark.parametrize("place", ["prepare", "finish", "step 5"])
    def test_elsewhere_keep_all_parts(
        self, toy: Toy, unbroken: dict[str, bytes], place: str
    ) -> None:
        code, errors = toy.run(faults={place: "disk full"})
        assert code == 1
        assert "No space left on device" in errors
        assert not list(toy.store.rglob(".*.tmp"))
        assert toy.run() == (0, "")
        assert toy.results() == unbroken
        assert toy.parts_run() == PARTS
