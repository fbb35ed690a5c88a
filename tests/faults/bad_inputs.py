"""Bad inputs, and what the program says of each: the cases behind docs/bad-input.md.

    python bad_inputs.py > docs/bad-input.md

runs them all and writes the page; test_bad_input.py compares the page with the program.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from program import Program

HERE = Path(__file__).parent
NOTHING = "nothing new"
RECIPE = {
    "corpus": {"path": "corpus.jsonl"},
    "tokenizer": {"vocab_size": 384},
    "budget": {"unique_tokens": 2000, "training_tokens": 4000},
    "model": {"preset": "0.6m", "context": 64},
    "pretrain": {"learning_rate": 1e-3, "batch_rows": 8},
    "tune": {"learning_rate": 1e-3, "batch_rows": 8},
    "pairs": {"dimensions": 8},
}
"""YAML reads JSON."""


def lines(*records: object) -> bytes:
    """JSON lines; bytes stand for themselves."""
    return b"".join(
        (r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records
    )


def good(number: int) -> dict[str, str]:
    """A document of its own words."""
    words = [f"w{number}x{place}" for place in range(20)]
    return {"id": f"d{number}", "text": " ".join(["these", "are", *words])}


def recipe(**sections: dict[str, object] | None) -> bytes:
    """The recipe with some sections changed."""
    merged = {**RECIPE}
    for name, values in sections.items():
        merged[name] = {**RECIPE.get(name, {}), **(values or {})}
    return json.dumps(merged).encode()


@dataclass(frozen=True)
class Case:
    """One bad input: files to make, the command, what is to be found on disk afterwards."""

    what: str
    command: str
    files: dict[str, bytes | Callable[[Path], None]]
    afterwards: str = NOTHING
    exit_code: int = 2
    run_with: tuple[str, ...] = ()


def _read_only(path: Path) -> None:
    path.mkdir()
    path.chmod(0o555)


def _own_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


DOCUMENTS = lines(*(good(i) for i in range(12)))
PAIR = "pair corpus.jsonl -o pairs.parquet"
WITHOUT_PRIVILEGE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def _corpus(what: str, *records: object, command: str = PAIR) -> Case:
    return Case(what, command, {"corpus.jsonl": lines(*records)})


CASES = [
    _corpus("broken JSON line", good(0), b'{"id": "d1", "text": "never clo'),
    _corpus("missing field", good(0), {"id": "d1", "body": "text under another name"}),
    _corpus("wrong type", good(0), {"id": "d1", "text": 17}),
    _corpus("invalid UTF-8", good(0), b'{"id": "d1", "text": "caf\xe9"}'),
    Case("empty file", PAIR, {"corpus.jsonl": b""}),
    _corpus("empty text", good(0), {"id": "d1", "text": " "}),
    _corpus("duplicate ids", good(0), good(1), {**good(2), "id": "d0"}),
    _corpus(
        "a document above the limit",
        good(0),
        {"id": "d1", "text": "long " * 1000},
        command=f"{PAIR} --max-document-bytes 4000",
    ),
    Case("no such file", "pair nowhere.jsonl -o pairs.parquet", {}),
    Case("a file of another kind", "pair corpus.docx -o pairs.parquet", {"corpus.docx": b"PK"}),
    Case(
        "a cut file",
        "pair corpus.parquet -o pairs.parquet",
        {"corpus.parquet": b"PAR1 and nothing more"},
    ),
    Case(
        "a pair that names an unknown document",
        "tune pairs.jsonl -o synthesizer --corpus corpus.jsonl --model model",
        {
            "corpus.jsonl": DOCUMENTS,
            "pairs.jsonl": lines({"d1": "d0", "d2": "d1"}, {"d1": "d0", "d2": "d99"}),
            "model": lambda path: small_model(path),
        },
        "synthesizer.partial, from which the mended command goes on",
    ),
    Case(
        "a synthetic document whose seed is unknown",
        "quality synthetic.jsonl -o quality.json --corpus corpus.jsonl",
        {
            "corpus.jsonl": DOCUMENTS,
            "synthetic.jsonl": lines(
                {"text": "made of the first", "seed_id": "d0"},
                {"text": "made of nobody knows what", "seed_id": "d99"},
            ),
        },
        "quality.json.partial, from which the mended command goes on",
    ),
    Case(
        "a judge whose key is not set",
        "quality corpus.jsonl -o quality.json --corpus corpus.jsonl --judge endpoint:reader "
        "--judge-url http://127.0.0.1:9/v1 --judge-key-variable NO_SUCH_KEY",
        {"corpus.jsonl": DOCUMENTS},
        "quality.json.partial, from which the mended command goes on",
    ),
    Case(
        "a model directory without weights",
        "evaluate model corpus.jsonl -o scores.parquet",
        {"corpus.jsonl": DOCUMENTS, "model": lambda path: path.mkdir()},
    ),
    Case(
        "an item whose right choice is not there",
        "evaluate model --task quiz.jsonl -o answers.parquet",
        {
            "quiz.jsonl": lines(
                {"query": "What is wet?", "choices": ["fire", "water"], "gold": 1},
                {"query": "What is hot?", "choices": ["fire", "water"], "gold": 2},
            ),
            "model": lambda path: small_model(path),
        },
    ),
    Case(
        "a task file of a recipe that is missing",
        "run recipe.yaml --set evaluate.tasks.quiz=quiz.jsonl",
        {"corpus.jsonl": DOCUMENTS, "recipe.yaml": recipe()},
    ),
    Case(
        "unknown recipe key",
        "run recipe.yaml",
        {"corpus.jsonl": DOCUMENTS, "recipe.yaml": recipe(pairs={"min_similarty": 0.2})},
    ),
    Case(
        "value out of range",
        "run recipe.yaml --set budget.synthetic_share=1.5",
        {"corpus.jsonl": DOCUMENTS, "recipe.yaml": recipe()},
    ),
    Case(
        "contradictory recipe",
        "run recipe.yaml",
        {"corpus.jsonl": DOCUMENTS, "recipe.yaml": recipe(corpus={"world": "pydocs"})},
    ),
    Case(
        "a context too short for any pair",
        "run recipe.yaml --set model.context=12",
        {"corpus.jsonl": DOCUMENTS, "recipe.yaml": recipe()},
    ),
    Case(
        "a threshold that leaves no pair",
        f"{PAIR} --min-similarity 0.99",
        {"corpus.jsonl": DOCUMENTS},
        "pairs.parquet.partial, from which another threshold goes on",
    ),
    Case(
        "an output file that is not ours",
        PAIR,
        {"corpus.jsonl": DOCUMENTS, "pairs.parquet": b"a file of the user's"},
        "the user's file as it was",
    ),
    Case(
        "an output directory that is not ours",
        "split corpus.jsonl -o mine",
        {"corpus.jsonl": DOCUMENTS, "mine": _own_folder},
        "the user's directory as it was",
    ),
    Case(
        "a full disk",
        f"{PAIR} --min-similarity -1",
        {"corpus.jsonl": DOCUMENTS},
        "pairs.parquet.partial, from which the same command goes on",
        1,
        (sys.executable, str(HERE / "full_disk.py"), "9"),
    ),
    Case(
        "a read-only directory",
        "pair corpus.jsonl -o folder/pairs.parquet",
        {"corpus.jsonl": DOCUMENTS, "folder": _read_only},
        exit_code=1,
        run_with=(*WITHOUT_PRIVILEGE, sys.executable, "-m", "synboot.cli"),
    ),
]


def small_model(directory: Path) -> None:
    """A model directory of a few kilobytes."""
    from synboot.data.tokenizer import train_tokenizer
    from synboot.model.architecture import new_model, save_model
    from synboot.model.settings import Shape

    tokenizer = train_tokenizer([good(i)["text"] for i in range(12)], 300)
    shape = Shape(1, 16, 2, 1, 8, 32)
    save_model(
        new_model(
            shape, vocab_size=tokenizer.vocab_size, context=64, end_id=tokenizer.end_id, seed=0
        ),
        directory,
    )
    tokenizer.save(directory)


def prepare(case: Case, folder: Path) -> None:
    """Make the files of a case."""
    for name, content in case.files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            content(folder / name)


def run(case: Case, folder: Path, program: Program) -> subprocess.CompletedProcess[str]:
    """Run the command of a case in `folder`."""
    arguments = shlex.split(case.command)
    if not case.run_with:
        return program(*arguments, folder=folder)
    command = case.run_with
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        command = command[2:] if command[: len(WITHOUT_PRIVILEGE)] == WITHOUT_PRIVILEGE else command
    source = str(HERE.parents[1] / "src")
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def message(outcome: subprocess.CompletedProcess[str]) -> str:
    """What the program says at its end, without what may differ between machines."""
    last = (outcome.stderr.strip().splitlines() or [""])[-1]
    return re.sub(r"\.\d+\.tmp\b", ".PID.tmp", last)


def page() -> str:
    """docs/bad-input.md."""
    rows = []
    program = Program()
    for case in CASES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(case, folder)
            outcome = run(case, folder, program)
            said = message(outcome).replace("|", "\\|")
            rows.append(
                f"| {case.what} | `synboot {case.command}` | `{said}` | {outcome.returncode} "
                f"| {case.afterwards} |"
            )
            for path in folder.iterdir():
                path.chmod(0o755 if path.is_dir() else 0o644)
    program.close()
    return (
        "# Bad input\n\n"
        "What the program says of input that it cannot use: one line on stderr, exit code 2 (1 for "
        "the disk), no output that looks finished, nothing of the user's overwritten. "
        "`python tests/faults/bad_inputs.py > docs/bad-input.md` makes this page by running every "
        "command; a test compares each row.\n\n"
        "| input | command | message | exit code | on disk afterwards |\n"
        "|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    sys.stdout.write(page())
