"""Labelled files of other tools, told apart by what they hold and never by their name.

The first line of this table that fits is the format; a file is read in one format from its start to its end.

=============  =========================================================================================
format         what tells it
=============  =========================================================================================
semeval        a header parted by tabs with ID, Target, Tweet and Stance
vast           a header with post, label and one of new_topic, topic_str, ori_topic
csv            a header with text (or paragraph, content, sentence, post, tweet) and with topics, or topic,
               target or label, or a column per topic; comma, tab, semicolon or bar parts it
fasttext       no such header, and a line that starts with ``__label__``
label-studio   JSON, and the first row that tells has data, an object, or annotation_id and lead_time
prodigy        JSON, and the first row that tells has answer beside accept, label or options
examples       JSON, and the first row that tells has topics
doccano        JSON, and the first row that tells has label or labels
=============  =========================================================================================

JSON is an array of objects or one object a line; one of the first thousand has to tell. The tests hold none of
another's: a header is no JSON, no line of JSON starts with ``__label__``, and a row of Label Studio or Prodigy has a
field that the two formats after them never have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from models.errors import InvalidData, shorten
from models.taxonomy import Taxonomy
from service.labels import fasttext, label_studio, tables
from service.labels.encodings import decode
from service.labels.gathering import Gathering
from service.labels.names import Names
from service.labels.records import Label, Reading, UnknownLabel
from service.labels.rows import Row, Rows, read_doccano, read_examples, read_prodigy, read_rows

__all__ = ["FORMATS", "Label", "Reading", "UnknownLabel", "read_labels"]

FORMATS = ("examples", "label-studio", "doccano", "prodigy", "fasttext", "semeval", "vast", "csv")
_TELLING_ROWS = 1000
_READERS: dict[str, Callable[[Rows, Gathering], None]] = {
    "label-studio": label_studio.read,
    "prodigy": read_prodigy,
    "examples": read_examples,
    "doccano": read_doccano,
}


def read_labels(data: bytes, taxonomy: Taxonomy, *, renamed: Mapping[str, str] = {}) -> Reading:
    """Read a labelled file, whatever wrote it.

    Parameters
    ----------
    data : bytes
        The whole file, in UTF-8, UTF-16, cp1251, koi8-r or cp1252.
    taxonomy : Taxonomy
        The topics that labels may name, by id, title or proposition.
    renamed : mapping, optional
        From a label, or a stance, as it stands in the file to a topic, or a stance, or to ``""`` to drop it. A
        paragraph whose every label is dropped is skipped: that no topic is left does not make it off topic.

    Returns
    -------
    Reading
        With every fault and every unknown label. What no reader knows has the format ``unknown`` and one fault.
        Nothing is raised, whatever the bytes are.
    """
    try:
        text, encoding = decode(data)
    except InvalidData as error:
        return _unread("unknown", error.faults[0])
    gathering = Gathering(Names(taxonomy, renamed))
    is_json = text.lstrip().startswith(("{", "["))
    # JSON on one line could pass for a header, by the words in it.
    if not is_json and (layout := tables.layout_of(text, gathering.names)):
        tables.read(text, layout, gathering)
        return gathering.reading(layout.format, encoding)
    if fasttext.tells(text):
        fasttext.read(text, gathering)
        return gathering.reading("fasttext", encoding)
    if not is_json:
        return _unread(encoding, _allowed(_first_line(text)))
    try:
        rows = read_rows(text)
    except InvalidData as error:
        return _unread(encoding, _allowed(error.faults[0]))
    format = next((name for row in islice(rows, _TELLING_ROWS) if (name := _format(row.value))), None)
    if format is None:
        return _unread(encoding, _allowed(_first_row(rows)))
    _READERS[format](rows, gathering)
    return gathering.reading(format, encoding)


def _format(row: dict[str, Any] | None) -> str | None:
    if row is None:
        return None
    if label_studio.tells(row):
        return "label-studio"
    if "answer" in row and not row.keys().isdisjoint(("accept", "label", "options")):
        return "prodigy"
    if "topics" in row:
        return "examples"
    return "doccano" if "label" in row or "labels" in row else None


def _unread(encoding: str, fault: str) -> Reading:
    return Reading("unknown", encoding, [], 0, {}, [], [fault])


def _allowed(seen: str) -> str:
    return f"no labelled file that is known; allowed are {', '.join(FORMATS)}, told by what they hold; seen: {seen}"


def _first_line(text: str) -> str:
    line = text.lstrip()[:1000].partition("\n")[0].strip()
    return f"text or a table that starts {shorten(line)!r}" if line else "nothing"


def _first_row(rows: Rows) -> str:
    row: Row | None = next(iter(rows), None)
    if row is None:
        return "an empty JSON array"
    if row.value is None:
        return f"JSON whose {row.where} is {row.fault}"
    return f"JSON objects with the fields {shorten(', '.join(row.value)) or 'none'}"
