"""Every row of docs/bad-input.md: message, exit code, and what is on disk afterwards."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import bad_inputs

ROOT = Path(__file__).parents[2]


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
def outcomes(synboot, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    """What each case came to: (process, files before, files after)."""
    found = {}
    for case in bad_inputs.CASES:
        folder = tmp_path_factory.mktemp("case")
        bad_inputs.prepare(case, folder)
        before = snapshot(folder)
        process = bad_inputs.run(case, folder, synboot)
        for path in folder.iterdir():
            path.chmod(0o755 if path.is_dir() else 0o644)
        found[case.what] = process, before, snapshot(folder)
    return found


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
