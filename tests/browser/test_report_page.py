"""The report as Chromium renders it: narrow and wide, light and dark, with hostile text."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

sys.path.append(str(Path(__file__).parents[1] / "experiment"))

from sample_run import HOSTILE, report_data

from synboot.experiment.report import write_report
from synboot.experiment.report_data import ReportData

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = (320, 380, 500, 700, 701, 900, 1040, 1041, 1400)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on the PATH"),
]


def browse(page: Path, profile: Path, *options: str) -> str:
    """What headless Chromium prints after it loaded `page`."""
    finished = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return finished.stdout


def screenshot(page: Path, tmp_path: Path, width: int, *options: str) -> Any:
    """The page's top as an array of shape (1600, width, 3), values in [0, 1]."""
    image = tmp_path / "page.png"
    size = f"--window-size={width},1600"
    browse(page, tmp_path / "profile", f"--screenshot={image}", size, *options)
    pixels = imread(image)[..., :3]
    assert pixels.shape == (1600, width, 3)
    return pixels


def hostile_data() -> ReportData:
    """Sample data in which all that a corpus or a config may hold wants out of its place."""
    data: ReportData = report_data(seeds=2)
    text = " ".join([*HOSTILE, "<img src=x onerror=\"document.title='owned'\">"])
    for samples in (
        data.pairs["kept_samples"],
        data.pairs["dropped_samples"],
        data.synthetic["samples"],
        data.synthetic["dropped_samples"],
    ):
        for sample in samples:
            sample.update({key: text for key, value in sample.items() if isinstance(value, str)})
    data.pairs["counts"][text] = 3
    data.result["caveats"].append(text)
    data.result["ledger"][0]["label"] = data.result["ledger"][0]["stage"] = text
    data.result["model"]["preset"] = text
    return data


@pytest.fixture(scope="module")
def plain_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "report.html"
    write_report(report_data(), path)
    return path


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    write_report(hostile_data(), path)
    return path


@pytest.mark.parametrize("width", [380, 1400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_is_drawn_in_its_theme(
    plain_page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    pixels = screenshot(plain_page, tmp_path, width, *(["--force-dark-mode"] if dark else []))
    background = pixels[2, 2]
    assert (background.mean() < 0.25) if dark else (background.mean() > 0.95)
    inked = np.abs(pixels - background).max(axis=2) > 0.2
    assert 0.01 < inked.mean() < 0.5
    assert inked[: 1600 // 4].any()
    assert inked[-1600 // 4 :].any()
    codes = (pixels * 255).astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    assert len(np.unique(codes)) > 30


@pytest.mark.parametrize("which", ["plain_page", "hostile_page"])
def test_nothing_runs_over_the_edge(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The page in frames of several widths, measured by a script of the page around them."""
    page = html.escape(request.getfixturevalue(which).read_text(encoding="utf-8"), quote=True)
    frames = "".join(
        f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>'
        for width in WIDTHS
    )
    measure = """
    addEventListener("load", () => {
      const widths = [...document.querySelectorAll("iframe")].map(frame => {
        const root = frame.contentDocument.documentElement;
        return [root.clientWidth, root.scrollWidth, root.scrollHeight];
      });
      document.querySelector("pre").textContent = JSON.stringify(widths);
    });"""
    around = tmp_path / "around.html"
    around.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><script>{measure}</script><pre></pre>{frames}',
        encoding="utf-8",
    )
    printed = browse(around, tmp_path / "profile", "--dump-dom")
    found = re.search(r"<pre>(\[.+?\])</pre>", printed)
    assert found, "the frames were not measured"
    for width, (client, scroll, height) in zip(WIDTHS, json.loads(found[1]), strict=True):
        assert client == width
        assert scroll <= width, f"{scroll - width} px too wide at {width} px"
        assert height > 3000


def test_hostile_text_neither_runs_nor_hides_the_page(hostile_page: Path, tmp_path: Path) -> None:
    dom = browse(hostile_page, tmp_path / "profile", "--dump-dom")
    assert "<title>synboot: demo</title>" in dom
    assert not re.search(r"<(script|img|iframe)\b", dom)
    assert dom.count("<style>") == 1
    assert "How to read this</h2>" in dom
    assert dom.count("{{ 7*7 }}") > 50
