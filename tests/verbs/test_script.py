"""The guide's script, from a JSONL file to a jointly trained model, runs as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_guides_script(small_corpus: Path, tmp_path: Path) -> None:
    scripts = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    (script,) = (script for script in scripts if "split_corpus" in script)
    assert len(script.strip().splitlines()) <= 20
    (tmp_path / "news.jsonl").write_bytes(small_corpus.read_bytes())
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert re.fullmatch(
        r"base \d\.\d{3} bits per byte\njoint \d\.\d{3} bits per byte\n", outcome.stdout
    )
    joint = json.loads((tmp_path / "joint" / "manifest.json").read_text())
    assert joint["counts"]["trained_tokens"] == 60_000
    # The last synthetic text is cut to the token, and has an END again when it is read as a text.
    real, new = (source["tokens"] for source in joint["counts"]["mixture"])
    assert real + new == 60_000
    assert 20_000 <= new <= 20_003
    synthetic = pq.read_table(tmp_path / "synthetic.parquet")
    base = json.loads((tmp_path / "synthesizer" / "manifest.json").read_text())
    assert set(synthetic["synthesizer"].to_pylist()) == {base["id"]}
    assert sum(synthetic["num_tokens"].to_pylist()) == 20_000
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("60,000") >= 2, "the report does not know how the arms were trained"
