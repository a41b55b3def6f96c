"""Labels on their way into the store: read by content, checked as a whole, added or reported."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from models.errors import InvalidData, shorten
from models.examples import Example, check_example
from models.taxonomy import Taxonomy
from service.labels.gathering import MAX_LISTED
from service.labels.reading import Label, Reading, UnknownLabel, read_labels
from service.store import corpus
from service.store.corpus import Added, Incoming

MAX_NAME_CHARS = 256
# The format of what is posted as ``{"annotations": [...]}``.
OBJECT = "annotations"
_FIELDS = (*Example.__struct_fields__, "annotator")
_NAME = re.compile(r"[\w.-]+")


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    annotations: list[dict[str, Any]]


class DryRun(Exception):
    """Raised to roll a transaction back once its report is made."""

    def __init__(self, report: ImportReport) -> None:
        super().__init__()
        self.report = report


class ImportReport(Added, frozen=True):
    """What came in.

    ``new``, ``changed`` and ``duplicate`` add up to ``received``: the annotator had said nothing of the paragraph yet,
    something else, or just this. ``conflicting`` of them contradict another annotator or each other; both stay, and the
    latest is trained on. ``off_topic`` of them say that none of the topics is there. ``skipped`` are those that the
    tool itself gave up, by its reason.
    """

    format: str
    encoding: str
    off_topic: int
    skipped: dict[str, int]
    dry_run: bool = False


class Faulty(InvalidData):
    """Labels that cannot be taken, with every reason: nothing of them was.

    Attributes
    ----------
    unknown : list of UnknownLabel
        Labels that name no topic or stance, with the nearest that there are.
    """

    def __init__(self, faults: Sequence[str], unknown: list[UnknownLabel]) -> None:
        self.unknown = unknown
        told = [f"{label.first}: {_nearest(label)}" for label in unknown]
        super().__init__([*faults, *told])


def read(
    data: bytes, taxonomy: Taxonomy, *, renamed: Mapping[str, str] | None = None, max_chars: int | None = None
) -> Reading:
    """Read a labelled file whole.

    Parameters
    ----------
    renamed : mapping, optional
        From labels as the file has them to topics, or to ``""`` for those to drop.
    max_chars : int, optional
        Longest paragraph.

    Raises
    ------
    Faulty
        With every fault and every unknown label.
    """
    reading = read_labels(data, taxonomy, renamed=renamed or {})
    named = [f"{label.where}: {fault}" for label in reading.labels for fault in name_faults(label, max_chars)]
    faults = [*reading.faults, *_first(named)]
    if not faults and not reading.unknown and not reading.labels and not reading.skipped:
        faults.append("no label in it")
    if faults or reading.unknown:
        raise Faulty(faults, reading.unknown)
    return reading


def read_object(body: bytes, taxonomy: Taxonomy, *, max_chars: int) -> Reading:
    """Read ``{"annotations": [...]}``.

    Raises
    ------
    msgspec.DecodeError, UnicodeDecodeError, RecursionError
        If it is not JSON, or JSON of another shape.
    Faulty
        With every fault, ``annotations[3].text: what is wrong and what is allowed``.
    """
    rows = msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8), type=_Batch).annotations
    labels, faults = [], []
    for place, row in enumerate(rows):
        where = f"annotations[{place}]"
        found = _unknown_fields(row)
        annotator = row.pop("annotator", None)
        if row.get("id") is None:
            row.pop("id", None)
        example, more = check_example(row, "", taxonomy)
        found += more
        if not isinstance(annotator, str | None):
            found.append(f"annotator: must be text or null, not {type(annotator).__name__}")
        elif annotator is not None and (fault := annotator_fault(annotator)):
            found.append(f"annotator: {fault}")
        if example is not None and not found:
            fields = {name: getattr(example, name) for name in example.__struct_fields__}
            label = Label(where=where, annotator=annotator, **{**fields, "id": example.id or None})
            found = name_faults(label, max_chars)
            labels.append(label)
        faults += [f"{where}.{fault}" for fault in found]
    if not rows:
        faults.append("annotations: empty; at least one is needed")
    if faults:
        raise Faulty(_first(faults), [])
    return Reading(OBJECT, "utf-8", labels, 0, {}, [], [])


def _first(faults: list[str]) -> list[str]:
    more = len(faults) - MAX_LISTED
    return [*faults[:MAX_LISTED], f"and {more:,} more"] if more > 0 else faults


def _unknown_fields(row: dict[str, Any]) -> list[str]:
    """Take the fields out of an annotation that it may not have, and say so of each."""
    unknown = [name for name in row if name not in _FIELDS]
    for name in unknown:
        del row[name]
    shown = (shorten(name) if _NAME.fullmatch(name) else "(unnamed)" for name in unknown)
    return [f"{name}: unknown field; allowed are {', '.join(_FIELDS)}" for name in shown]


def annotator_fault(name: str) -> str | None:
    """Say why an annotator cannot be called so, or return None."""
    if name.strip() and len(name) <= MAX_NAME_CHARS and "\0" not in name:
        return None
    return f"must be 1 to {MAX_NAME_CHARS} characters, not all of them blank and none of them NUL"


def name_faults(label: Label, max_chars: int | None) -> list[str]:
    """Say what of a label's text and names is too long to be kept, or cannot be, ``field: what is wrong``."""
    faults = []
    if max_chars is not None and len(label.text) > max_chars:
        faults.append(f"text: longer than {max_chars:,} characters, which is the limit for a paragraph")
    for name in ("id", "document_id", "speaker", "language", "source", "annotator"):
        value: Any = getattr(label, name)
        if value is not None and len(value) > MAX_NAME_CHARS:
            faults.append(f"{name}: longer than {MAX_NAME_CHARS} characters, which is the limit")
        elif value is not None and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
            faults.append(f"{name}: holds NUL or a lone surrogate")
    return faults


def add(
    connection: Connection, reading: Reading, *, annotator: str, origin: str, dry_run: bool = False
) -> ImportReport:
    """Add what was read, all of it, in a writing transaction.

    Parameters
    ----------
    annotator : str
        Whose labels they are where the file does not say.

    Raises
    ------
    DryRun
        With the report, if that is all that is wanted.
    """
    batch = [
        Incoming(
            text=label.text,
            topics=label.topics,
            annotator=label.annotator or annotator,
            id=label.id,
            speaker=label.speaker,
            document_id=label.document_id,
            language=label.language,
            source=label.source,
        )
        for label in reading.labels
    ]
    added = corpus.add(connection, batch, origin, restate=reading.format == OBJECT)
    report = ImportReport(
        **msgspec.structs.asdict(added),
        format=reading.format,
        encoding=reading.encoding,
        off_topic=sum(not label.topics for label in reading.labels),
        skipped=reading.skipped_why,
        dry_run=dry_run,
    )
    if dry_run:
        raise DryRun(report)
    return report


def _nearest(label: UnknownLabel) -> str:
    times = f" ({label.count} times)" if label.count > 1 else ""
    nearest = f"; nearest: {', '.join(label.nearest)}" if label.nearest else ""
    return f"{label.label!r}{times} is no label of the taxonomy{nearest}"
