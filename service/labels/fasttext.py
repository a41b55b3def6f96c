"""fastText's training files: ``__label__crimea __label__sanctions text``, a paragraph a line.

Source: "Text classification" (`fasttext.cc/docs/en/supervised-tutorial`). fastText takes every word with the prefix for
a label, wherever it stands, and so is it taken here.
"""

from __future__ import annotations

import re

from service.labels.gathering import Gathering
from service.labels.names import Mark
from service.labels.rows import lines

_LABEL = re.compile(r"(?<!\S)__label__(\S+)")
_FIRST = re.compile(r"^__label__\S", re.MULTILINE)


def tells(text: str) -> bool:
    """Tell whether some line starts with a label."""
    return bool(_FIRST.search(text))


def read(text: str, gathering: Gathering) -> None:
    """Read every line; one without a label is off topic."""
    for where, line in lines(text):
        marks: list[Mark] = [(name, None) for name in _LABEL.findall(line)]
        gathering.add(where, _LABEL.sub("", line).strip(), marks, {})
