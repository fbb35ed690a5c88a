"""python -m benchmarks [NAME ...] [--quick] [--threads N]: tables, out/results.json and .svg.

Each benchmark is a module here with `run(setting) -> list[Result]`, and runs in a process of its
own, so that one that fails stops no other. What is in results.json of other benchmarks, of other
numbers of threads, and of full runs where this one is quick, stays. A peer that is not installed is
named and passed over.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import OUT, Result, Setting, note, pin
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
    "cuda",
)


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
        return _run(options.names[0], Setting(options.quick, options.threads, options.out))
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


def _run(name: str, setting: Setting) -> int:
    pin(setting.threads)
    results = importlib.import_module(f"benchmarks.{name}").run(setting)
    if not results:
        return 0
    print(f"| {name} ({setting.threads} threads) | ours | peer | | limit | ratio |")
    print("|---|---|---|---|---|---|")
    for result in results:
        print(_line(result), flush=True)
    rows = _keep(results, setting)
    save_plot(rows, setting.out / "results.svg")
    return 0


def _line(result: Result) -> str:
    limit = "" if result.limit is None else f"{result.limit:.4g}"
    return (
        f"| {result.case} | {result.ours:.4g} {result.unit} | {result.peer:.4g} "
        f"| {result.peer_name} | {limit} | {result.ratio:.2f} |"
    )


def _keep(results: Sequence[Result], setting: Setting) -> list[dict[str, Any]]:
    """Put results in the place of those of the same benchmark, threads and quickness; all rows."""
    path = setting.out / "results.json"
    how = {"threads": setting.threads, "quick": setting.quick}
    rows = [asdict(result) | how for result in results]
    new = {_key(row) for row in rows}
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rows = [row for row in old if row.keys() >= how.keys() and _key(row) not in new] + rows
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, "w") as file:
        file.write(json.dumps(rows, indent=1) + "\n")
    return rows


def _key(row: Mapping[str, Any]) -> tuple[str, int, bool]:
    return row["name"], row["threads"], row["quick"]


if __name__ == "__main__":
    sys.exit(main())
