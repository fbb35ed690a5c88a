"""Law 11: imports point downward, siblings stay apart, no import hides inside a function."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "synboot").rglob("*.py"))

# Where an import inside a function is right, and why.
LAZY = {
    "cli.py": "verbs load what they need, so that --help is fast",
    "pairs/encoders/sentence_transformers.py": "an optional dependency, with an install hint",
    "eval/harness.py": "an optional dependency, with an install hint",
    "core/events.py": "rich is loaded only where there is a terminal to draw on",
    "experiment/run.py": "drawing takes a second to import, and most commands draw nothing",
    "model/architecture.py": "transformers' model code takes a second, for new models alone",
    "pairs/encoders/lsa.py": "scikit-learn takes a second, where lsa is not asked for too",
    "train/compiled.py": "inductor takes a second or two, where nothing is trained too",
}


def test_contracts_hold() -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout
    assert "0 broken" in outcome.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_no_import_inside_a_function(path: Path) -> None:
    name = path.relative_to(ROOT / "src" / "synboot").as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = [
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert not inside or name in LAZY, f"{name} imports inside a function at lines {inside}"


def test_package_files_export_nothing() -> None:
    for path in SOURCES:
        if path.name == "__init__.py" and path.parent.name != "synboot":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert len(body) == 1, f"{path} holds more than its docstring"


def test_importing_synboot_loads_no_torch() -> None:
    code = "import sys, synboot, synboot.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_recipe_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("model: {preset: none}\n")
    code = (
        "import sys\nfrom synboot.cli import main\n"
        "try: main()\nfinally: print('torch' in sys.modules)"
    )
    for verb in ("run", "status", "plan", "search"):
        command = [sys.executable, "-c", code, verb, "wrong.yaml"]
        outcome = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert outcome.returncode == 2
        (said,) = outcome.stderr.splitlines()
        assert "field corpus: Field required" in said
        assert outcome.stdout == "False\n"


def test_files_stay_small() -> None:
    long = {p.name: n for p in SOURCES if (n := len(p.read_text().splitlines())) > 420}
    assert not long
