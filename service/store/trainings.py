"""Trainings as jobs in a queue: one runs at a time per store, whichever process runs it."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, false, insert, select, update

from models.errors import StanceryError
from service.store.schema import now, trainings

_COLUMNS = [column for column in trainings.c if column.name not in ("audit", "gate")]
_LISTED = 100


class UnknownTraining(StanceryError):
    """A training that the store does not have."""


class Progress(msgspec.Struct, frozen=True):
    """Where a training stands: ``fraction`` in [0, 1]; ``seconds_left`` at the pace so far, once it can be told."""

    phase: str
    fraction: float
    message: str
    seconds_left: float | None = None


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """A job. ``reason`` says why it ended as it did; ``audit`` and ``gate`` are what the trainer found."""

    id: str
    state: str
    family: str
    seed: int
    actor: str
    created: str
    started: str | None = None
    ended: str | None = None
    progress: Progress | None = None
    cancelled_by: str | None = None
    model: str | None = None
    reason: str | None = None
    audit: dict[str, Any] | None = None
    gate: dict[str, Any] | None = None


class Claim(msgspec.Struct, frozen=True):
    """Who runs a training, and how often it has shown that it lives."""

    id: str
    runner: str
    beat: int


def create(connection: Connection, family: str, seed: int, actor: str) -> Training:
    """Queue a training."""
    id = secrets.token_hex(8)
    row = {"id": id, "state": "queued", "family": family, "seed": seed, "actor": actor, "created": now(), "beat": 0}
    connection.execute(insert(trainings), row)
    return find(connection, id)


def _has(id: str) -> ColumnElement[bool]:
    # PostgreSQL cannot be asked for a NUL.
    return false() if "\0" in id else trainings.c.id == id


def find(connection: Connection, id: str) -> Training:
    """Return one training in full.

    Raises
    ------
    UnknownTraining
    """
    row = connection.execute(select(trainings).where(_has(id))).mappings().first()
    if row is None:
        raise UnknownTraining(f"{id[:40]}: no such training here")
    return _training(row)


def state_of(connection: Connection, id: str) -> Training:
    """Return one training without its audit and gate, which may be long."""
    row = connection.execute(select(*_COLUMNS).where(_has(id))).mappings().first()
    if row is None:
        raise UnknownTraining(f"{id[:40]}: no such training here")
    return _training(row)


def latest(connection: Connection) -> list[Training]:
    """Return the latest hundred trainings, newest first, without audit and gate."""
    rows = select(*_COLUMNS).order_by(trainings.c.number.desc()).limit(_LISTED)
    return [_training(row) for row in connection.execute(rows).mappings()]


def _training(row: Any) -> Training:
    values = {name: row[name] for name in Training.__struct_fields__ if name in row}
    for name in ("progress", "audit", "gate"):
        if values.get(name) is not None:
            values[name] = msgspec.json.decode(values[name])
    return msgspec.convert(values, Training)


def pending(connection: Connection) -> tuple[Claim | None, bool]:
    """Return who runs a training now, if any, and whether another waits."""
    rows = connection.execute(
        select(trainings.c.id, trainings.c.state, trainings.c.runner, trainings.c.beat).where(
            trainings.c.state.in_(("running", "queued"))
        )
    ).all()
    running = [Claim(row.id, row.runner or "", row.beat) for row in rows if row.state == "running"]
    return (running[0] if running else None), len(running) < len(rows)


def claim(connection: Connection, runner: str) -> Training | None:
    """Take the oldest training in the queue, unless one runs."""
    oldest = select(trainings.c.id).where(trainings.c.state == "queued").order_by(trainings.c.number).limit(1)
    if connection.execute(select(trainings.c.id).where(trainings.c.state == "running")).first():
        return None
    id = connection.execute(oldest).scalar()
    if id is None:
        return None
    row = update(trainings).where(trainings.c.id == id).values(state="running", runner=runner, started=now())
    connection.execute(row)
    return find(connection, id)


def beat(connection: Connection, id: str, runner: str, progress: Progress | None) -> tuple[bool, str | None]:
    """Show that the runner lives, and how far it is.

    Returns
    -------
    bool
        Whether the training still runs, and is this runner's.
    str or None
        Who asked for it to be cancelled.
    """
    values: dict[str, Any] = {"beat": trainings.c.beat + 1}
    if progress is not None:
        values["progress"] = msgspec.json.encode(progress).decode()
    mine = (trainings.c.id == id, trainings.c.runner == runner, trainings.c.state == "running")
    if not connection.execute(update(trainings).where(*mine).values(**values)).rowcount:
        return False, None
    return True, connection.execute(select(trainings.c.cancelled_by).where(trainings.c.id == id)).scalar()


def finish(
    connection: Connection, id: str, state: str, *, runner: str | None = None, beat: int | None = None, **values: Any
) -> bool:
    """End a running training; return False where it is not running, or not by `runner`, any more, or where that has
    shown itself since it was seen at `beat`."""
    for name in ("audit", "gate"):
        if values.get(name) is not None:
            values[name] = msgspec.json.encode(values[name]).decode()
    mine = [trainings.c.id == id, trainings.c.state == "running"]
    if runner is not None:
        mine.append(trainings.c.runner == runner)
    if beat is not None:
        mine.append(trainings.c.beat == beat)
    ended = update(trainings).where(*mine).values(state=state, ended=now(), **values)
    return bool(connection.execute(ended).rowcount)


def cancel(connection: Connection, id: str, actor: str) -> Training:
    """Cancel a training: at once if it waits, by its runner if it runs, not at all if it has ended.

    Raises
    ------
    UnknownTraining
    """
    row = _has(id)
    reason = f"cancelled by {actor}"
    waiting = update(trainings).where(row, trainings.c.state == "queued")
    connection.execute(waiting.values(state="cancelled", ended=now(), cancelled_by=actor, reason=reason))
    connection.execute(update(trainings).where(row, trainings.c.state == "running").values(cancelled_by=actor))
    return state_of(connection, id)
