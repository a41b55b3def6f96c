"""Requests under an Idempotency-Key: the same key and body get the same answer, however often they come."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select

from models.errors import StanceryError
from service.store.schema import now, requests

KEPT = timedelta(days=7)


class KeyReused(StanceryError):
    """The key came before, with another body."""


class Answered(NamedTuple):
    """A status and the JSON that goes with it."""

    status: int
    body: bytes


def kept(connection: Connection, actor: str, key: str, body: bytes) -> Answered | None:
    """Return the answer that was given to this key and body, None where the key has not come yet.

    Raises
    ------
    KeyReused
    """
    found = connection.execute(select(requests).where(requests.c.actor == actor, requests.c.key == key)).first()
    if found is None:
        return None
    if found.body != _digest(body):
        raise KeyReused("idempotency-key: came before with another body; take a new key for a new request")
    return Answered(found.status, found.answer.encode())


def once(
    connection: Connection, actor: str, key: str | None, body: bytes, work: Callable[[Connection], Answered]
) -> Answered:
    """Do `work` and keep its answer in the same transaction, or return the answer kept.

    Raises
    ------
    KeyReused
    """
    if key is None:
        return work(connection)
    oldest = (datetime.now(UTC) - KEPT).isoformat(timespec="milliseconds")
    connection.execute(delete(requests).where(requests.c.created < oldest))
    if (found := kept(connection, actor, key, body)) is not None:
        return found
    answer = work(connection)
    connection.execute(
        insert(requests),
        {
            "actor": actor,
            "key": key,
            "body": _digest(body),
            "status": answer.status,
            "answer": answer.body.decode(),
            "created": now(),
        },
    )
    return answer


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
