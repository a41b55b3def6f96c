"""Bytes to text: Unicode where it is valid, else the Western code page or the Cyrillic one that reads as Russian."""

from __future__ import annotations

import codecs
import re
from itertools import islice
from math import log

from models.errors import InvalidData

_SAMPLE = 65_536
_SAMPLE_WORDS = 10_000
_HIGH = re.compile(rb"[\x80-\xff]{1,64}")
_ASCII = bytes(range(128))
# Letters in all three code pages, but for a few; those with an accent stand alone or in pairs between others.
_LETTERS = bytes(range(0xC0, 0x100))
_ACCENTED = re.compile(
    rb"(?<=[a-z])[\xc0-\xff]{1,2}(?![\x80-\xff])|(?<![\x80-\xff])[\xc0-\xff]{1,2}(?=[a-z])", re.IGNORECASE
)
_CONTROLS = [chr(code) for code in range(32) if chr(code) not in "\t\n\r"]
# Per cent of letters: Lyashevskaya and Sharov, The Frequency Dictionary of Modern Russian, 2009.
_RUSSIAN = {
    "о": 10.97, "е": 8.45, "а": 8.01, "и": 7.35, "н": 6.70, "т": 6.26, "с": 5.47, "р": 4.73, "в": 4.54, "л": 4.40,
    "к": 3.49, "м": 3.21, "д": 2.98, "п": 2.81, "у": 2.62, "я": 2.01, "ы": 1.90, "ь": 1.74, "г": 1.70, "з": 1.65,
    "б": 1.59, "ч": 1.44, "й": 1.21, "х": 0.97, "ж": 0.94, "ш": 0.73, "ю": 0.64, "ц": 0.48, "щ": 0.36, "э": 0.32,
    "ф": 0.26, "ъ": 0.04, "ё": 0.04,
}  # fmt: skip
_PUNCTUATION = "«»„“”‘’–—…№•\u00a0"
# Capitals are rarer, but not by so much that a line of capitals would be taken for small letters of the other page.
_WEIGHTS = {
    **{letter: log(share / 100) for letter, share in _RUSSIAN.items()},
    **{letter.upper(): log(share / 100) - 0.4 for letter, share in _RUSSIAN.items()},
    **dict.fromkeys(_PUNCTUATION, -5.0),
}
_FOREIGN = -12.0
# In Russian a vowel mostly follows a consonant, and the other way; no capital follows a small letter.
_V, _C = "аеёиоуыэюя", "бвгджзйклмнпрстфхцчшщъь"
_TURN = re.compile(f"(?=[{_V}][{_C}]|[{_C}][{_V}])", re.IGNORECASE)
_PAIR = re.compile("(?=[а-яё]{2})", re.IGNORECASE)
_JUMP = re.compile("(?<=[а-яё])[А-ЯЁ]")


def decode(data: bytes) -> tuple[str, str]:
    """Decode `data`, which may be in any encoding named below.

    Returns
    -------
    text : str
        Without a byte order mark.
    encoding : str
        ``utf-8``, ``utf-8-sig``, ``utf-16``, ``cp1251``, ``koi8-r`` or ``cp1252``, which reads Latin-1 too.

    Raises
    ------
    InvalidData
        If it is damaged, or is not text at all.
    """
    codec, encoding = _codec(data)
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidData([f"line {line}: byte {error.start + 1}: not valid {encoding}; save the file anew"]) from error
    sample = text[:_SAMPLE]
    if "\0" in text or 100 * sum(map(sample.count, _CONTROLS)) > len(sample):
        raise InvalidData(["not text: it holds NUL or other control characters; JSON, CSV, TSV or text is needed"])
    return text, encoding


def _codec(data: bytes) -> tuple[str, str]:
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig", "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", "utf-16"
    for first, codec in ((1, "utf-16-le"), (0, "utf-16-be")):
        high = data[first:_SAMPLE:2]
        # The blocks of Latin and of Cyrillic letters; neither byte is in text of one byte a letter.
        if high and 10 * (high.count(0) + high.count(4)) > 7 * len(high):
            return codec, "utf-16"
    try:
        data.decode()
    except UnicodeDecodeError:
        damaged = _mostly_utf8(data)
        encoding = "utf-8" if damaged else _code_page(data)
        return encoding, encoding
    return "utf-8", "utf-8"


def _mostly_utf8(data: bytes) -> bool:
    """Tell damaged UTF-8 from a code page, in which hardly two bytes in a row make a character of UTF-8."""
    text = data.decode("utf-8", errors="replace")
    bad = text.count("\ufffd")
    letters = len(text) - bad - (len(data) - len(data.translate(None, _ASCII)))
    return letters > bad


def _code_page(data: bytes) -> str:
    if _is_western(data):
        return "cp1252"
    words = (match[0] for match in _HIGH.finditer(data))
    sample = b" ".join(islice(words, _SAMPLE_WORDS))
    try:
        data.decode("cp1251")
    except UnicodeDecodeError:
        return "koi8-r"
    return max(("cp1251", "koi8-r"), key=lambda page: _likelihood(sample.decode(page)))


def _is_western(data: bytes) -> bool:
    """Tell letters with an accent, which touch letters of ASCII, from words of Cyrillic letters."""
    first = _HIGH.search(data)
    start = max(first.start() - 1, 0) if first else 0
    sample = data[start : start + _SAMPLE]
    letters = len(sample) - len(sample.translate(None, _LETTERS))
    return 2 * sum(len(match[0]) for match in _ACCENTED.finditer(sample)) > letters


def _likelihood(text: str) -> float:
    letters = sum(text.count(char) * _WEIGHTS.get(char, _FOREIGN) for char in set(text) - {" "})
    turns, pairs, jumps = (len(pattern.findall(text)) for pattern in (_TURN, _PAIR, _JUMP))
    return letters + 0.4 * (2 * turns - pairs) - 3 * jumps
