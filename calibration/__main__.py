"""python -m calibration NAME [--quick] [--out DIR]: shows what an instrument is worth.

Each instrument has a module here with `run(quick) -> outcome`, every figure with its bound, and
`summary(outcome) -> str`. The outcome goes to out/NAME.json, the summary to stdout. The exit code
is 3 if the outcome says `held: false`: a bound that is stated does not hold.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

import calibration
from synboot.core.errors import GateFellShort, SynbootError
from synboot.core.storage import write_json

OUT = Path(__file__).parent / "out"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit code."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(calibration.__path__)
        if not module.name.startswith("_")
    )
    parser = argparse.ArgumentParser(
        prog="python -m calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=names, help="the instrument")
    parser.add_argument("--quick", action="store_true", help="smaller, with bounds of its own")
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the outcomes")
    options = parser.parse_args(arguments)
    instrument = importlib.import_module(f"calibration.{options.name}")
    try:
        outcome = instrument.run(options.quick)
    except SynbootError as error:
        print(f"calibration {options.name}: {error}", file=sys.stderr)
        return error.exit_code
    write_json(options.out / f"{options.name}.json", outcome)
    print(instrument.summary(outcome))
    return 0 if outcome.get("held", True) else GateFellShort.exit_code


if __name__ == "__main__":
    sys.exit(main())
