"""The calibration program: what it writes, prints and returns."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2]))

import calibration.statistics as instrument
from calibration.__main__ import main

from synboot.core.errors import BadInput


@pytest.mark.parametrize(("held", "code"), [(True, 0), (False, 3)])
def test_the_outcome_is_written_summed_up_and_held_against_its_bounds(
    held: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def run(quick: bool) -> dict[str, Any]:
        return {"held": held, "quick": quick}

    monkeypatch.setattr(instrument, "run", run)
    monkeypatch.setattr(instrument, "summary", lambda outcome: f"quick: {outcome['quick']}")
    out = tmp_path / "deep" / "out"
    assert main(["statistics", "--quick", "--out", str(out)]) == code
    assert json.loads((out / "statistics.json").read_text()) == {"held": held, "quick": True}
    assert capsys.readouterr().out == "quick: True\n"


def test_what_a_user_can_mend_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def run(quick: bool) -> dict[str, Any]:
        raise BadInput("SYNBOOT_DATA: expected a folder")

    monkeypatch.setattr(instrument, "run", run)
    assert main(["statistics"]) == 2
    assert capsys.readouterr().err == "calibration statistics: SYNBOOT_DATA: expected a folder\n"


def test_an_unknown_instrument_is_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["horoscope"])
    assert ended.value.code == 2
    assert "statistics" in capsys.readouterr().err
