from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from synboot.core.errors import SynbootError
from synboot.worlds import pydocs

SOURCES = str(Path(pydocs.__file__).parents[2])
WRITE = """
from pathlib import Path
from synboot.worlds.pydocs import write_pydocs
Path("count").write_text(str(write_pydocs(Path("pydocs.jsonl"))))
"""
COLLECT = """
import json
from pathlib import Path
from synboot.worlds.pydocs import python_documents
lines = [json.dumps(document, ensure_ascii=False) + "\\n" for document in python_documents()]
Path("pydocs.jsonl").write_text("".join(lines), encoding="utf-8")
"""


def start(code: str, home: Path, *flags: str, **variables: str) -> subprocess.Popen[str]:
    """A fresh interpreter without site-packages, at work in `home`, which is its HOME too."""
    home.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": SOURCES, "HOME": str(home)} | variables
    return subprocess.Popen(
        [sys.executable, "-S", *flags, "-c", code],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `write_pydocs` writes from a process that makes it as hard as a user could.

    Docstrings stripped, in a folder where turtle finds a configuration and that is on the path
    with a module that shadows a standard one.
    """
    home = tmp_path_factory.mktemp("written") / "xq-home"
    home.mkdir()
    (home / "wave.py").write_text("print('shadowed')")
    (home / "turtle.cfg").write_text("visible = nonsense nonsense = nonsense")
    path = os.pathsep.join((str(home), SOURCES))
    process = start(WRITE, home, "-W", "error", PYTHONPATH=path, PYTHONOPTIMIZE="2")
    assert finish(process) == (0, "", "")
    return home / "pydocs.jsonl"


@pytest.fixture(scope="module")
def documents(written: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]


def body(document: dict[str, str]) -> str:
    """The text without its heading."""
    kind = document["id"].partition(":")[0]
    separator = {"topic": "", "module": ": "}.get(kind, "\n\n")
    return document["text"].split(separator, 1)[1] if separator else document["text"]


def test_hash_seed_home_and_process_do_not_change_a_byte(written: Path, tmp_path: Path) -> None:
    homes = [tmp_path / f"seed-{seed}" for seed in (1, 2)]
    processes = [
        start(COLLECT, home, "-W", "error", PYTHONHASHSEED=home.name[-1]) for home in homes
    ]
    assert [finish(process) for process in processes] == [(0, "", "")] * 2
    for home in homes:
        assert (home / "pydocs.jsonl").read_bytes() == written.read_bytes()


def test_count_size_and_order(written: Path, documents: list[dict[str, str]]) -> None:
    assert int((written.parent / "count").read_text()) == len(documents)
    # 2,683 (Debian's 3.11, without tkinter) to 3,010 documents were met on CPython 3.11 to 3.13.
    assert 2_000 < len(documents) < 4_000
    assert 1_400_000 < sum(len(d["text"].encode()) for d in documents) < 2_600_000
    ids = [d["id"] for d in documents]
    assert ids == sorted(set(ids))
    kinds = Counter(i.partition(":")[0] for i in ids)
    assert min(kinds[kind] for kind in ("class", "function", "method", "module", "topic")) > 50


def test_every_document_has_the_fields(documents: list[dict[str, str]]) -> None:
    for document in documents:
        assert list(document) == ["id", "text", "group", "source", "license"]
        assert all(type(value) is str and value for value in document.values())
        assert document["source"] == "python-stdlib-docs"
        assert document["license"] == "PSF-2.0"


def test_no_docstring_is_short_or_counted_twice(documents: list[dict[str, str]]) -> None:
    bodies = [body(d) for d in documents]
    assert len(set(bodies)) == len(bodies)
    assert min(map(len, bodies)) >= pydocs.MIN_DOCSTRING_CHARACTERS


def test_text_does_not_name_this_machine(written: Path, documents: list[dict[str, str]]) -> None:
    text = "\n".join(d["text"] for d in documents)
    assert " at 0x" not in text
    for place in (written.parent.name, SOURCES, sys.executable, str(Path(os.__file__).parent)):
        assert place not in text
    assert Path.home() == Path("/") or f"{Path.home()}/" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff]", text)


def test_text_is_heading_and_docstring(documents: list[dict[str, str]]) -> None:
    texts = {d["id"]: d["text"] for d in documents}
    assert texts["function:json.dumps"].startswith("json.dumps(obj, *, skipkeys=False, ")
    assert texts["function:json.dumps"].endswith(
        "\n\n" + inspect.cleandoc(json.dumps.__doc__ or "").strip()
    )
    assert texts["class:functools.partialmethod"].startswith("class functools.partialmethod(func")
    assert texts["module:json"].startswith("json: JSON (JavaScript Object Notation)")
    assert texts["method:builtins.str.split"].startswith(
        "str.split(self, /, sep=None, maxsplit=-1)"
    )
    assert "for_stmt" in texts["topic:for"]


def test_groups(documents: list[dict[str, str]]) -> None:
    groups = {d["id"]: d["group"] for d in documents}
    topics = [i for i in groups if i.startswith("topic:")]
    assert Counter(groups.values()) | Counter(topics) == Counter(groups.values())
    assert all(groups[i] == i for i in topics)
    modules_of: dict[str, set[str]] = {}
    for identity, group in groups.items():
        modules_of.setdefault(group, set()).add(re.split("[:.]", identity)[1])
    assert all(len(modules_of[i]) == 1 for i in topics)
    for twins in (
        {"posixpath", "ntpath"},
        {"_pickle", "pickle"},
        {"_io", "_pyio"},
        {"socket", "_socket"},
        {"heapq", "_heapq"},
        {"bz2", "lzma", "_bz2"},
    ):
        assert any(twins <= modules for modules in modules_of.values()), twins
    # Nothing else of one module lies in two groups.
    assert sum(map(len, modules_of.values())) - len(topics) == len(
        {re.split("[:.]", i)[1] for i in groups if i not in topics}
    )


def test_programs_and_tests_are_not_documents(documents: list[dict[str, str]]) -> None:
    names = {part for d in documents for part in d["id"].partition(":")[2].split(".")}
    modules = {d["id"] for d in documents if d["id"].startswith("module:")}
    assert not {"antigravity", "idlelib", "turtledemo", "__main__"} & names
    assert not {m for m in modules if re.search(r"\b(test|tests|this)\b", m)}


def test_stripped_docstrings_are_bad_input(tmp_path: Path) -> None:
    code = COLLECT.replace("import json", "import json, synboot.core.errors as e", 1).replace(
        "lines =",
        "try: python_documents()\nexcept e.BadInput as x: raise SystemExit(str(x))\nlines =",
    )
    status, _, err = finish(start(code, tmp_path / "home", "-OO"))
    assert status == 1
    assert err.startswith("this Python has no docstrings")
    assert "-OO" in err


def test_failing_child_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho half a line\necho the reason >&2\nexit 3\n")
    python.chmod(0o755)
    for executable, expected in (
        (str(python), r"\(status 3\): the reason"),
        (str(tmp_path / "missing"), "missing"),
        ("", "sys.executable is empty"),
    ):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(SynbootError, match=expected):
            pydocs.write_pydocs(tmp_path / "out" / "pydocs.jsonl")
    assert not (tmp_path / "out").exists()


def test_fingerprint_names_version_and_world(monkeypatch: pytest.MonkeyPatch) -> None:
    name = pydocs.fingerprint()
    assert name == pydocs.fingerprint()
    assert re.fullmatch(r"[\w.+-]+", name)
    seen = {name}
    monkeypatch.setattr(pydocs, "WORLD_VERSION", pydocs.WORLD_VERSION + 1)
    seen.add(pydocs.fingerprint())
    monkeypatch.setattr(sys, "version", sys.version + " (another build)")
    seen.add(pydocs.fingerprint())
    assert len(seen) == 3
