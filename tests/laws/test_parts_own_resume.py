"""Law 3: parts own resume. `kill -9` loses at most the part in flight, and the end is the same."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

from toy import Toy

PARTS = 6


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path / "toy")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an unbroken run with one worker."""
    toy = Toy(tmp_path_factory.mktemp("unbroken"))
    assert toy.run() == (0, "")
    assert toy.parts_run() == list(range(PARTS))
    assert len(toy.results()) == 3
    return toy.results()


class TestWorkers:
    @pytest.mark.parametrize("workers", [2, 3])
    def test_their_number_changes_nothing(
        self, toy: Toy, unbroken: dict[str, bytes], workers: int
    ) -> None:
        code, errors = toy.run(workers=workers, waits={"part 0": "part 3"})
        assert (code, errors) == (0, "")
        done = [event["part"] for event in toy.events("part_done")]
        assert sorted(done) == sorted(toy.parts_run()) == list(range(PARTS))
        assert done != sorted(done)
        assert toy.results() == unbroken
        assert 2 <= len(toy.workers()) <= workers + 1, "the parts were not shared"


class TestKilled:
    @pytest.mark.parametrize(
        ("place", "workers"),
        [
            ("prepare", 1),
            ("part 0", 1),
            ("part 3", 1),
            ("part 5", 1),
            ("finish", 1),
            ("part 0", 2),
            ("part 3", 2),
            ("part 5", 2),
        ],
    )
    def test_at_a_place_and_resumed_with_other_workers(
        self, toy: Toy, unbroken: dict[str, bytes], workers: int, place: str
    ) -> None:
        code, _ = toy.run(workers=workers, faults={place: "kill runner"})
        assert code == -signal.SIGKILL
        committed = toy.committed()
        begun = toy.parts_run()
        assert len(begun) - len(committed) <= workers
        if place.startswith("part "):
            assert int(place.removeprefix("part ")) not in committed
        assert toy.results() == {}

        assert toy.run(workers=3 - workers)[0] == 0
        assert toy.results() == unbroken
        assert sorted(event["part"] for event in toy.events("part_reused")) == committed
        assert sorted(toy.parts_run()[len(begun) :]) == [
            index for index in range(PARTS) if index not in committed
        ]
        done = [event["part"] for event in toy.events("part_done")]
        assert len(done) == len(set(done)), "a part that was told of as done was done again"
        prepared = toy.executions().count("prepare")
        assert prepared == (2 if place == "prepare" else 1)

    def test_again_and_again(self, toy: Toy, unbroken: dict[str, bytes]) -> None:
        places = ["prepare", "part 1", "part 2", "part 4", "finish", "step 3"]
        for place in places:
            code, _ = toy.run(faults={place: "kill runner"})
            assert code == -signal.SIGKILL, place
        assert toy.run()[0] == 0
        assert toy.results() == unbroken
        times = Counter(toy.parts_run())
        assert times == {0: 1, 1: 2, 2: 2, 3: 1, 4: 2, 5: 1}

    def test_at_every_single_change_of_a_file(self, toy: Toy) -> None:
        """Not at chosen places only: before the first, the second, ... the last of all file
        operations below the store."""
        with toy.start("sweep", parts=2, per_part=2) as process:
            output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        *killed, last = json.loads(output)
        assert len(killed) > 50
        assert not last["killed"]
        for number, run in enumerate(killed, 1):
            assert run["killed"]
            assert run["whole"], f"a reader saw half an artifact after kill {number}"
            assert run["ended"]
            assert run["results"] == last["results"]
            assert run["leftovers"] == run["scratch"] == []
            times = Counter(line.rsplit(" ", 1)[0] for line in run["executions"])
            own = [times[place] for place in ("prepare", "part 0", "part 1", "finish")]
            assert sum(own) <= 5, f"kill {number} cost more than one piece of work"
        redone = {tuple(line.split(" ")[0] for line in run["executions"]) for run in killed}
        assert len(redone) > 4, "the kills all fell into the same piece of work"


class TestNeed:
    NEED: dict[str, Any] = {"parts": 12, "need": 5}  # noqa: RUF012

    @pytest.fixture(scope="class")
    def alone(self, tmp_path_factory: pytest.TempPathFactory) -> Toy:
        toy = Toy(tmp_path_factory.mktemp("alone"))
        assert toy.run(**self.NEED)[0] == 0
        return toy

    def test_ends_at_the_first_part_that_meets_it(self, alone: Toy) -> None:
        path = alone.directory(**self.NEED) / "numbers"
        numbers = [int(line.split()[1]) for line in path.read_text().splitlines()]
        parts = len(numbers) // 4
        assert alone.parts_run() == list(range(parts))
        assert 1 < parts < 12
        even = [sum(number % 2 == 0 for number in numbers[: 4 * k]) for k in range(parts + 1)]
        assert even[-2] < 5 <= even[-1]

    @pytest.mark.parametrize("workers", [2, 3])
    def test_is_the_shortest_prefix_whatever_was_done_beyond_it(
        self, toy: Toy, alone: Toy, workers: int
    ) -> None:
        waits = {"part 0": f"part {len(alone.parts_run()) + 1}"}
        code, errors = toy.run(**self.NEED, workers=workers, waits=waits)
        assert (code, errors) == (0, "")
        assert set(toy.parts_run()) > set(alone.parts_run()), "nothing was done beyond it"
        assert toy.results() == alone.results()

    def test_is_the_shortest_prefix_after_a_kill(self, toy: Toy, alone: Toy) -> None:
        many = {
            **self.NEED,
            "workers": 2,
            "waits": {"part 0": f"part {len(alone.parts_run()) + 2}"},
        }
        code, _ = toy.run(**many, faults={"part 0": "kill runner"})
        assert code == -signal.SIGKILL
        assert len(toy.committed(**self.NEED)) > len(alone.parts_run()), "too few for the test"
        assert toy.run(**self.NEED)[0] == 0
        assert toy.results() == alone.results()
        assert toy.parts_run().count(0) == 2

    def test_that_cannot_be_met_uses_all_parts(self, toy: Toy) -> None:
        job = {"parts": 3, "need": 1000}
        assert toy.run(**job, workers=2)[0] == 0
        assert len((toy.directory(**job) / "numbers").read_text().splitlines()) == 12


def rewrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1  # as a failing disk does: same name, same size
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


class TestDamage:
    @pytest.mark.parametrize("damage", [rewrite, remove, empty])
    @pytest.mark.parametrize("name", ["numbers", "part.json"])
    def test_to_a_committed_part_is_found_and_mended(
        self, toy: Toy, unbroken: dict[str, bytes], damage: Callable[[Path], None], name: str
    ) -> None:
        assert toy.run(faults={"part 4": "kill runner"})[0] == -signal.SIGKILL
        assert toy.committed() == [0, 1, 2, 3]
        damage(toy.directory() / "scratch" / "parts" / "000002" / name)
        assert toy.run() == (0, "")
        assert toy.results() == unbroken
        assert toy.parts_run() == [0, 1, 2, 3, 4, 2, 4, 5]
        assert [event["part"] for event in toy.events("part_reused")] == [0, 1, 3]
        told = [(event["part"], event["files"]) for event in toy.events("part_damaged")]
        assert told == ([] if (damage, name) == (remove, "part.json") else [(2, [name])])

    @pytest.mark.parametrize("damage", [rewrite, remove])
    def test_to_what_was_prepared_is_found_and_mended(
        self, toy: Toy, unbroken: dict[str, bytes], damage: Callable[[Path], None]
    ) -> None:
        assert toy.run(faults={"part 4": "kill runner"})[0] == -signal.SIGKILL
        damage(toy.directory() / "scratch" / "prepared" / "offset")
        assert toy.run() == (0, "")
        assert toy.results() == unbroken
        assert toy.executions().count("prepare") == 2
        assert [event["files"] for event in toy.events("prepared_damaged")] == [["offset"]]


class TestNumerics:
    BEFORE: dict[str, Any] = {"threads": 2, "device": "cpu", "slots": [1, 2]}  # noqa: RUF012

    def test_that_changed_in_mid_stage_are_refused_by_name(
        self, toy: Toy, unbroken: dict[str, bytes]
    ) -> None:
        assert toy.run(numerics=self.BEFORE, faults={"part 3": "kill runner"})[0] != 0
        committed = {
            path: path.stat().st_mtime_ns for path in toy.store.rglob("0*/*") if path.is_file()
        }
        executions = toy.executions()
        code, errors = toy.run(numerics={"threads": 3, "device": "cpu", "compile": True})
        assert code == 2
        assert errors == (
            "numbers was begun with other numerics: compile was None and is now True; "
            "slots was [1, 2] and is now None; threads was 2 and is now 3; "
            f"set them back, or remove {toy.directory()} to begin it again\n"
        )
        assert toy.executions() == executions
        now = {path: path.stat().st_mtime_ns for path in toy.store.rglob("0*/*") if path.is_file()}
        assert now == committed

        assert toy.run(numerics=self.BEFORE) == (0, "")
        assert toy.results() == unbroken
        assert toy.parts_run() == [0, 1, 2, 3, 3, 4, 5]
        manifest = json.loads((toy.directory() / "manifest.json").read_text())
        assert manifest["numerics"] == self.BEFORE

    @pytest.mark.parametrize(
        ("before", "now"), [({"x": 1}, {"x": True}), ({"x": 1}, {"x": 1.0}), ({}, {"x": 0})]
    )
    def test_that_look_alike_are_told_apart(
        self, toy: Toy, before: dict[str, Any], now: dict[str, Any]
    ) -> None:
        assert toy.run(numerics=before, faults={"part 1": "bad input"})[0] == 2
        code, errors = toy.run(numerics=now)
        assert code == 2
        assert "numbers was begun with other numerics: x was " in errors

    def test_that_changed_before_anything_was_made_are_taken(
        self, toy: Toy, unbroken: dict[str, bytes]
    ) -> None:
        """A stage that stopped at its first part, for want of a compiler, say."""
        assert toy.run(numerics=self.BEFORE, faults={"part 0": "bad input"})[0] == 2
        assert toy.run(numerics={"threads": 3}) == (0, "")
        assert toy.results() == unbroken
        assert toy.executions().count("prepare") == 2
        manifest = json.loads((toy.directory() / "manifest.json").read_text())
        assert manifest["numerics"] == {"threads": 3}

    def test_do_not_matter_to_a_finished_artifact(self, toy: Toy) -> None:
        assert toy.run(numerics=self.BEFORE) == (0, "")
        executions = toy.executions()
        assert toy.run(numerics={"threads": 9}) == (0, "")
        assert toy.executions() == executions
        assert len(toy.events("stage_cached")) == 2


class TestLeftovers:
    def test_of_a_finish_that_was_cut_short_go(self, toy: Toy, unbroken: dict[str, bytes]) -> None:
        assert toy.run(faults={"finish": "kill runner"})[0] == -signal.SIGKILL
        directory = toy.directory()
        assert (directory / "numbers").exists()
        (directory / "deep" / "of an older version").touch()
        assert toy.run() == (0, "")
        assert toy.results() == unbroken
        assert toy.parts_run() == list(range(PARTS))

    def test_of_killed_writers_do_not_pile_up(self, toy: Toy) -> None:
        for place in ("prepare", "part 2", "part 3"):
            assert toy.run(faults={place: "kill runner"})[0] == -signal.SIGKILL
            left = [path for path in toy.store.rglob(".*.tmp") if path.is_dir()]
            assert len(left) == 1

    def test_scratch_goes_with_the_end_even_after_a_kill_between(self, toy: Toy) -> None:
        assert toy.run() == (0, "")
        scratch = toy.directory() / "scratch"
        assert not scratch.exists()
        (scratch / "parts" / "000001").mkdir(parents=True)
        assert toy.run() == (0, "")
        assert not scratch.exists()
