"""Rows of JSON: the examples file itself, doccano and Prodigy.

Sources: doccano's "Export dataset" (`github.com/doccano/doccano`, docs/advanced and `data_export`), Prodigy's
"Annotation interfaces: choice, classification" (`prodi.gy/docs/api-interfaces`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from models.errors import InvalidData, shorten
from models.examples import field_faults
from service.labels.gathering import Gathering, about
from service.labels.names import Mark

_NOT_LINES = re.compile(r"\s*(\[|\{[ \t\r]*\n)")
_BYTE = re.compile(r" \(byte (\d+)\)")


class Row(NamedTuple):
    """A JSON object and its place; ``value`` is None where there is none, and ``fault`` says why."""

    where: str
    value: dict[str, Any] | None
    fault: str = ""


class Rows:
    """The rows of JSON Lines or of a JSON array, as often as they are gone through.

    Parameters
    ----------
    text : str
        JSON Lines; not used where there are items.
    items : list, optional
        What the array holds.
    """

    def __init__(self, text: str, items: list[object] | None = None) -> None:
        self._text = text
        self._items = items

    def __iter__(self) -> Iterator[Row]:
        if self._items is not None:
            yield from (_row(f"item {number}", item) for number, item in enumerate(self._items, 1))
            return
        for where, line in lines(self._text):
            try:
                yield _row(where, msgspec.json.decode(line))
            except (msgspec.DecodeError, RecursionError) as error:
                yield Row(where, None, f"not JSON: {_reason(error)}")


def lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every line that is not blank."""
    start, number = 0, 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        number += 1
        if line := text[start:end].strip():
            yield f"line {number}", line
        start = end + 1


def read_rows(text: str) -> Rows:
    """Read JSON: an array, one object over several lines, or JSON Lines.

    Raises
    ------
    InvalidData
        If an array is not whole.
    """
    start = _NOT_LINES.match(text)
    if not start:
        return Rows(text)
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidData([f"JSON that cannot be read: {_line(text, error)}{_reason(error)}"]) from error
    return Rows("", value if start[1] == "[" else [value])


def objects(rows: Rows, gathering: Gathering) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows that are objects, and note the others."""
    for where, value, fault in rows:
        if value is None:
            gathering.fault(where, fault)
        else:
            yield where, value


def listed(value: object) -> list[Mark]:
    """Return the topics of an object of topic: stance, or of a list of topics."""
    if isinstance(value, dict):
        return list(value.items())
    return [(name, None) for name in value] if isinstance(value, list) else []


def read_examples(rows: Rows, gathering: Gathering) -> None:
    """Read rows of the examples file; an id may stand only once, as it may there."""
    places: dict[str, str] = {}
    for where, row in objects(rows, gathering):
        faults = field_faults(row)
        marks = listed(row.get("topics"))
        if faults:
            for fault in faults:
                gathering.fault(where, fault)
            gathering.topics(where, marks)
            continue
        id = row.get("id")
        if id and places.setdefault(id, where) != where:
            gathering.fault(where, f"id: {shorten(id)!r} stands at {places[id]} already")
            continue
        gathering.add(where, row["text"], marks, about(row))


def read_doccano(rows: Rows, gathering: Gathering) -> None:
    """Read doccano's JSONL: ``label`` or ``labels`` holds names, or spans ``[start, end, name]``.

    doccano exports what nobody has looked at with no label either, so a row without one is no sign of off topic.
    """
    for where, row in objects(rows, gathering):
        labels = row.get("label", row.get("labels"))
        if isinstance(labels, str):
            labels = [labels]
        if not isinstance(labels, list):
            gathering.fault(where, f"label: must be a list of labels, not {type(labels).__name__}")
        elif not labels:
            gathering.skip("unlabelled")
        else:
            names = [label[2] if isinstance(label, list) and len(label) == 3 else label for label in labels]
            known = {"annotator": row.get("user"), **row}
            gathering.add(where, row.get("text", row.get("data")), listed(names), about(known, numbered=True))


def read_prodigy(rows: Rows, gathering: Gathering) -> None:
    """Read Prodigy's JSONL: ``accept`` with the options chosen, or one ``label``; ``answer`` says whether it holds.

    A label that was rejected does not say what the paragraph is about instead, so its row is skipped. A text of several
    labels has a row for each.
    """
    for where, row in objects(rows, gathering):
        answer = row.get("answer")
        if answer in ("reject", "ignore"):
            gathering.skip("rejected" if answer == "reject" else "ignored")
        elif answer != "accept":
            gathering.fault(where, "answer: must be accept, reject or ignore")
        else:
            chosen = row.get("accept", [row["label"]] if "label" in row else None)
            if not isinstance(chosen, list):
                gathering.fault(where, "accept: must be a list of options, where there is no label")
                continue
            options = _options(row.get("options"))
            names = [_option(item, options, gathering) for item in chosen]
            who = {"annotator": row.get("_annotator_id") or row.get("_session_id"), **row}
            gathering.add(where, row.get("text"), listed(names), about(who), partial="accept" not in row)


def _options(options: object) -> dict[str, object]:
    items = options if isinstance(options, list) else []
    return {str(item.get("id")): item.get("text") for item in items if isinstance(item, dict)}


def _option(item: object, options: dict[str, object], gathering: Gathering) -> object:
    """Return what names the option: its id if that is a name that is known, else the text beside it."""
    if isinstance(item, str) and not gathering.names.meaning(item).kind.startswith("unknown"):
        return item
    return options.get(str(item)) or item


def _row(where: str, value: object) -> Row:
    if isinstance(value, dict):
        return Row(where, value)
    return Row(where, None, f"not a JSON object but {type(value).__name__}")


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else _BYTE.sub("", str(error))


def _line(text: str, error: Exception) -> str:
    """Say the line that msgspec's message gives the byte of."""
    if not (byte := _BYTE.search(str(error))):
        return ""
    before = text.encode()[: int(byte[1])]
    number = before.count(b"\n") + 1
    return f"line {number}: "
