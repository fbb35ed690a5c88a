"""Every row of docs/bad-input.md: message, exit code, and what is on disk afterwards."""

from __future__ import annotations

import importlib.util
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _load():
    spec = importlib.util.spec_from_file_location(
        "bad_inputs", Path(__file__).parent / "bad_inputs.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["bad_inputs"] = module
    spec.loader.exec_module(module)
    return module


bad_inputs = _load()
ROWS = {
    row[0]: row
    for line in (ROOT / "docs" / "bad-input.md").read_text(encoding="utf-8").splitlines()
    if len(row := re.split(r"(?<!\\) ?\| ?", line)[1:-1]) == 5
}


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_page_has_every_case() -> None:
    assert [name for name in ROWS if name not in ("input", "---")] == [
        case.what for case in bad_inputs.CASES
    ]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    """What each case came to: (process, files before, files after); two run at a time."""

    folders = [tmp_path_factory.mktemp("case") for _ in bad_inputs.CASES]  # not safe in threads

    def outcome(case, folder: Path) -> tuple:
        bad_inputs.prepare(case, folder)
        before = snapshot(folder)
        process = bad_inputs.run(case, folder)
        for path in folder.iterdir():
            path.chmod(0o755 if path.is_dir() else 0o644)
        return process, before, snapshot(folder)

    with ThreadPoolExecutor(2) as threads:
        found = threads.map(outcome, bad_inputs.CASES, folders)
        return dict(zip((case.what for case in bad_inputs.CASES), found, strict=True))


@pytest.mark.parametrize("case", bad_inputs.CASES, ids=lambda case: case.what)
def test_bad_input(case, outcomes: dict[str, tuple]) -> None:
    process, before, after = outcomes[case.what]
    _, command, said, exit_code, afterwards = ROWS[case.what]
    assert command == f"`synboot {case.command}`"
    assert said.replace("\\|", "|") == f"`{bad_inputs.message(process)}`", process.stderr
    assert process.returncode == case.exit_code == int(exit_code)
    assert afterwards == case.afterwards
    assert "Traceback" not in process.stderr
    assert {name: after.get(name) for name in before} == before, "a file of the user's changed"
    new = sorted({name.split("/")[0] for name in after} - {name.split("/")[0] for name in before})
    assert new == re.findall(r"\S+\.partial", afterwards)
