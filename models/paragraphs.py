"""Text as it comes in: what a paragraph may hold, and how an article falls into paragraphs."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

_BLANK_LINES = re.compile(r"(?>\r\n|\r|\n)[^\S\r\n]*(?:\r\n|\r|\n)\s*")
_LINE_END = re.compile(r"\r\n|\r|\n")
_SENTENCE_END = re.compile(r"[.!?…:;][\"”’»')\]]*$")
_LIST_MARK = re.compile(r"(?:[-–—•*·]|\d{1,3}[.)]|Q[.:]?|A[.:]|[A-Z][A-Z. ]{2,30}:)\s")
# Mail and plain-text files wrap at 60 to 100 characters.
_WRAP_WIDTH = 100


class Paragraph(NamedTuple):
    """A slice of an article: ``article[start:end] == text``, in characters."""

    text: str
    start: int
    end: int


def text_fault(text: str) -> str | None:
    """Say why `text` cannot be scored, without repeating it, or return None."""
    if not text or text.isspace():
        return "is blank; text is needed"
    if "\0" in text:
        return "holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is not a character"
    return None


def split_paragraphs(article: str) -> list[Paragraph]:
    """Split an article into its paragraphs.

    Blank lines part paragraphs. Inside a block so parted, single line ends part them too, unless the block is
    hard-wrapped: then its lines are one paragraph. Nothing is rewritten: each paragraph is a slice.

    Returns
    -------
    list of Paragraph
        In order, stripped of outer white space, none without a letter or a digit; where the whole article has neither
        and is not blank, it is one paragraph.
    """
    found: list[Paragraph] = []
    start = 0
    for gap in [*_BLANK_LINES.finditer(article), None]:
        end = gap.start() if gap else len(article)
        found += _split_block(article, start, end)
        start = gap.end() if gap else end
    if not found and (whole := _strip(article, 0, len(article))).text:
        return [whole]
    return found


def _split_block(article: str, start: int, end: int) -> list[Paragraph]:
    spans = []
    for line_end in [*_LINE_END.finditer(article, start, end), None]:
        stop = line_end.start() if line_end else end
        if article[start:stop].strip():
            spans.append((start, stop))
        start = line_end.end() if line_end else stop
    joined: list[tuple[int, int]] = []
    for span, follows in zip(spans, _continued([article[a:b].strip() for a, b in spans]), strict=True):
        if follows:
            joined[-1] = (joined[-1][0], span[1])
        else:
            joined.append(span)
    return [paragraph for a, b in joined if any(map(str.isalnum, (paragraph := _strip(article, a, b)).text))]


def _continued(lines: list[str]) -> list[bool]:
    """Tell of each line whether it goes on with the paragraph of the line before.

    A wrapping program breaks a line only where the next word would not have fitted. So in wrapped text the lines that
    stop in mid-sentence are full, and a line that is not full ends a paragraph.
    """
    width = max(map(len, lines), default=0)
    full = [
        len(line) + 1 + len(following.split()[0]) > width and not _LIST_MARK.match(following)
        for line, following in pairwise(lines)
    ]
    broken = [is_full for is_full, line in zip(full, lines, strict=False) if not _SENTENCE_END.search(line)]
    wrapped = width <= _WRAP_WIDTH and 3 * len(broken) >= len(full) > 0 and 5 * sum(broken) >= 4 * len(broken) > 0
    return [False, *(is_full and wrapped for is_full in full)][: len(lines)]


def _strip(article: str, start: int, end: int) -> Paragraph:
    text = article[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return Paragraph(text, start, start + len(text))
