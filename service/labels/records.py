"""What reading a labelled file gives: labels, what was passed over, and everything that is wrong."""

from __future__ import annotations

import msgspec

ABOUT = ("id", "document_id", "speaker", "language", "source", "annotator")


class Label(msgspec.Struct, frozen=True):
    """One labelled paragraph as it was read.

    ``where`` is its place in the file: ``line 17``, ``item 3`` or ``row 12 (line 14)``. ``topics`` maps a topic's id to
    its stance, or to None where none was said; an empty mapping says off topic. ``annotator`` is who labelled it, where
    the tool tells.
    """

    where: str
    text: str
    topics: dict[str, str | None]
    id: str | None = None
    speaker: str | None = None
    document_id: str | None = None
    language: str | None = None
    source: str | None = None
    annotator: str | None = None


class UnknownLabel(msgspec.Struct, frozen=True):
    """A label that names no topic, or a stance that is none.

    ``nearest`` holds up to three ids of topics, or stances where it is the stance that is unknown, best first.
    """

    label: str
    count: int
    first: str
    nearest: list[str]


class Reading(msgspec.Struct, frozen=True):
    """A labelled file, read to its end.

    ``labels`` leaves out every paragraph that has a fault or an unknown label. ``skipped`` counts those that the file
    itself says are not labelled, and those whose every label was dropped; ``skipped_why`` parts them by reason.
    """

    format: str
    encoding: str
    labels: list[Label]
    skipped: int
    skipped_why: dict[str, int]
    unknown: list[UnknownLabel]
    faults: list[str]
