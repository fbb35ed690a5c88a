"""Long texts cut into pieces at the best break before a limit."""

from __future__ import annotations

MIN_PIECE_BYTES = 16


def cut_text(text: str, max_bytes: int) -> list[tuple[int, int]]:
    """Character ranges of pieces of at most `max_bytes` bytes of UTF-8, in order.

    A piece ends after the last paragraph break that fits, else after the last line break, else
    after the last white space, else anywhere between characters. The pieces are the whole text, but
    for blank ones, which are left out. Raises ValueError for less than 16 bytes.
    """
    if max_bytes < MIN_PIECE_BYTES:
        raise ValueError(f"a piece has at least {MIN_PIECE_BYTES} bytes, got {max_bytes}")
    ranges = []
    start = 0
    while start < len(text):
        window = _prefix(text[start : start + max_bytes], max_bytes)
        is_last = start + len(window) == len(text)
        stop = start + (len(window) if is_last else _best_cut(window))
        if not text[start:stop].isspace():
            ranges.append((start, stop))
        start = stop
    return ranges


def _prefix(text: str, max_bytes: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= max_bytes else encoded[:max_bytes].decode(errors="ignore")


def _best_cut(window: str) -> int:
    paragraph = max(_after(window, "\n\n"), _after(window, "\n\r\n"))
    line = max(_after(window, "\n"), _after(window, "\r"))
    for cut in (paragraph, line, _after_space(window)):
        if cut and not window[:cut].isspace():
            return cut
    return len(window)


def _after(window: str, sign: str) -> int:
    place = window.rfind(sign)
    return 0 if place < 0 else place + len(sign)


def _after_space(window: str) -> int:
    return len(window) - (0 if window[-1].isspace() else len(window.rsplit(None, 1)[-1]))
