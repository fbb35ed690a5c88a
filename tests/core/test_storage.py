from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from synboot.core.errors import Incomplete
from synboot.core.storage import (
    atomic_directory,
    atomic_file,
    canonical_json,
    damaged_files,
    describe_files,
    digest,
    exclusive_lock,
    file_checksum,
    read_json,
    remove_leftovers,
    write_json,
)

HOLD = """
import sys, time
from pathlib import Path
from synboot.core.storage import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


class TestCanonicalJson:
    @pytest.mark.parametrize(
        "value",
        [
            Path("/tmp"),
            {1, 2},
            frozenset("a"),
            object(),
            b"bytes",
            bytearray(b"a"),
            1j,
            range(3),
            iter([1]),
            print,
        ],
    )
    def test_refuses_what_has_no_canonical_form(self, value: object) -> None:
        with pytest.raises(TypeError, match=r"value is a .*, which has no canonical form"):
            canonical_json(value)
        with pytest.raises(TypeError, match=r"value\.a\[1\]\.b is a "):
            canonical_json({"a": [0, {"b": value}]})

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_refuses_floats_that_are_no_numbers(self, value: float) -> None:
        with pytest.raises(ValueError, match=r"value\.rate is "):
            canonical_json({"rate": value})

    @pytest.mark.parametrize("key", [1, None, True, 1.5, ("a",), b"a"])
    def test_refuses_keys_that_are_no_text(self, key: object) -> None:
        with pytest.raises(TypeError, match=r"value\.a has the key .*; keys must be str"):
            canonical_json({"a": {key: 1}})

    def test_refuses_numpy_scalars(self) -> None:
        np = pytest.importorskip("numpy")
        for value in (np.float64(0.5), np.int64(1), np.bool_(True), np.zeros(2)):
            with pytest.raises(TypeError, match="no canonical form"):
                canonical_json(value)

    def test_is_plain_sorted_and_without_spaces(self) -> None:
        assert canonical_json({"b": (1, 2.0), "a": [None, True, "ü\n"]}) == (
            '{"a":[null,true,"ü\\n"],"b":[1,2.0]}'
        )

    def test_digest_is_the_same_on_every_machine(self) -> None:
        assert digest({"a": [1, 2.5, None, "ü"]}) == "96a313cdab3298765ecee70f"
        assert digest({}) == "44136fa355b3678a1146ad16"


class TestAtomicFile:
    def test_writes_bytes_and_text(self, tmp_path: Path) -> None:
        with atomic_file(tmp_path / "new" / "a") as file:
            file.write(b"\x00\xff")
        with atomic_file(tmp_path / "new" / "b", "w") as file:
            file.write("ü\n")
        assert (tmp_path / "new" / "a").read_bytes() == b"\x00\xff"
        assert (tmp_path / "new" / "b").read_bytes() == "ü\n".encode()

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_a_writer_that_raises_leaves_the_old_file(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        path = tmp_path / "a"
        path.write_text("old")

        def write() -> None:
            with atomic_file(path, "w") as file:
                file.write("half of the n")
                file.flush()
                assert path.read_text() == "old"
                raise error

        with pytest.raises(error):
            write()
        assert names(tmp_path) == ["a"]
        assert path.read_text() == "old"

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_full_disk_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        path = tmp_path / "a.json"
        write_json(path, "old")
        monkeypatch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space"):
            write_json(path, "new")
        assert names(tmp_path) == ["a.json"]
        assert read_json(path) == "old"

    def test_is_on_the_disk_before_it_appears(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[str] = []
        fsync, replace = os.fsync, os.replace

        def note_fsync(descriptor: int) -> None:
            done.append("fsync " + str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            fsync(descriptor)

        def note_replace(source: Path, target: Path) -> None:
            done.append(f"replace {source} {target}")
            replace(source, target)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "replace", note_replace)
        with atomic_file(tmp_path / "a") as file:
            file.write(b"x")
            temporary = file.name
        assert done == [
            f"fsync {temporary}",
            f"replace {temporary} {tmp_path / 'a'}",
            f"fsync {tmp_path}",
        ]


class TestAtomicDirectory:
    def test_appears_whole_and_replaces_what_was_there(self, tmp_path: Path) -> None:
        path = tmp_path / "parts" / "000001"
        for text in ("old", "new"):
            with atomic_directory(path) as directory:
                assert directory != path
                (directory / text).mkdir()
                (directory / text / "file").write_text(text)
        assert names(tmp_path / "parts") == ["000001", "000001/new", "000001/new/file"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_a_writer_that_raises_leaves_the_old_directory(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        path = tmp_path / "000001"

        def write(text: str, then: Callable[[], None]) -> None:
            with atomic_directory(path) as directory:
                (directory / "file").write_text(text)
                then()

        def fail() -> None:
            raise error

        write("old", lambda: None)
        with pytest.raises(error):
            write("new", fail)
        assert names(tmp_path) == ["000001", "000001/file"]
        assert (path / "file").read_text() == "old"

    def test_is_on_the_disk_before_it_appears(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: set[str] = set()
        fsync, rename = os.fsync, os.rename

        def note_fsync(descriptor: int) -> None:
            synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            fsync(descriptor)

        def note_rename(source: Path, target: Path) -> None:
            below = {str(path) for path in source.rglob("*")}
            assert len(below) == 3
            assert below | {str(source)} <= synced
            synced.clear()
            rename(source, target)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "rename", note_rename)
        with atomic_directory(tmp_path / "a") as directory:
            (directory / "deep").mkdir()
            (directory / "deep" / "file").write_text("x")
            (directory / "file").write_text("y")
        assert synced == {str(tmp_path)}

    def test_does_not_take_over_what_a_killed_writer_left(self, tmp_path: Path) -> None:
        (tmp_path / f".a.{os.getpid()}.tmp").mkdir()
        (tmp_path / f".a.{os.getpid()}.tmp" / "left").touch()
        with atomic_directory(tmp_path / "a") as directory:
            (directory / "file").touch()
        assert names(tmp_path) == ["a", "a/file"]


class TestJson:
    def test_comes_back_as_it_was(self, tmp_path: Path) -> None:
        value = {"b": [1, 2.5, None, True], "a": {"ü": "\n"}}
        write_json(tmp_path / "a.json", value)
        assert read_json(tmp_path / "a.json") == value
        assert list(read_json(tmp_path / "a.json")) == ["b", "a"]

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_what_json_does_not_know_leaves_the_old_file(
        self, tmp_path: Path, value: float
    ) -> None:
        write_json(tmp_path / "a.json", "old")
        with pytest.raises(ValueError, match="JSON compliant"):
            write_json(tmp_path / "a.json", {"loss": [1.0, value]})
        assert names(tmp_path) == ["a.json"]
        assert read_json(tmp_path / "a.json") == "old"

    def test_a_damaged_file_raises(self, tmp_path: Path) -> None:
        for content in (b"", b'{"a": 1', b"\xff\xfe"):
            (tmp_path / "a.json").write_bytes(content)
            with pytest.raises(ValueError, match=r".+"):
                read_json(tmp_path / "a.json")


class TestDescribedFiles:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        for name in ("b", "a", "deep/er/c", "scratch/x", "deep/scratch/y"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"this is {name}")
        return tmp_path

    def test_every_file_by_name_size_and_checksum(self, directory: Path) -> None:
        described = describe_files(directory, skip="scratch")
        assert list(described) == ["a", "b", "deep/er/c", "deep/scratch/y"]
        assert described["a"] == {"bytes": 9, "sha256": file_checksum(directory / "a")}
        assert list(describe_files(directory)) == [*described, "scratch/x"]

    def test_checksum_is_sha256(self, directory: Path) -> None:
        (directory / "a").write_bytes(b"abc")
        assert file_checksum(directory / "a") == (
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        )

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.unlink(),
            lambda path: path.write_text("this is"),
            lambda path: path.write_text("this is B"),
            lambda path: path.write_text(""),
            lambda path: (path.unlink(), path.mkdir()),
        ],
        ids=["gone", "cut", "changed", "empty", "a directory"],
    )
    def test_damage_is_found(self, directory: Path, damage: Callable[[Path], object]) -> None:
        described = describe_files(directory)
        assert damaged_files(directory, described) == []
        damage(directory / "b")
        assert damaged_files(directory, described) == ["b"]


class TestExclusiveLock:
    def test_one_writer_at_a_time_and_none_after_its_death(self, tmp_path: Path) -> None:
        path = tmp_path / "toy" / "0123.lock"
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None
        with holder:
            assert holder.stdout.readline() == "held\n"
            busy = pytest.raises(Incomplete, match=r"another process is writing .*toy/0123$")
            with busy, exclusive_lock(path):
                pytest.fail("two writers")
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        with exclusive_lock(path):
            pass

    def test_is_freed_when_the_writer_raises(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError), exclusive_lock(tmp_path / "a.lock"):
            raise RuntimeError
        with exclusive_lock(tmp_path / "a.lock"):
            pass


def test_leftovers_of_killed_writers_go_and_nothing_else(tmp_path: Path) -> None:
    kept = ["parts/000001/file", "parts/000001/x.tmp", "saved.json", ".hidden"]
    left = [".saved.json.12.tmp", "parts/.000002.12.tmp/file", "parts/.000002.12.tmp/.x.12.tmp"]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(name))
    remove_leftovers(tmp_path)
    assert [name for name in names(tmp_path) if (tmp_path / name).is_file()] == sorted(kept)
    remove_leftovers(tmp_path / "there is no such directory")
