"""Law 2: files first, `manifest.json` last; without it nothing exists; one writer at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import synboot
from synboot.core.errors import Incomplete, SynbootError
from synboot.core.events import EventLog, QuietDisplay
from synboot.core.storage import exclusive_lock, read_json
from synboot.pipeline.runner import Runner
from synboot.pipeline.stage import MANIFEST, Artifact, Context, Counts, Stage

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

from toy import Toy

Fault = Callable[[Path], None]


def nothing(directory: Path) -> None:
    """No fault."""


class Files(Stage):
    """Writes three files, one of them deep below; `fault` happens after the first."""

    name = "files"
    version = 3

    def __init__(self, fault: Fault = nothing) -> None:
        super().__init__({"size": 100}, {}, seed=5, numerics={"threads": 2}, label="three files")
        self.fault = fault

    def num_parts(self, context: Context) -> int:
        return 2

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        (directory / "part").write_text(str(index))
        return {}

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        (context.directory / "a").write_bytes(b"a" * 100)
        self.fault(context.directory)
        (context.directory / "deep" / "er").mkdir(parents=True)
        (context.directory / "deep" / "b").write_bytes(b"b" * 200)
        (context.directory / "deep" / "er" / "c").write_bytes(b"")
        return {"files": 3}


def run(store: Path, fault: Fault = nothing) -> Artifact:
    stage = Files(fault)
    return Runner(store, 1, EventLog(None), QuietDisplay()).run([stage])[stage.id]


def files_below(directory: Path) -> list[str]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return sorted(path.relative_to(directory).as_posix() for path in paths)


class TestManifest:
    def test_lists_every_file_with_its_checksum(self, tmp_path: Path) -> None:
        artifact = run(tmp_path)
        assert files_below(artifact.path) == ["a", "deep/b", "deep/er/c", MANIFEST]
        content = {"a": b"a" * 100, "deep/b": b"b" * 200, "deep/er/c": b""}
        assert artifact.manifest["files"] == {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in content.items()
        }

    def test_says_what_was_made_of_what_by_what(self, tmp_path: Path) -> None:
        before = time.time()
        artifact = run(tmp_path)
        manifest = read_json(artifact.path / MANIFEST)
        assert manifest == artifact.manifest
        assert manifest["id"] == Files().id
        assert (manifest["stage"], manifest["version"], manifest["seed"]) == ("files", 3, 5)
        assert (manifest["label"], manifest["config"]) == ("three files", {"size": 100})
        assert manifest["inputs"] == {}
        assert manifest["numerics"] == {"threads": 2}
        assert manifest["counts"] == artifact.counts == {"files": 3}
        assert manifest["versions"]["python"] == platform.python_version()
        assert manifest["versions"]["synboot"] == synboot.__version__
        assert before - 0.001 <= manifest["started_at"] <= time.time()
        assert 0 <= manifest["wall_seconds"] <= time.time() - before + 0.001

    def test_inputs_by_id(self, tmp_path: Path) -> None:
        source = Files()

        class After(Files):
            name = "after"

            def __init__(self) -> None:
                Stage.__init__(self, {}, {"before": source}, seed=0)
                self.fault = nothing

        stage = After()
        found = Runner(tmp_path, 1, EventLog(None), QuietDisplay()).run([source, stage])
        assert found[stage.id].manifest["inputs"] == {"before": source.id}

    def test_everything_is_on_the_disk_before_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []
        fsync, replace = os.fsync, os.replace

        def note_fsync(fd: int) -> None:
            synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
            fsync(fd)

        def note_replace(source: Path, target: Path) -> None:
            if target.name == MANIFEST:
                assert str(source) in synced
                folder = target.parent
                wanted = ["a", "deep/b", "deep/er/c", "", "deep", "deep/er"]
                missing = {str(folder / name) for name in wanted} - set(synced)
                assert not missing
                synced.clear()
            replace(source, target)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "replace", note_replace)
        artifact = run(tmp_path)
        assert synced == [str(artifact.path)], "the manifest's name itself"


class TestReaders:
    def test_without_a_manifest_nothing_exists(self, tmp_path: Path) -> None:
        artifact = run(tmp_path)
        runner = Runner(tmp_path, 1, EventLog(None), QuietDisplay())
        assert Artifact.open(artifact.path) == runner.artifact(Files()) == artifact
        (artifact.path / MANIFEST).rename(artifact.path / ".manifest.json.123.tmp")
        assert Artifact.open(artifact.path) is None
        assert runner.artifact(Files()) is None
        assert Artifact.open(tmp_path / "nowhere") is None
        again = run(tmp_path)
        assert again.manifest["files"] == artifact.manifest["files"]
        assert files_below(again.path) == ["a", "deep/b", "deep/er/c", MANIFEST]

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.write_bytes(b"b" * 199),
            lambda path: path.write_bytes(b"b" * 201),
            lambda path: path.unlink(),
            lambda path: shutil.rmtree(path.parent),
        ],
        ids=["cut short", "longer", "gone", "folder gone"],
    )
    def test_a_damaged_file_is_named_with_the_remedy(
        self, tmp_path: Path, damage: Callable[[Path], object]
    ) -> None:
        artifact = run(tmp_path)
        damage(artifact.path / "deep" / "b")
        with pytest.raises(SynbootError) as error:
            run(tmp_path)
        assert str(error.value) == (
            f"{artifact.path}/deep/b is missing or cut short; "
            f"remove {artifact.path} to have it made again"
        )
        assert error.value.exit_code == 1
        shutil.rmtree(artifact.path)
        assert run(tmp_path).manifest["files"] == artifact.manifest["files"]

    @pytest.mark.parametrize(
        "text", ["", "{", "null", "[]", "{}", '{"files": [1]}', '{"files": {"a": {}}}', "\0\0"]
    )
    def test_a_damaged_manifest_is_named_with_the_remedy(self, tmp_path: Path, text: str) -> None:
        artifact = run(tmp_path)
        (artifact.path / MANIFEST).write_text(text)
        with pytest.raises(SynbootError) as error:
            run(tmp_path)
        assert str(error.value).startswith(f"{artifact.path / MANIFEST} is damaged")
        assert str(error.value).endswith(f"remove {artifact.path} to have it made again")


def full_disk(directory: Path) -> None:
    with (directory / "half").open("wb") as file:
        file.write(b"half of what was to be wr")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def bug(directory: Path) -> None:
    (directory / "folder" / "deeper").mkdir(parents=True)
    (directory / "folder" / "deeper" / "half").touch()
    (directory / "link").symlink_to("folder")
    raise ZeroDivisionError


def ctrl_c(directory: Path) -> None:
    raise KeyboardInterrupt


class TestFailures:
    @pytest.mark.parametrize(
        ("fault", "error"),
        [(full_disk, OSError), (bug, ZeroDivisionError), (ctrl_c, KeyboardInterrupt)],
    )
    def test_of_finish_leave_nothing_that_looks_finished(
        self, tmp_path: Path, fault: Fault, error: type[BaseException]
    ) -> None:
        with pytest.raises(error):
            run(tmp_path, fault)
        assert Artifact.open(Files().directory(tmp_path)) is None
        assert not [name for name in files_below(tmp_path) if ".tmp" in name or MANIFEST in name]
        artifact = run(tmp_path)
        assert files_below(artifact.path) == ["a", "deep/b", "deep/er/c", MANIFEST]
        assert set(artifact.manifest["files"]) == {"a", "deep/b", "deep/er/c"}

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_of_the_disk_while_the_manifest_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        real = getattr(os, call)

        def fail(subject: Any, *rest: Any) -> None:
            path = Path(f"/proc/self/fd/{subject}").readlink() if call == "fsync" else subject
            if MANIFEST in path.name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(subject, *rest)

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space"):
            run(tmp_path)
        assert Artifact.open(Files().directory(tmp_path)) is None
        assert not [name for name in files_below(tmp_path) if ".tmp" in name or MANIFEST in name]
        monkeypatch.undo()
        assert run(tmp_path).counts == {"files": 3}

    def test_counts_that_are_no_json_finish_nothing(self, tmp_path: Path) -> None:
        class NotANumber(Files):
            def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
                return super().finish(context, parts) | {"loss": float("nan")}

        with pytest.raises(ValueError, match="JSON compliant"):
            Runner(tmp_path, 1, EventLog(None), QuietDisplay()).run([NotANumber()])
        assert not [name for name in files_below(tmp_path) if MANIFEST in name]

    def test_a_stage_that_writes_nothing_has_failed(self, tmp_path: Path) -> None:
        class Nothing(Files):
            def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
                return {}

        with pytest.raises(SynbootError, match="three files wrote no file"):
            Runner(tmp_path, 1, EventLog(None), QuietDisplay()).run([Nothing()])
        assert Artifact.open(Nothing().directory(tmp_path)) is None


class TestOneWriter:
    def test_another_process_ends_with_exit_code_4(self, tmp_path: Path) -> None:
        toy = Toy(tmp_path)
        directory = toy.directory()
        with exclusive_lock(directory.with_name(directory.name + ".lock")):
            code, errors = toy.run()
            assert code == Incomplete.exit_code == 4
            assert errors == f"another process is writing {directory}\n"
            assert toy.executions() == []
            assert not directory.exists()
        assert toy.run()[0] == 0

    def test_of_two_runs_one_writes(self, tmp_path: Path) -> None:
        toy = Toy(tmp_path)
        with toy.start(faults={"part 1": "wait"}) as first:
            while "part 1" not in toy.executions():
                assert first.poll() is None
                time.sleep(0.02)
            before = files_below(toy.store)
            assert toy.run()[0] == 4
            assert files_below(toy.store) == before
            (tmp_path / "side" / "go on").touch()
            first.communicate(timeout=20)
        assert first.returncode == 0
        executions = toy.executions()
        assert toy.run()[0] == 0
        assert toy.executions() == executions, "the third run found everything done"
        assert toy.parts_run() == list(range(6))

    def test_runs_that_share_leave_to_each_other_what_they_are_at(self, tmp_path: Path) -> None:
        """The second one waits for the first's part, and both end well."""
        toy = Toy(tmp_path)
        with toy.start(faults={"part 1": "wait"}, share=True) as first:
            while "part 1" not in toy.executions():
                assert first.poll() is None
                time.sleep(0.02)
            with toy.start(share=True) as second:
                time.sleep(0.5)
                assert second.poll() is None
                (tmp_path / "side" / "go on").touch()
                assert second.communicate(timeout=20) == ("", "")
                first.communicate(timeout=20)
        assert (first.returncode, second.returncode) == (0, 0)
        assert toy.parts_run() == list(range(6))

    def test_a_reader_needs_no_lock(self, tmp_path: Path) -> None:
        artifact = run(tmp_path)
        lock = artifact.path.with_name(artifact.path.name + ".lock")
        assert not lock.exists()
        with exclusive_lock(lock):
            assert run(tmp_path).path == artifact.path
            assert json.loads((artifact.path / MANIFEST).read_text())["id"] == Files().id
