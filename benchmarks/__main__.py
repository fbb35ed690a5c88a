"""python -m benchmarks [NAME ...] [--quick] [--threads N]: results, and out/results.json.

Each benchmark is a module here with `run(setting) -> list[Result]`, and runs in a process of its
own. What is in results.json of other benchmarks, or of other numbers of threads, stays.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness import Result, Setting, pin

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
RESULTS = Path(__file__).parent / "out" / "results.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="smaller cases, fewer rounds")
    parser.add_argument("--threads", type=int, default=1, help="threads, and cores to run on")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {BENCHMARKS}")
    if len(options.names) == 1:
        return _run(options.names[0], Setting(options.quick, options.threads))
    flags = ["--threads", str(options.threads), *(["--quick"] if options.quick else [])]
    codes = [
        subprocess.run([sys.executable, "-m", "benchmarks", name, *flags], check=False).returncode
        for name in options.names or BENCHMARKS
    ]
    return int(any(codes))


def _run(name: str, setting: Setting) -> int:
    pin(setting.threads)
    results = importlib.import_module(f"benchmarks.{name}").run(setting)
    print(f"| {name} ({setting.threads} threads) | ours | peer | | limit | ratio |")
    print("|---|---|---|---|---|---|")
    for result in results:
        print(_line(result), flush=True)
    _keep(results, setting)
    return 0


def _line(result: Result) -> str:
    limit = "" if result.limit is None else f"{result.limit:.4g}"
    return (
        f"| {result.case} | {result.ours:.4g} {result.unit} | {result.peer:.4g} "
        f"| {result.peer_name} | {limit} | {result.ratio:.2f} |"
    )


def _keep(results: Sequence[Result], setting: Setting) -> None:
    rows = [asdict(result) | {"threads": setting.threads} for result in results]
    new = {(row["name"], row["threads"]) for row in rows}
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    rows = [row for row in old if (row["name"], row["threads"]) not in new] + rows
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
