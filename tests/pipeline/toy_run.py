"""Runs the toy pipeline as the program would, one process per run, for `toy.Toy`.

    python toy_run.py run JOB      one run
    python toy_run.py sweep JOB    runs killed at every change of a file; prints what each left
    python toy_run.py serve        a run in a forked process for every JOB on a line of stdin

Worker processes find `toy_stages` because a script's folder is on its path, and theirs.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from toy_stages import Bench, pipeline

from synboot.core.errors import SynbootError
from synboot.core.events import EventLog, QuietDisplay
from synboot.core.storage import damaged_files, read_json
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import MANIFEST, Artifact

MAX_SECONDS = 25
"""A run that takes longer hangs."""
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}
_KEYS_OF_PIPELINE = ("parts", "per_part", "need", "philox", "seed", "numerics", "label")


def run(job: dict[str, Any]) -> int:
    """As the program: one line for what a user can meet, and its exit code."""
    if limit := job.get("max_file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        _run(job)
    except SynbootError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _run(job: dict[str, Any]) -> None:
    home = Path(job["home"])
    (home / "side").mkdir(parents=True, exist_ok=True)
    bench = Bench(home / "side", faults=job.get("faults", {}), waits=job.get("waits", {}))
    stages = pipeline(bench, **{key: job[key] for key in _KEYS_OF_PIPELINE if key in job})
    events, workers = EventLog(home / "events.jsonl"), job.get("workers", 1)
    share = bool(job.get("share"))
    Runner(home / "store", workers, events, QuietDisplay(), share=share).run(stages)


def _warm_up(home: str) -> None:
    """Make the runs of forked processes fast."""
    os.fsync = lambda fd: None  # a killed process, unlike a power cut, loses no write
    _run({"home": f"{home}/warm"})  # loads and looks up what all of them need


def results(store: Path) -> dict[str, bytes]:
    """The bytes of every file of every finished artifact in `store` but its manifest."""
    found = {}
    for manifest in sorted(store.glob(f"*/*/{MANIFEST}")):
        for path in sorted(manifest.parent.rglob("*")):
            if path.is_file() and path != manifest:
                found[path.relative_to(store).as_posix()] = path.read_bytes()
    return found


def sweep(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Kill a run before its first change of a file, another before its second, and so on; start
    each again; say what each left behind. The last is not killed: it had no more changes."""
    _warm_up(job["home"])
    found = []
    for point in itertools.count(1):
        home = Path(job["home"], str(point))
        killed = _in_child(job | {"home": str(home)}, kill_at=point)
        found.append(
            {
                "killed": killed,
                "whole": all(map(_is_whole, (home / "store").glob("*/*"))),
                "ended": not _in_child(job | {"home": str(home)}, kill_at=0),
                "results": {n: c.decode() for n, c in results(home / "store").items()},
                "leftovers": [p.name for p in home.rglob("*") if ".tmp" in p.name],
                "scratch": [str(p) for p in home.rglob("scratch")],
                "executions": (home / "side" / "executions").read_text().splitlines(),
            }
        )
        if not killed:
            break
    return found


def _is_whole(directory: Path) -> bool:
    """Whether a reader sees nothing at all, or everything and undamaged."""
    if not directory.is_dir() or Artifact.open(directory) is None:
        return True
    return not damaged_files(directory, read_json(directory / MANIFEST)["files"])


def _in_child(job: dict[str, Any], kill_at: int) -> bool:
    """Run in a forked process; whether it was killed."""
    child = os.fork()
    if child == 0:
        with _ending_the_process():
            if kill_at:
                _kill_at_change(kill_at, Path(job["home"], "store"))
            _run(job)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise AssertionError(f"the run failed: {code}")
    return code != 0


@contextlib.contextmanager
def _ending_the_process() -> Any:
    code = 1
    try:
        yield
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def _kill_at_change(number: int, store: Path) -> None:
    changes = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        writes = event == "open" and not set("wax+").isdisjoint(arguments[1] or "")
        if (event in _CHANGES or writes) and str(store) in str(arguments[0]):
            changes += 1
            if changes == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def serve() -> None:
    """Answer each job with its exit code and what it and its workers said on stderr: a forked
    process starts in no time, and is killed as well as any other."""
    with tempfile.TemporaryDirectory() as home:
        _warm_up(home)
    for line in sys.stdin:
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()  # a group of its own, as a shell gives it
            os.dup2(theirs, 2)
            os.close(0)
            os.close(theirs)
            sys.exit(run(json.loads(line)))  # through the interpreter's own end
        os.close(theirs)
        errors = _read_until_all_are_gone(ours, child)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([code, errors]), flush=True)


def _read_until_all_are_gone(descriptor: int, group: int) -> str:
    """What is written before the last process that can write has ended; kills what hangs."""
    shown, deadline = b"", time.monotonic() + MAX_SECONDS
    while True:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            os.killpg(group, signal.SIGKILL)
            shown += b"\nthe run hangs"
            break
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            break
        shown += chunk
    os.close(descriptor)
    return shown.decode()


def main() -> None:
    """What the first argument says."""
    if sys.argv[1] == "serve":
        serve()
    elif sys.argv[1] == "sweep":
        print(json.dumps(sweep(json.loads(sys.argv[2]))))
    else:
        sys.exit(run(json.loads(sys.argv[2])))


if __name__ == "__mp_main__" and "TOY_CTRL_C" in os.environ:
    with contextlib.suppress(FileExistsError):
        Path(os.environ["TOY_CTRL_C"]).touch(exist_ok=False)
        os.killpg(0, signal.SIGINT)  # once, while the first worker still starts

if __name__ == "__main__":
    main()
