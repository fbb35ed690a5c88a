"""A verb's output: made beside its place, resumable, put there when it is whole.

While a verb works, its stages lie in the directory `OUTPUT.partial`; a command that was stopped or
killed goes on from there. The finished output carries a stamp that says which settings, inputs
and versions it answers to: in a Parquet file's metadata, or as `manifest.json` in a directory.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synboot.core.errors import BadInput, Incomplete, SynbootError
from synboot.core.events import Display, EventLog, QuietDisplay, display_for
from synboot.core.storage import (
    atomic_directory,
    atomic_file,
    describe_files,
    digest,
    exclusive_lock,
    read_json,
    write_json,
)
from synboot.experiment.stages.process import own_threads
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import MANIFEST, Artifact, Stage

STAMP_KEY = b"synboot"
_MARK = "synboot.json"
_NOT_STAMPED = {"files", "started_at", "wall_seconds"}  # equal commands give equal bytes
_MADE_BY = {"made_by": "synboot"}


@dataclass(frozen=True)
class Outcome:
    """What a verb leaves: its output, the id that the output answers to, what was counted."""

    path: Path
    id: str
    counts: Mapping[str, Any]
    text: str = ""
    """What a person is shown instead of the counts."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"output": str(self.path), "id": self.id, "counts": dict(self.counts)}

    def summary(self) -> str:
        """A few lines for a terminal."""
        rows = [] if self.text else list(_flat(self.counts))
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"{name:{width}}  {value}" for name, value in rows]
        return "\n".join([*([self.text, ""] if self.text else []), *lines, f"output: {self.path}"])


def _flat(counts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in counts.items():
        label = f"{before}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label} ")
        elif isinstance(value, float):
            yield label, f"{value:,.4f}"
        elif isinstance(value, int):
            yield label, f"{value:,}" if abs(value) < 10**15 else f"{value:.2e}"
        elif value is not None and not isinstance(value, list):
            yield label, str(value)


Publish = Callable[[Mapping[str, Artifact], dict[str, Any]], None]
"""`publish(finished artifacts by stage id, stamp)` puts the output in its place, atomically."""


def complete(
    verb: str,
    output: Path,
    stages: Sequence[Stage],
    publish: Publish,
    *,
    workers: int,
    overwrite: bool,
    quiet: bool,
    notice: str | None = None,
    choice: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Outcome:
    """Bring `stages` to their end and `output` into its place; the last stage is the output's.

    What an earlier start of the same command finished is not done again. `choice`: what of the
    stage's artifact becomes the output, a part of its id; `facts` go into the stamp only; `notice`
    is said before work begins. Raises BadInput if `output` is there already and is not ours, or is
    ours and answers to something else (unless `overwrite`); nothing of the user's is ever replaced.
    """
    last = stages[-1]
    identity = digest({"stage": last.id, **choice}) if choice else last.id
    display: Display = QuietDisplay() if quiet else display_for(sys.stderr)
    folder = partial_folder(output)
    _check_partial(folder)
    stamp = read_stamp(output)
    if stamp is not None and not overwrite and stamp.get("id") != identity:
        raise BadInput(
            f"{output}: was made by synboot {stamp.get('verb')} with other settings or from other "
            "inputs; name another output, or say --overwrite"
        )
    if stamp is not None and stamp.get("id") == identity:
        changed = _changed_file(output, stamp)
        if changed is None:
            display.message(f"{output}: done before")
            _tidy(folder, identity)
            return Outcome(output, identity, stamp["counts"])
        if not overwrite:
            raise BadInput(
                f"{changed}: is missing or was changed; say --overwrite to make it again"
            )
    begin_work(output)
    with exclusive_lock(folder / "work.lock", output), own_threads():
        write_json(folder / _MARK, {**_MADE_BY, "output": output.name, "id": identity})
        for leftover in output.parent.glob(f".{output.name}.*.tmp"):
            if re.fullmatch(r"\d+", leftover.name.split(".")[-2]):  # of a killed publication
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        events = EventLog(folder / "events.jsonl")
        runner = Runner(folder / "artifacts", workers, events, display)
        if notice is not None:
            display.message(notice)
        try:
            artifacts = runner.run(stages)
        except SynbootError:
            if not _is_worth_keeping(folder):
                _remove(folder)
            raise
        manifests = [artifacts[stage.id].manifest for stage in stages]
        stamp = {
            **_MADE_BY,
            "verb": verb,
            "id": identity,
            "counts": artifacts[last.id].counts,
            **(choice or {}),
            **(facts or {}),
            "stages": [{k: v for k, v in m.items() if k not in _NOT_STAMPED} for m in manifests],
        }
        publish(artifacts, stamp)
        events.emit("output_done", stage=last.name, id=last.id)
        _remove(folder)
    return Outcome(output, identity, stamp["counts"])


def partial_folder(output: Path) -> Path:
    """Where the unfinished work of an output lies."""
    return output.with_name(output.name + ".partial")


def begin_work(output: Path) -> Path:
    """Make the folder of an output's unfinished work and mark it as ours, unless it is there.

    Raises BadInput if the output, or what stands where the folder would, is not ours.
    """
    folder = partial_folder(output)
    read_stamp(output)
    _check_partial(folder)
    if not (folder / _MARK).is_file():
        write_json(folder / _MARK, {**_MADE_BY, "output": output.name})
    return folder


def read_stamp(output: Path) -> dict[str, Any] | None:
    """The stamp of a finished output; None where nothing is there (or an empty directory).

    Raises BadInput for a file or a directory that is not ours.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    stamp = model_stamp(output) if output.is_dir() else _file_stamp(output)
    if stamp is None:
        raise BadInput(
            f"{output}: is there already and was not made by synboot; name another output"
        )
    return stamp


def model_stamp(directory: Path) -> dict[str, Any] | None:
    """The stamp of a directory that a verb made, else None."""
    try:
        stamp = read_json(directory / MANIFEST)
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) and stamp.get("made_by") == "synboot" else None


def _file_stamp(file: Path) -> dict[str, Any] | None:
    if file.suffix == ".json":
        return _json_stamp(file)
    try:
        stamp = json.loads((pq.read_schema(file).metadata or {})[STAMP_KEY])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def _json_stamp(file: Path) -> dict[str, Any] | None:
    try:
        stamp = read_json(file)[STAMP_KEY.decode()]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stamp if isinstance(stamp, dict) and stamp.get("made_by") == "synboot" else None


def publish_json(name: str, value: object, output: Path, stamp: Mapping[str, Any]) -> None:
    """The JSON file `output`: `value` by its name, and the stamp."""
    write_json(output, {name: value, STAMP_KEY.decode(): stamp})


def publish_parquet(source: Path, output: Path, stamp: Mapping[str, Any]) -> None:
    """Copy the Parquet file `source` to `output`, with the stamp in its metadata."""
    file = pq.ParquetFile(source)
    schema = file.schema_arrow
    encoded = json.dumps(stamp, ensure_ascii=False).encode()
    schema = schema.with_metadata({**(schema.metadata or {}), STAMP_KEY: encoded})
    with atomic_file(output) as target, pq.ParquetWriter(target, schema) as writer:
        for batch in file.iter_batches():
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def publish_directory(output: Path, stamp: Mapping[str, Any], fill: Callable[[Path], None]) -> None:
    """A directory that `fill` filled, with the stamp, and its files' checksums, as manifest.json.

    Raises BadInput if the directory that it replaces holds files that are not ours.
    """
    old = model_stamp(output) or {}
    ours = {MANIFEST, *old.get("files", {})}
    there = (path for path in output.rglob("*") if path.is_file())
    foreign = sorted({path.relative_to(output).as_posix() for path in there} - ours)
    if foreign:
        raise BadInput(f"{output}: holds {foreign[0]}, which synboot did not make; move it away")
    with atomic_directory(output) as directory:
        fill(directory)
        write_json(directory / MANIFEST, {**stamp, "files": describe_files(directory)})


def output_path(output: str | Path, *suffixes: str) -> Path:
    """`output` as a path on this machine. Raises BadInput unless it has a name, which ends in one
    of `suffixes` if there are any."""
    path = Path(output)
    if "://" in str(output):
        raise BadInput(f"{output}: expected an output on this machine, not a URL")
    if path.name in ("", ".."):
        raise BadInput(f"{output}: expected an output with a name")
    if suffixes and path.suffix not in suffixes:
        expected = " or ".join(suffixes)
        raise BadInput(f"{path}: expected an output whose name ends in {expected}")
    return path


def _changed_file(output: Path, stamp: Mapping[str, Any]) -> Path | None:
    """A file of a finished directory that is missing or has another size, if there is one."""
    for name, described in stamp.get("files", {}).items():
        file: Path = output / name
        if not file.is_file() or file.stat().st_size != described["bytes"]:
            return file
    return None


def _check_partial(folder: Path) -> None:
    """Raises BadInput if what stands where our unfinished work would is not ours."""
    if not folder.exists():
        return
    try:
        ours = folder.is_dir() and read_json(folder / _MARK).get("made_by") == "synboot"
    except (OSError, ValueError, AttributeError):  # a kill may have come before the mark
        ours = folder.is_dir() and all(p.name.startswith(f".{_MARK}") for p in folder.iterdir())
    if not ours:
        raise BadInput(
            f"{folder}: unfinished work would go there, but it was not made by synboot; "
            "name another output"
        )


def _is_worth_keeping(folder: Path) -> bool:
    """Whether the next start could go on from something: a finished stage, a part, a checkpoint."""
    kept = ("manifest.json", "scratch/parts/[0-9]*", "scratch/checkpoints/step-*")
    return any(any(folder.glob(f"artifacts/*/*/{pattern}")) for pattern in kept)


def _tidy(folder: Path, identity: str) -> None:
    """Remove what a kill left of the work on a finished output, unless another start holds it."""
    if not folder.exists():
        return
    with contextlib.suppress(Incomplete), exclusive_lock(folder / "work.lock", folder):
        if read_json(folder / _MARK).get("id", identity) == identity:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove our work; the mark goes last, so that what a kill leaves is still known as ours."""
    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.name != _MARK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(folder)
