"""python -m benchmarks [NAME ...] [--quick] [--threads N]: tables, out/results.json and .svg.

Each benchmark is a module here with `run(setting) -> list[Result]`, and runs in a process of its
own, so that one that fails stops no other. What is in results.json of other benchmarks, or of other
numbers of threads, stays. A peer that is not installed is named and passed over.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, Setting, note, pin
from benchmarks.plot import save_plot
from synboot.core.storage import atomic_file

BENCHMARKS = (
    "training",
    "tuning",
    "generation",
    "neighbours",
    "near_duplicates",
    "tokenising",
    "embedding",
    "recipe",
)
OUT = Path(__file__).parent / "out"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="smaller cases, fewer rounds")
    parser.add_argument("--threads", type=int, default=1, help="threads, and cores to run on")
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the results")
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads: expected at least 1, got {options.threads}")
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(
            f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
        )
    if len(options.names) == 1:
        return _run(options.names[0], Setting(options.quick, options.threads), options.out)
    flags = ["--threads", str(options.threads), "--out", str(options.out)]
    flags += ["--quick"] if options.quick else []
    failed = []
    names = options.names or BENCHMARKS
    for number, name in enumerate(names, 1):
        note(f"[{number}/{len(names)}] {name}")
        command = [sys.executable, "-m", "benchmarks", name, *flags]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        note(f"failed: {', '.join(failed)}")
    return int(bool(failed))


def _run(name: str, setting: Setting, out: Path) -> int:
    if importlib.util.find_spec(f"benchmarks.{name}") is None:
        note(f"{name}: there is no benchmarks/{name}.py")
        return 1
    pin(setting.threads)
    results = importlib.import_module(f"benchmarks.{name}").run(setting)
    print(f"| {name} ({setting.threads} threads) | ours | peer | | limit | ratio |")
    print("|---|---|---|---|---|---|")
    for result in results:
        print(_line(result), flush=True)
    rows = _keep(results, setting, out / "results.json")
    save_plot(rows, out / "results.svg")
    return 0


def _line(result: Result) -> str:
    limit = "" if result.limit is None else f"{result.limit:.4g}"
    return (
        f"| {result.case} | {result.ours:.4g} {result.unit} | {result.peer:.4g} "
        f"| {result.peer_name} | {limit} | {result.ratio:.2f} |"
    )


def _keep(results: Sequence[Result], setting: Setting, path: Path) -> list[dict[str, Any]]:
    """Put results in the place of those of the same benchmark and threads; all rows."""
    rows = [asdict(result) | {"threads": setting.threads} for result in results]
    new = {(row["name"], row["threads"]) for row in rows}
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rows = [row for row in old if (row["name"], row["threads"]) not in new] + rows
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, "w") as file:
        file.write(json.dumps(rows, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    sys.exit(main())
