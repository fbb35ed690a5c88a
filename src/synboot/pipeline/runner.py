"""Runs stages on one machine: parts in worker processes, resume from what is committed."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synboot.core.errors import (
    BadInput,
    Busy,
    Incomplete,
    Interrupted,
    NotFinite,
    OutOfTime,
)
from synboot.core.events import Display, EventLog, format_seconds, ignore_progress
from synboot.core.storage import (
    atomic_directory,
    canonical_json,
    damaged_files,
    describe_files,
    exclusive_lock,
    read_json,
    remove_leftovers,
    write_json,
)
from synboot.pipeline.manifest import manifest_of
from synboot.pipeline.stage import MANIFEST, PART_FACTS, SCRATCH, Artifact, Context, Counts, Stage
from synboot.pipeline.stop import SIGNALS, StopFlag

_POLL_SECONDS = 0.2
_NOT_FINITE = "not_finite.json"


@dataclass
class Runner:
    """Brings stages to artifacts in `store`. Results do not depend on `workers`.

    With `share`, stages that another process is at are left to it: processes that are given the
    same stages have each done once, and all end with all of them. `on_wait` is called whenever
    all that could be done is taken, to give back what others may need.
    """

    store: Path
    workers: int
    events: EventLog
    display: Display
    stop: StopFlag = field(default_factory=StopFlag)
    share: bool = False
    on_wait: Callable[[], None] = lambda: None
    _pool: ProcessPoolExecutor | None = None

    def artifact(self, stage: Stage) -> Artifact | None:
        """The finished artifact of `stage`, if there is one."""
        return Artifact.open(stage.directory(self.store))

    def run(
        self,
        stages: Sequence[Stage],
        check: Callable[[Stage, Artifact], None] = lambda stage, artifact: None,
        known: Mapping[str, Artifact] | None = None,
    ) -> dict[str, Artifact]:
        """Finish `stages`, which are in an order where inputs come first; `{id: artifact}`.

        `check` sees every artifact before the next stage begins and may raise; `known` are
        artifacts by stage id that an earlier call finished.
        Raises Interrupted after a clean checkpoint on SIGINT or SIGTERM, OutOfTime when `stop` has
        no time left, Incomplete if a worker process died, Busy if another process is at a stage and
        nothing is shared, and what a stage raises.
        """
        finished = dict(known or {})
        left = {
            f"[{number}/{len(stages)}] {stage.label}": stage
            for number, stage in enumerate(stages, 1)
            if stage.id not in finished
        }
        with self.stop.installed(), self._closing_pool():
            while left:
                title, artifact = self._any(left, finished)
                stage = left.pop(title)
                check(stage, artifact)
                finished[stage.id] = artifact
        return finished

    def _any(
        self, left: Mapping[str, Stage], finished: Mapping[str, Artifact]
    ) -> tuple[str, Artifact]:
        """The first stage of `left` that can be finished now, by its title: the first, unless
        stages are shared."""
        waits = False
        while True:
            busy = False
            for title, stage in left.items():
                if any(source.id not in finished for source in stage.inputs.values()):
                    continue
                try:
                    return title, self._brought(stage, finished, title)
                except Busy:
                    if not self.share:
                        raise
                    busy = True
            if not busy:
                raise AssertionError(f"{', '.join(left)}: made from stages that were not given")
            if not waits:
                self.display.message("waits for other processes, which are at all that can be done")
                self.on_wait()
            waits = True
            if self.stop.signal_number:
                raise Interrupted(self.stop.signal_number)
            time.sleep(_POLL_SECONDS)

    def _brought(self, stage: Stage, finished: Mapping[str, Artifact], title: str) -> Artifact:
        artifact = self.artifact(stage)
        if artifact is not None:
            self.events.emit("stage_cached", stage=stage.name, id=stage.id)
            self.display.message(f"{title}: done before")
            shutil.rmtree(artifact.path / SCRATCH, ignore_errors=True)
            return artifact
        if self.stop.out_of_time:
            self.events.emit("out_of_time", stage=stage.name, id=stage.id)
            raise OutOfTime(f"{self._time_is_over()} before {stage.label}")
        return self._run_stage(stage, finished, title)

    def _run_stage(self, stage: Stage, finished: Mapping[str, Artifact], title: str) -> Artifact:
        directory = stage.directory(self.store)
        scratch = directory / SCRATCH
        inputs = {name: finished[source.id] for name, source in stage.inputs.items()}
        with exclusive_lock(directory.with_name(directory.name + ".lock")):
            if (artifact := self.artifact(stage)) is not None:
                return artifact
            remove_leftovers(scratch)
            self._check_started(stage, scratch)
            self._check_finite(stage, scratch / _NOT_FINITE)
            started = time.time()
            with self.display.task(title) as progress:
                context = Context(
                    directory=directory,
                    inputs=inputs,
                    progress=progress,
                    should_stop=self.stop,
                    emit=lambda event, **fields: self.events.emit(
                        event, stage=stage.name, id=stage.id, **fields
                    ),
                )
                context.emit("stage_start", label=stage.label)
                try:
                    counts = self._work(stage, context)
                except OutOfTime:
                    raise
                except NotFinite as error:
                    error.stage_id = stage.id
                    write_json(scratch / _NOT_FINITE, {"error": str(error)})
                    raise
                except Incomplete as error:
                    self._raise_if_stopped(context, f"; {stage.label}: {error}")
                    raise
            manifest = manifest_of(stage, inputs, counts, directory, started)
            write_json(directory / MANIFEST, manifest)
            shutil.rmtree(scratch, ignore_errors=True)
        directory.with_name(directory.name + ".lock").unlink(missing_ok=True)
        seconds = time.time() - started
        context.emit("stage_done", seconds=round(seconds, 3))
        self.display.message(f"{title}: {format_seconds(seconds)}")
        return Artifact(directory, manifest)

    def _check_started(self, stage: Stage, scratch: Path) -> None:
        """Refuse to go on with other numerics than those that the stage's results began with."""
        file = scratch / "started.json"
        if not file.is_file():
            write_json(file, {"id": stage.id, "numerics": stage.numerics})
            return
        before, now = read_json(file)["numerics"], stage.numerics
        changed = [
            f"{key} was {before.get(key)!r} and is now {now.get(key)!r}"
            for key in sorted({*before, *now})
            if canonical_json(before.get(key)) != canonical_json(now.get(key))
        ]
        if changed and not _has_results(scratch):
            shutil.rmtree(scratch / "prepared", ignore_errors=True)  # before what it was made with
            write_json(file, {"id": stage.id, "numerics": stage.numerics})
        elif changed:
            raise BadInput(
                f"{stage.label} was begun with other numerics: {'; '.join(changed)}; "
                f"set them back, or remove {scratch.parent} to begin it again"
            )

    def _check_finite(self, stage: Stage, file: Path) -> None:
        """Processes that share agree on what diverged; one alone tries it again."""
        if not file.is_file():
            return
        if self.share:
            error = NotFinite(read_json(file)["error"])
            error.stage_id = stage.id
            raise error
        file.unlink()

    def _raise_if_stopped(self, context: Context, where: str = "") -> None:
        if self.stop.signal_number:
            context.emit("interrupted", signal=self.stop.signal_number)
            raise Interrupted(self.stop.signal_number)
        if self.stop.out_of_time:
            context.emit("out_of_time")
            raise OutOfTime(self._time_is_over() + where)

    def _time_is_over(self) -> str:
        given = format_seconds(self.stop.seconds or 0)
        return f"the time given, {given}, is over; the same command goes on"

    def _work(self, stage: Stage, context: Context) -> Counts:
        stage.enter()
        self._raise_if_stopped(context)
        if not self._reuse(context, context.prepared, "prepared"):
            with atomic_directory(context.prepared) as directory:
                stage.prepare(context, directory)
                _write_part_facts(directory, {})
        self._raise_if_stopped(context)
        parts = self._run_parts(stage, context)
        self._raise_if_stopped(context)
        for leftover in context.directory.iterdir():
            if leftover.name == SCRATCH:
                continue
            if leftover.is_dir() and not leftover.is_symlink():  # of a finish that was cut short
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        return stage.finish(context, parts)

    def _run_parts(self, stage: Stage, context: Context) -> list[Path]:
        limit = stage.num_parts(context)
        if limit == 0:
            self._close_pool()  # a long stage of one process has use for the workers' memory
            return []
        folder = context.scratch / "parts"
        folder.mkdir(exist_ok=True)
        committed = {
            index
            for index in range(limit)
            if self._reuse(context, _part_path(folder, index), "part", part=index)
        }
        prefix: list[Path] = []

        def satisfied() -> bool:
            while True:  # part by part: later ones may be committed, and the shortest is wanted
                status = stage.need(context, prefix)
                have, need = status or (float(len(committed)), float(limit))
                met = len(prefix) == limit or (status is not None and have >= need)
                if met or len(prefix) not in committed:
                    break
                prefix.append(_part_path(folder, len(prefix)))
            context.progress(have, need, f"{len(committed)} parts")
            return met

        if satisfied():
            return prefix
        todo = (index for index in range(limit) if index not in committed)
        workers = min(self.workers, stage.max_workers or self.workers)
        if workers == 1 or len(committed) + 1 == limit:
            for index in todo:
                counts = stage_part(stage, _for_worker(context), index)
                committed.add(index)
                context.emit("part_done", part=index, counts=counts)
                if satisfied():
                    break
                self._raise_if_stopped(context)
            return prefix
        running: dict[int, Future[Counts]] = {}

        def commit(index: int) -> None:
            counts = running.pop(index).result()
            committed.add(index)
            context.emit("part_done", part=index, counts=counts)

        try:
            while not satisfied():
                self._raise_if_stopped(context)
                for index in itertools.islice(todo, workers - len(running)):
                    running[index] = self._submit(stage, context, index)
                done, _ = wait(running.values(), return_when=FIRST_COMPLETED)
                for index in [index for index, future in running.items() if future in done]:
                    commit(index)
        except BrokenProcessPool:
            self._close_pool()
            raise Incomplete(
                f"a worker process died in {stage.label} (often: out of memory); "
                "the same command resumes"
            ) from None
        finally:
            wait(running.values())  # what is in flight is committed, or failed, before we go on
            for index in [i for i, future in running.items() if future.exception() is None]:
                commit(index)
        return prefix

    def _submit(self, stage: Stage, context: Context, index: int) -> Future[Counts]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max_workers=self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
            )
        # A new worker inherits the mask: a Ctrl-C of the terminal finds it deaf from its birth.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            future = self._pool.submit(stage_part, stage, _for_worker(context), index)
            self.stop.workers = list(self._pool._processes)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return future

    @contextlib.contextmanager
    def _closing_pool(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._close_pool()

    def _close_pool(self) -> None:
        """End the workers by SIGKILL. They are deaf to less, and one that died waiting for work
        holds the lock that the others wait for, so that they would never hear a polite word."""
        if self._pool is None:
            return
        for worker in list(self._pool._processes.values()):
            worker.kill()
        self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self.stop.workers = []

    def _reuse(self, context: Context, path: Path, kind: str, **fields: int) -> bool:
        """Whether `path` holds what was committed there; if it is damaged, it goes."""
        if not (path / PART_FACTS).is_file():
            return False
        damaged = _damage(path)
        if damaged:
            context.emit(f"{kind}_damaged", **fields, files=damaged)
            shutil.rmtree(path)
            return False
        context.emit(f"{kind}_reused", **fields)
        return True


def stage_part(stage: Stage, context: Context, index: int) -> Counts:
    """Run and commit one part: its directory appears, complete, or not at all."""
    stage.enter()
    with atomic_directory(_part_path(context.scratch / "parts", index)) as directory:
        counts = stage.run_part(context, index, directory)
        _write_part_facts(directory, counts)
    return counts


def _write_part_facts(directory: Path, counts: Counts) -> None:
    write_json(directory / PART_FACTS, {"files": describe_files(directory), "counts": counts})


def _damage(directory: Path) -> list[str]:
    try:
        return damaged_files(directory, read_json(directory / PART_FACTS)["files"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return [PART_FACTS]


def _has_results(scratch: Path) -> bool:
    """Whether a stage that was begun has come to anything."""
    return any((scratch / "parts").glob("*")) or any(
        path.name not in ("started.json", "prepared", "parts", _NOT_FINITE)
        for path in scratch.iterdir()
    )


def _part_path(folder: Path, index: int) -> Path:
    return folder / f"{index:06}"


def _never() -> bool:
    return False


def _emit_nothing(event: str, **fields: Any) -> None:
    """Workers do not write the log; the runner tells what they committed."""


def _for_worker(context: Context) -> Context:
    return Context(context.directory, context.inputs, ignore_progress, _never, _emit_nothing)


def _start_worker() -> None:
    """A worker finishes its part when the terminal's Ctrl-C or a group's SIGTERM reaches it too,
    and ends as soon as its parent is gone, before another run can commit the same part."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
