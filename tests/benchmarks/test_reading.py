"""The benchmark of reading: its generator, and one small run from end to end."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "reading.py"


@pytest.fixture(scope="module")
def reading() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reading", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_text_is_keyed_and_looks_like_language(
    reading: ModuleType, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        reading.generate(tmp_path / name, 500_000, seed)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes()
    assert data != (tmp_path / "c").read_bytes()
    assert 500_000 <= len(data) < 600_000
    texts = [json.loads(line)["text"] for line in data.splitlines()]
    counts = Counter(word.strip(".").lower() for text in texts for word in text.split())
    (_, first), (_, second) = counts.most_common(2)
    assert 1.4 < first / second < 2.8  # Zipf: 2
    assert any("\n\n" in text for text in texts)
    assert any(not text.isascii() for text in texts)


def test_memory_of_this_process_is_seen(reading: ModuleType) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        total, anonymous = reading.resident(child.pid)
        assert 0 < anonymous <= total < 1e9
        child.communicate(b"\n")
    assert reading.resident(child.pid) is None


@pytest.mark.slow
def test_a_small_run_measures_every_step(tmp_path: Path) -> None:
    svg = tmp_path / "memory.svg"
    outcome = subprocess.run(
        [sys.executable, SCRIPT, "--gigabytes", "0.002", "--svg", svg, "--work", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    for step in ("read_documents", "build_corpus", "encode"):
        assert f"synboot   {step}" in outcome.stdout
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert [path.name for path in tmp_path.iterdir()] == ["memory.svg"]
