"""Tables with a header: SemEval-2016 task 6, VAST, and any CSV whose columns say what they hold.

Sources: Mohammad et al. 2016, "SemEval-2016 Task 6: Detecting Stance in Tweets" (ID, Target, Tweet, Stance, parted by
tabs and never quoted); Allaway and McKeown 2020, "Zero-Shot Stance Detection" (post, new_topic, label: 0 con, 1 pro,
2 neutral); RFC 4180 for the quotes of the others.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from service.labels.gathering import Gathering, about
from service.labels.label_studio import TEXT_FIELDS
from service.labels.names import Mark, Names, toward
from service.labels.records import ABOUT
from service.labels.rows import listed

_DELIMITERS = (",", "\t", ";", "|")
_HEADER = re.compile(r"(?:[ \t]*+\r?\n)*+([^\r\n]{1,65536})")
# What Excel writes over a header that commas do not part.
_EXCEL = re.compile(r"\s*+sep=.\r?\n", re.IGNORECASE)
_SEMEVAL = ("id", "target", "tweet", "stance")
_VAST_TOPICS = ("new_topic", "topic_str", "ori_topic")
_LONG_TOPICS = ("topic", "target", "label")
_STANCES = ("stance", "label")
# The second is doccano's.
_SEPARATORS = (r"[;|\n]", "#")
_NOT_LABELLED = frozenset(("", "unknown", "?"))
_QUOTES = {
    "unexpected end of data": "a quote that opens here is never closed",
    **{
        f"'{mark}' expected after '\"'": "text after a closing quote; a quote inside a quoted cell is written twice"
        for mark in _DELIMITERS
    },
}
# The cells of a row that are not blank, by column; None is a column that the table lacks.
_Cells = dict[int | None, str]


class Layout(NamedTuple):
    """Where in a table's row things stand: the number of each column, or the column of each topic."""

    format: str
    delimiter: str
    header: tuple[str, ...]
    text: int
    topic: int | None = None
    stance: int | None = None
    topics: int | None = None
    columns: Mapping[int | None, str] = {}


def layout_of(text: str, names: Names) -> Layout | None:
    """Tell a table by its header, whichever delimiter makes most columns of it; None if it is no such table."""
    excel = _EXCEL.match(text)
    first = _HEADER.match(text, excel.end() if excel else 0)
    if not first:
        return None
    found = [layout for mark in _DELIMITERS if (layout := _layout(_cells(first[1], mark), mark, names))]
    return max(found, key=lambda layout: len(layout.header), default=None)


def read(text: str, layout: Layout, gathering: Gathering) -> None:
    """Read every row. Rows that say one topic each of the same text are put together into one label.

    Rows that contradict each other stay apart.
    """
    origin = {name: number for number, name in enumerate(layout.header) if name in ABOUT}
    for where, cells, fault in _records(text, layout):
        if fault or any(cells[len(layout.header) :]):
            count = f"{len(cells)} cells, but the header has {len(layout.header)}; quote what holds the delimiter"
            gathering.fault(where, fault or count)
            continue
        # A row costs what it holds: it may be short under a header of thousands of columns.
        row: _Cells = {number: cell for number, cell in enumerate(cells) if cell}
        marks = _marks(where, row, layout, gathering)
        if marks is None:
            continue
        known = about({name: row[number] for name, number in origin.items() if number in row})
        gathering.add(where, row.get(layout.text, ""), marks, known, partial=layout.topic is not None)


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        cells = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
    return [cell.strip() for cell in cells]


def _layout(cells: list[str], delimiter: str, names: Names) -> Layout | None:
    header = tuple(re.sub(r"[\s_]+", "_", cell.casefold()) for cell in cells)
    at = {name: number for number, name in reversed(list(enumerate(header)))}

    def first(*known: str) -> int | None:
        return next((at[name] for name in known if name in at), None)

    if delimiter == "\t" and all(name in at for name in _SEMEVAL):
        return Layout("semeval", delimiter, header, at["tweet"], at["target"], at["stance"])
    if "post" in at and "label" in at and (topic := first(*_VAST_TOPICS)) is not None:
        return Layout("vast", delimiter, header, at["post"], topic, at["label"])
    text, topics = first(*TEXT_FIELDS), first("topics")
    if text is None:
        return None
    if topics is not None:
        return Layout("csv", delimiter, header, text, topics=topics)
    if (column := first(*_LONG_TOPICS)) is not None:
        stance = first(*(name for name in _STANCES if at.get(name) != column))
        return Layout("csv", delimiter, header, text, column, stance)
    own = (*TEXT_FIELDS, *ABOUT)
    named = [(number, names.control(cells[number])) for name, number in at.items() if name not in own]
    columns: dict[int | None, str] = {number: topic for number, topic in named if topic}
    return Layout("csv", delimiter, header, text, columns=columns) if columns else None


def _records(text: str, layout: Layout) -> Iterator[tuple[str, list[str], str]]:
    """Yield every row below the header that is not blank: its place, its cells, and what is wrong with it."""
    if len(text) > csv.field_size_limit():
        # A cell may be as long as the file; the limit is the whole process's, so it is never lowered again.
        csv.field_size_limit(len(text))
    stream = io.StringIO(text, newline="")
    if layout.format == "semeval":
        reader = csv.reader(stream, delimiter=layout.delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(stream, delimiter=layout.delimiter, skipinitialspace=True, strict=True)
    number = -2 if _EXCEL.match(text) else -1
    while True:
        line = reader.line_num + 1
        cells: list[str] = []
        fault = ""
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            fault = _QUOTES.get(str(error), f"not CSV: {error}")
        if any(cells) or fault:
            number += 1
            if number > 0:
                yield f"row {number} (line {line})", cells, fault


def _marks(where: str, row: _Cells, layout: Layout, gathering: Gathering) -> list[Mark] | None:
    """Return what a row says, or None if it says nothing or cannot be read, which is noted."""
    if layout.columns:
        filled = [(topic, cell) for number, cell in row.items() if (topic := layout.columns.get(number))]
        if not filled:
            gathering.skip("unlabelled")
            return None
        return [mark for topic, cell in filled for mark in toward(topic, cell)]
    stance = row.get(layout.stance, "")
    said = row.get(layout.topic, row.get(layout.topics, ""))
    strict = layout.format != "csv"
    if not said or (strict and stance.casefold() in _NOT_LABELLED):
        gathering.skip("unlabelled")
        return None
    if strict or stance:
        return [(said, stance)]
    if not said.startswith(("{", "[")):
        return _listed_in_cell(said, gathering.names)
    try:
        value = msgspec.json.decode(said)
    except (msgspec.DecodeError, RecursionError):
        gathering.fault(where, "topics: not JSON; an object of topic: stance, or topics parted by ';' are allowed")
        return None
    # So Label Studio writes several choices into a cell.
    return listed(value["choices"] if isinstance(value, dict) and isinstance(value.get("choices"), list) else value)


def _listed_in_cell(said: str, names: Names) -> list[Mark]:
    if not names.meaning(said).kind.startswith("unknown"):
        return [(said, None)]
    separator = next((mark for mark in _SEPARATORS if re.search(mark, said)), ",")
    parts = re.split(separator, said)
    return [(part.strip(), None) for part in parts if part.strip()]
