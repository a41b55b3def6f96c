"""Annotations as events: added in batches, read as the examples they amount to."""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, func, insert, select

from models.examples import Example
from service.store.database import Database
from service.store.schema import events, now, paragraphs

_CHUNK = 500
_PAGE = 1000
_LISTED = 20


class Incoming(msgspec.Struct, frozen=True):
    """What one annotator says of one paragraph."""

    text: str
    topics: dict[str, str | None]
    annotator: str
    id: str | None = None
    speaker: str | None = None
    document_id: str | None = None
    language: str | None = None
    source: str | None = None


class Conflict(msgspec.Struct, frozen=True):
    """A paragraph of which two annotators, or one file twice, say different things."""

    id: str
    text: str
    annotations: dict[str, dict[str, str | None]]


class Added(msgspec.Struct, frozen=True):
    """What a batch brought.

    ``new``, ``changed`` and ``duplicate`` add up to ``received``: the annotator had said nothing of the paragraph yet,
    something else, or just this. ``conflicting`` are those that contradict another annotator, or the batch itself.
    """

    received: int
    new: int
    changed: int
    duplicate: int
    conflicting: int
    conflicts: list[Conflict]


class _Said(NamedTuple):
    topics: dict[str, str | None]
    speaker: str | None


def digest_of(text: str) -> str:
    """Return what a paragraph is known by: SHA-256 of its text in NFC, its white space folded."""
    return hashlib.sha256(" ".join(unicodedata.normalize("NFC", text).split()).encode()).hexdigest()


def add(connection: Connection, batch: Sequence[Incoming], origin: str, *, restate: bool = False) -> Added:
    """Append what `batch` says, passing over what its annotator has said already.

    Parameters
    ----------
    connection : Connection
        In a writing transaction.
    batch : sequence of Incoming
        Checked: every topic is known, every stance canonical.
    origin : str
        Where it came from, kept with every event.
    restate : bool
        Pass over only what was said last of all of the paragraph. A person who says again what somebody contradicted
        means it; a file that is imported again says nothing new.
    """
    digests = [digest_of(item.text) for item in batch]
    numbers = _known(connection, digests)
    fresh: dict[str, Incoming] = {}
    for digest, item in zip(digests, batch, strict=True):
        if digest not in numbers:
            fresh.setdefault(digest, item)
    numbers |= _add_paragraphs(connection, fresh)
    said = _latest(connection, sorted(numbers.values()))
    counts = {"new": 0, "changed": 0, "duplicate": 0}
    appended: list[dict[str, object]] = []
    conflicts: list[Conflict] = []
    conflicting, created = 0, now()
    in_batch: set[tuple[int, str]] = set()
    for digest, item in zip(digests, batch, strict=True):
        number = numbers[digest]
        own = said.setdefault(number, {})
        before, after = own.get(item.annotator), _Said(item.topics, item.speaker)
        known = before == after and (not restate or next(reversed(own)) == item.annotator)
        others = {name: each.topics for name, each in own.items() if name != item.annotator}
        contradicted = {name: topics for name, topics in others.items() if topics != item.topics}
        if before is not None and before.topics != item.topics and (number, item.annotator) in in_batch:
            contradicted[f"{item.annotator}, before"] = before.topics
        in_batch.add((number, item.annotator))
        if contradicted:
            conflicting += 1
            if len(conflicts) < _LISTED:
                said_here = {**contradicted, item.annotator: item.topics}
                conflicts.append(Conflict(item.id or digest[:16], item.text[:200], said_here))
        counts["new" if before is None else "duplicate" if known else "changed"] += 1
        if not known:
            own.pop(item.annotator, None)
            own[item.annotator] = after
            appended.append(
                {
                    "paragraph": number,
                    "annotator": item.annotator,
                    "topics": msgspec.json.encode(item.topics, order="sorted").decode(),
                    "speaker": item.speaker,
                    "origin": origin,
                    "created": created,
                }
            )
    if appended:
        connection.execute(insert(events), appended)
    return Added(len(batch), **counts, conflicting=conflicting, conflicts=conflicts)


def _known(connection: Connection, digests: Sequence[str]) -> dict[str, int]:
    columns = select(paragraphs.c.digest, paragraphs.c.number)
    return {
        digest: number
        for chunk in _chunks(list(dict.fromkeys(digests)))
        for digest, number in connection.execute(columns.where(paragraphs.c.digest.in_(chunk)))
    }


def _add_paragraphs(connection: Connection, fresh: dict[str, Incoming]) -> dict[str, int]:
    """Add paragraphs in their order. An id that another text has taken is told apart by the text's digest."""
    wanted = [id for digest, item in fresh.items() for id in _ids(item, digest)]
    taken = {
        id
        for chunk in _chunks(wanted)
        for (id,) in connection.execute(select(paragraphs.c.id).where(paragraphs.c.id.in_(chunk)))
    }
    rows = []
    for digest, item in fresh.items():
        id = next((id for id in _ids(item, digest) if id not in taken), f"{digest}-{secrets.token_hex(8)}")
        taken.add(id)
        rows.append(
            {
                "digest": digest,
                "id": id,
                "text": item.text,
                "document_id": item.document_id,
                "language": item.language,
                "source": item.source,
            }
        )
    if rows:
        connection.execute(insert(paragraphs), rows)
    return _known(connection, list(fresh))


def _ids(item: Incoming, digest: str) -> list[str]:
    """Return what a paragraph may be called, in the order of preference; only on purpose would others take all."""
    own = item.id or digest[:16]
    return [own, f"{own}-{digest[:16]}", f"{own}-{digest}"]


def _latest(connection: Connection, numbers: Sequence[int]) -> dict[int, dict[str, _Said]]:
    """Return what each annotator said last of each paragraph, in the order in which they said it."""
    found: dict[int, dict[str, _Said]] = {}
    for chunk in _chunks(numbers):
        last = (
            select(func.max(events.c.number))
            .where(events.c.paragraph.in_(chunk))
            .group_by(events.c.paragraph, events.c.annotator)
        )
        rows = select(events).where(events.c.number.in_(last)).order_by(events.c.number)
        for row in connection.execute(rows):
            said = _Said(msgspec.json.decode(row.topics), row.speaker)
            found.setdefault(row.paragraph, {})[row.annotator] = said
    return found


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    # Databases limit how many values a statement may hold.
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def last_number(connection: Connection) -> int:
    """Return the number of the last event, 0 where there is none. What lies up to it never changes."""
    return connection.execute(select(func.max(events.c.number))).scalar() or 0


def page(connection: Connection, after: int, up_to: int) -> list[tuple[int, Example]]:
    """Return a page of examples, each with its paragraph's number, as the events up to `up_to` make them.

    The latest annotation of a paragraph wins, whoever made it.
    """
    event = events.alias()
    last = (
        select(func.max(event.c.number))
        .where(event.c.paragraph == paragraphs.c.number, event.c.number <= up_to)
        .correlate(paragraphs)
        .scalar_subquery()
    )
    rows = (
        select(paragraphs, events.c.topics, events.c.speaker)
        .select_from(paragraphs.join(events, events.c.paragraph == paragraphs.c.number))
        .where(events.c.number == last)
        .where(paragraphs.c.number > after)
        .order_by(paragraphs.c.number)
        .limit(_PAGE)
    )
    return [
        (
            row.number,
            Example(
                row.id,
                row.text,
                msgspec.json.decode(row.topics),
                row.speaker,
                row.document_id,
                row.language,
                row.source,
            ),
        )
        for row in connection.execute(rows)
    ]


def examples(database: Database, up_to: int) -> Iterator[Example]:
    """Yield every example, page by page, so that no lock is held in between."""
    after = 0
    while True:
        with database.reading() as connection:
            rows = page(connection, after, up_to)
        if not rows:
            return
        yield from (example for _, example in rows)
        after = rows[-1][0]


class Disagreements(NamedTuple):
    """Of the paragraphs up to ``last``, None where there is none: on how many annotators disagree, and the first."""

    last: int | None
    disputed: int
    listed: list[Conflict]


def disagreements(connection: Connection, limit: int, after: int = 0) -> Disagreements:
    """Look through a page of paragraphs, those numbered above `after`, for such of which annotators, each by the last
    they said, say different things."""
    page = select(paragraphs.c.number).where(paragraphs.c.number > after).order_by(paragraphs.c.number).limit(_PAGE)
    end = connection.execute(select(func.max(page.subquery().c.number))).scalar()
    if end is None:
        return Disagreements(None, 0, [])
    last = (
        select(func.max(events.c.number))
        .where(events.c.paragraph > after, events.c.paragraph <= end)
        .group_by(events.c.paragraph, events.c.annotator)
    )
    disputed = (
        select(events.c.paragraph)
        .where(events.c.number.in_(last))
        .group_by(events.c.paragraph)
        .having(func.count(events.c.topics.distinct()) > 1)
    )
    count = connection.execute(select(func.count()).select_from(disputed.subquery())).scalar_one()
    rows = connection.execute(
        select(paragraphs.c.number, paragraphs.c.id, paragraphs.c.text)
        .where(paragraphs.c.number.in_(disputed))
        .order_by(paragraphs.c.number)
        .limit(limit)
    ).all()
    said = _latest(connection, [row.number for row in rows])
    return Disagreements(
        end,
        count,
        [
            Conflict(row.id, row.text[:200], {name: each.topics for name, each in said[row.number].items()})
            for row in rows
        ],
    )
