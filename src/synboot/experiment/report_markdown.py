"""The page of a run as Markdown: its sentences and tables, for a README or a pull request.

Drawings and samples of text stay in the HTML page, which this is made from, so that the two cannot
say different things.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

MARKDOWN_GENERATOR = "<!-- synboot report -->"

_SKIPPED = ("head", "nav", "figure")
_SKIPPED_CLASSES = ("samples", "bar")
_HEADINGS = ("h1", "h2", "h3", "h4")
_BLOCKS = (*_HEADINGS, "p", "li", "dt", "dd")
_VOID = ("br", "meta")
_INTERVAL = (
    r"\[(?=[^][]*(?:\d|over))[-+\N{MINUS SIGN}\d., %a-z\N{MULTIPLICATION SIGN}]*\](?![(\[:])"
)
_SPECIAL = re.compile(rf"({_INTERVAL})|[][\\`*<>|~$]|(?<![A-Za-z\d])_|_(?![A-Za-z\d])")
_BLOCK = re.compile(r"(#+|[+-]|\d+[.)])(\s|$)|-{3,}|={3,}")


def as_markdown(page: str) -> str:
    """The page that `report.render` wrote, as GitHub's Markdown. Headings with nothing below them
    are left out."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    lines = [MARKDOWN_GENERATOR]
    for place, (kind, text) in enumerate(reader.blocks):
        if kind in _HEADINGS and not _has_content(reader.blocks, place):
            continue
        before = reader.blocks[place - 1][0] if place else ""
        lines += [] if kind == before and kind in ("li", "dd") else [""]
        lines.append(f"{'#' * int(kind[1])} {text}" if kind in _HEADINGS else text)
    return "\n".join(lines) + "\n"


def _has_content(blocks: list[tuple[str, str]], place: int) -> bool:
    level = blocks[place][0]
    for kind, _ in blocks[place + 1 :]:
        if kind not in _HEADINGS:
            return True
        if kind <= level:
            return False
    return False


class _Reader(HTMLParser):
    """Turns the page's elements into blocks of Markdown, in their order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[str, str]] = []
        """Tag and text."""
        self._skipped = 0
        """How many open elements are inside of what is left out, that one included."""
        self._text: list[str] = []
        self._term = ""
        self._rows: list[list[str]] = []
        self._aligned: list[str] = []
        self._link = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if self._skipped or tag in _SKIPPED or given.get("class") in _SKIPPED_CLASSES:
            self._skipped += tag not in _VOID
        elif tag in _BLOCKS or tag in ("th", "td"):
            self._text = []
            if tag == "th":
                self._aligned.append("--:" if given.get("class") == "number" else "---")
        elif tag == "table":
            self._rows, self._aligned = [], []
        elif tag == "tr":
            self._rows.append([])
        elif tag == "br":
            self._text.append("<br>")
        elif tag == "strong":
            self._text.append("**")
        elif tag == "a":
            self._link = given.get("href", "")
            self._text.append("[")

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
        elif tag in ("th", "td"):
            self._rows[-1].append(self._taken())
        elif tag == "dt":
            self._term = self._taken()
        elif tag in _BLOCKS and (text := self._taken()):
            # Two markers, or the lists of both would be one where they follow each other.
            before = {"li": "- ", "dd": f"* {self._term}: "}.get(tag, "")
            self.blocks.append((tag, before + text))
        elif tag == "table":
            head, *rows = (f"| {' | '.join(row)} |" for row in self._rows)
            lines = [head, f"|{'|'.join(self._aligned)}|", *rows]
            self.blocks.append((tag, "\n".join(lines)))
        elif tag == "strong":
            self._text.append("**")
        elif tag == "a":
            self._text.append(f"]({self._link})")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._text.append(_SPECIAL.sub(_escaped, data.replace("&", "&amp;")))

    def _taken(self) -> str:
        text, self._text = " ".join("".join(self._text).split()), []
        return f"&#8203;{text}" if _BLOCK.match(text) else text


def _escaped(special: re.Match[str]) -> str:
    """What Markdown would read otherwise; brackets of our own intervals can stay."""
    return special[0] if special[1] else f"\\{special[0]}"
