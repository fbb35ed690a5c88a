"""The page as Markdown: the sentences and tables of the HTML page, and nothing that it forbids."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

sys.path.append(str(Path(__file__).parent))

from sample_run import HOSTILE, light_data, report_data

from synboot.experiment.report import is_report, render, write_report
from synboot.experiment.report_markdown import MARKDOWN_GENERATOR, as_markdown

METHOD = "Synthetic bootstrapped pretraining, arXiv 2509.15248"


class Cells(HTMLParser):
    """The tables, list items, paragraphs and headings of a page as plain text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.others: list[str] = []
        self.tags: set[str] = set()
        self._text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th", "li", "p", "h1", "h2", "h3", "dt", "dd"):
            self._text = ""
        elif tag == "br":
            self._text += " "

    def handle_endtag(self, tag: str) -> None:
        text = " ".join(self._text.replace("\u200b", "").split())
        if tag in ("td", "th"):
            self.tables[-1][-1].append(text)
        elif tag in ("li", "p", "h1", "h2", "h3"):
            self.others.append(text)
            self._text = ""

    def handle_data(self, data: str) -> None:
        self._text += data


def as_read(markdown: str) -> Cells:
    """What a reader of the Markdown sees."""
    text = markdown.removeprefix(MARKDOWN_GENERATOR)  # HTML, which the parser here shows as text
    return Cells(MarkdownIt("js-default").render(text).replace("&lt;br&gt;", "<br>"))


@pytest.fixture(scope="module")
def page() -> str:
    return render(report_data(seeds=3))


def test_tables_and_sentences_are_those_of_the_page(page: str) -> None:
    for drawn in (r"<figure>.*?</figure>", r'<div class="samples">.*?</div>(?=\n</section>)'):
        page, count = re.subn(drawn, "", page, flags=re.DOTALL)
        assert count >= 2
    ours, whole = as_read(as_markdown(page)), Cells(page)
    assert ours.tables == [
        [row[:-1] if table[0][0] == "Verdict" else row for row in table] for table in whole.tables
    ]
    assert len(ours.tables) >= 8
    shown = ours.others
    assert shown[1] == "SBP recovers 23% [5%, 40%] of the oracle's gain."
    assert "Corpus, documents: 2,611 training, 140 validation, 149 test" in shown
    facts = [text for text in shown if text not in whole.others]
    assert all(": " in text for text in facts)  # terms and what they are, in a line each
    assert [text for text in shown if text not in facts] == [
        text
        for text in whole.others
        if text != "How the arms learn"  # a drawing alone
    ]


def test_no_heading_is_without_something_below_it(page: str) -> None:
    lines = [line for line in as_markdown(page).splitlines() if line]
    assert "## How the arms learn" not in lines
    for line, after in pairwise(lines):
        if line.startswith("## "):
            assert not after.startswith("## "), line
        if line.startswith("### "):
            assert not after.startswith("#"), line
    assert not lines[-1].startswith("#")


def test_drawings_and_samples_stay_in_the_page(page: str) -> None:
    text = as_markdown(page)
    assert "<svg" in page
    assert "module.3" in page
    assert "svg" not in text
    assert "module.3" not in text
    assert "{" not in text.replace("{text}", "")


def test_hostile_text_is_neither_markup_nor_markdown() -> None:
    for hostile in (
        *HOSTILE,
        "| a | b |",
        "**x** [y](javascript:z) `q`",
        "# one",
        "1. two",
        "_a_",
        "__a__",
        "[[a]](http://x)",
        "[foo]: http://x",
        "---",
        "-",
        "1.",
        "$a$",
        "===",
        "&amp; &#35; <b>",
        "[1](x) [1][a]",
    ):
        data = light_data()
        data.result["recipe"] = data.result["ledger"][0]["label"] = hostile
        data.result["caveats"] = [hostile]
        written = render(data)
        ours, whole = as_read(as_markdown(written)), Cells(written)
        assert not ours.tags & {"script", "img", "style", "code", "hr", "ol", "em"}, hostile
        assert [len(row) for table in ours.tables for row in table] == [
            len(row) - (table[0][0] == "Verdict") for table in whole.tables for row in table
        ]
        ledger = next(table for table in ours.tables if table[0][0] == "Stage")
        expected = next(table for table in whole.tables if table[0][0] == "Stage")
        assert ledger == expected, hostile
        caveat = whole.others[whole.others.index(f"The method: {METHOD}.") - 1]
        assert caveat in ours.others, hostile
        assert MarkdownIt("js-default").render(as_markdown(written)).count("<a ") == 1, hostile
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", as_markdown(written))


def test_the_name_of_the_file_decides(tmp_path: Path) -> None:
    for name in ("a.html", "a.md"):
        write_report(light_data(), tmp_path / name)
        assert is_report(tmp_path / name)
    assert (tmp_path / "a.md").read_text("utf-8") == as_markdown(render(light_data()))
    assert (tmp_path / "a.html").read_text("utf-8") == render(light_data())
    (tmp_path / "mine.md").write_text("# Mine\n<!-- synboot report -->\n")
    assert not is_report(tmp_path / "mine.md")
