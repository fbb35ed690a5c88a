"""Runs the toy pipeline in a process of its own, as the program would: `python toy_run.py JOB`.

Worker processes find `toy_stages` because a script's folder is on its path, and theirs.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toy_stages import Bench, pipeline

from synboot.core.errors import SynbootError
from synboot.core.events import EventLog, QuietDisplay, read_events
from synboot.core.storage import damaged_files, read_json
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import MANIFEST, Artifact, Stage

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}
_KEYS_OF_PIPELINE = ("parts", "per_part", "need", "seed", "numerics", "label")


@dataclass(frozen=True)
class Toy:
    """A home for toy runs, and what they left in it."""

    home: Path

    @property
    def store(self) -> Path:
        return self.home / "store"

    def start(self, **job: Any) -> subprocess.Popen[str]:
        """A run of the toy pipeline in a process, and a process group, of its own."""
        (self.home / "side").mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, __file__, json.dumps({"home": str(self.home)} | job)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, **job: Any) -> tuple[int, str]:
        """The exit code of a run and what it said on stderr; kills it if it does not end."""
        process = self.start(**job)
        try:
            _, errors = process.communicate(timeout=25)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, errors

    def stages(self, **options: Any) -> list[Stage]:
        """The stages that `run` runs with the same options."""
        return pipeline(Bench(self.home / "side"), **options)

    def directory(self, **options: Any) -> Path:
        """Where the artifact with parts lies."""
        return self.stages(**options)[0].directory(self.store)

    def committed(self, **options: Any) -> list[int]:
        """The parts that lie committed in the scratch directory."""
        folder = self.directory(**options) / "scratch" / "parts"
        return sorted(int(path.name) for path in folder.glob("[0-9]*"))

    def executions(self) -> list[str]:
        """The pieces of work that really began, over all runs."""
        path = self.home / "side" / "executions"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.rsplit(" ", 1)[0] for line in lines]

    def parts_run(self) -> list[int]:
        """The parts among `executions`."""
        names = [name for name in self.executions() if name.startswith("part ")]
        return [int(name.removeprefix("part ")) for name in names]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events called `name`, over all runs."""
        log = read_events(self.home / "events.jsonl")
        return [event for event in log if event["event"] == name]

    def results(self) -> dict[str, bytes]:
        """The bytes of every file of every finished artifact but its manifest."""
        return results(self.store)


def results(store: Path) -> dict[str, bytes]:
    """The bytes of every file of every finished artifact in `store` but its manifest."""
    found = {}
    for manifest in sorted(store.glob(f"*/*/{MANIFEST}")):
        for path in sorted(manifest.parent.rglob("*")):
            if path.is_file() and path != manifest:
                found[path.relative_to(store).as_posix()] = path.read_bytes()
    return found


def _run(job: dict[str, Any], home: Path) -> None:
    bench = Bench(home / "side", faults=job.get("faults", {}), delays=job.get("delays", {}))
    stages = pipeline(bench, **{key: job[key] for key in _KEYS_OF_PIPELINE if key in job})
    events, workers = EventLog(home / "events.jsonl"), job.get("workers", 1)
    Runner(home / "store", workers, events, QuietDisplay()).run(stages)


def _sweep(job: dict[str, Any], home: Path) -> list[dict[str, Any]]:
    """Kill a run before its first change of a file, another before its second, and so on; start
    each again; say what each left behind."""
    os.fsync = lambda fd: None  # a killed process, unlike a power cut, loses no write
    found = []
    for point in itertools.count(1):
        own = home / str(point)
        (own / "side").mkdir(parents=True)
        killed = _in_child(job, own, kill_at=point)
        found.append(
            {
                "killed": killed,
                "whole": all(map(_is_whole, (own / "store").glob("*/*"))),
                "ended": not _in_child(job, own, kill_at=0),
                "results": {n: c.decode() for n, c in results(own / "store").items()},
                "leftovers": [p.name for p in own.rglob("*") if ".tmp" in p.name],
                "scratch": [str(p) for p in own.rglob("scratch")],
                "executions": (own / "side" / "executions").read_text().splitlines(),
            }
        )
        if not killed:
            return found
    raise AssertionError


def _is_whole(directory: Path) -> bool:
    """Whether a reader sees nothing at all, or everything and undamaged."""
    if not directory.is_dir() or Artifact.open(directory) is None:
        return True
    return not damaged_files(directory, read_json(directory / MANIFEST)["files"])


def _in_child(job: dict[str, Any], home: Path, kill_at: int) -> bool:
    """Run in a forked process; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            if kill_at:
                _kill_at_change(kill_at, home)
            _run(job, home)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise AssertionError(f"the run failed: {status}")
    return os.WIFSIGNALED(status)


def _kill_at_change(number: int, home: Path) -> None:
    changes = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        opens = event == "open" and isinstance(arguments[1], str) and arguments[1] in "wax"
        if (event in _CHANGES or opens) and str(home) in str(arguments[0]):
            changes += 1
            if changes == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def main() -> None:
    """As the program: one line for what a user can meet, and its exit code."""
    job = json.loads(sys.argv[1])
    home = Path(job.pop("home"))
    if job.get("sweep"):
        print(json.dumps(_sweep(job, home)))
        return
    if limit := job.get("max_file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        _run(job, home)
    except SynbootError as error:
        print(f"{error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__mp_main__" and os.environ.get("TOY_INTERRUPTED_WORKERS"):
    os.killpg(0, signal.SIGINT)  # Ctrl-C while this worker still starts

if __name__ == "__main__":
    main()
