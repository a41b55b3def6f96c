"""Text as it comes in: what a paragraph may hold, and how an article falls into paragraphs."""

from __future__ import annotations

import re
from typing import NamedTuple

_FORBIDDEN = re.compile("[\0\ud800-\udfff]")
_BLANK_LINES = re.compile(r"(?:\r\n|\r|\n)[^\S\r\n]*(?:\r\n|\r|\n)\s*")
_LINE_END = re.compile(r"\r\n|\r|\n")
_SENTENCE_END = re.compile(r"[.!?…:;][\"”’»')\]]*$")
_LIST_MARK = re.compile(r"(?:[-–—•*·]|\d{1,3}[.)]|Q[.:]?|A[.:]|[A-Z][A-Z. ]{2,30}:)\s")
# Mail and plain-text files wrap at 60 to 100 characters; a line of running text that ends a paragraph seldom
# comes within a long word of the same width as its neighbours.
_WRAP_WIDTH = 100
_WRAP_SLACK = 25


class Paragraph(NamedTuple):
    """A slice of an article: ``article[start:end] == text``, in characters."""

    text: str
    start: int
    end: int


def text_fault(text: str) -> str | None:
    """Say why `text` cannot be scored, without repeating it, or return None."""
    if not text or text.isspace():
        return "is blank; text is needed"
    if forbidden := _FORBIDDEN.search(text):
        return "holds a NUL character" if forbidden[0] == "\0" else "holds a lone surrogate, which is not a character"
    return None


def split_paragraphs(article: str) -> list[Paragraph]:
    """Split an article into its paragraphs.

    Blank lines part paragraphs. Inside a block so parted, single line ends part them too, unless the block is
    hard-wrapped: then its lines are one paragraph. Nothing is rewritten: each paragraph is a slice.

    Returns
    -------
    list of Paragraph
        In order, stripped of outer white space, none without a letter or a digit.
    """
    found: list[Paragraph] = []
    start = 0
    for gap in [*_BLANK_LINES.finditer(article), None]:
        end = gap.start() if gap else len(article)
        found += _split_block(article, start, end)
        start = gap.end() if gap else end
    return found


def _split_block(article: str, start: int, end: int) -> list[Paragraph]:
    spans = []
    for line_end in [*_LINE_END.finditer(article, start, end), None]:
        stop = line_end.start() if line_end else end
        spans.append((start, stop))
        start = line_end.end() if line_end else stop
    lines = [article[a:b].strip() for a, b in spans]
    if _is_wrapped([line for line in lines if line]):
        spans = _join_wrapped(spans, lines)
    return [paragraph for a, b in spans if (paragraph := _strip(article, a, b))]


def _is_wrapped(lines: list[str]) -> bool:
    """Tell whether line ends were put in by a wrapping program: full lines of one width that stop mid-sentence."""
    if len(lines) < 2:
        return False
    width = max(map(len, lines))
    inner = lines[:-1]
    broken = sum(not _SENTENCE_END.search(line) for line in inner)
    return width <= _WRAP_WIDTH and 2 * broken > len(inner)


def _join_wrapped(spans: list[tuple[int, int]], lines: list[str]) -> list[tuple[int, int]]:
    """Join wrapped lines; a short line that ends a sentence, or a list mark, still parts two paragraphs."""
    width = max(map(len, lines))
    joined: list[tuple[int, int]] = []
    open_paragraph = False
    for (a, b), line in zip(spans, lines, strict=True):
        if open_paragraph and line and not _LIST_MARK.match(line):
            joined[-1] = (joined[-1][0], b)
        else:
            joined.append((a, b))
        ends = len(line) < width - _WRAP_SLACK and _SENTENCE_END.search(line)
        open_paragraph = bool(line) and not ends
    return joined


def _strip(article: str, start: int, end: int) -> Paragraph | None:
    text = article[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    if not any(char.isalnum() for char in text):
        return None
    return Paragraph(text, start, start + len(text))
