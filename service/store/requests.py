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
    digest = hashlib.sha256(body).hexdigest()
    mine = (requests.c.actor == actor, requests.c.key == key)
    oldest = (datetime.now(UTC) - KEPT).isoformat(timespec="milliseconds")
    connection.execute(delete(requests).where(requests.c.created < oldest))
    found = connection.execute(select(requests).where(*mine)).first()
    if found is not None:
        if found.body != digest:
            raise KeyReused("idempotency-key: came before with another body; take a new key for a new request")
        return Answered(found.status, found.answer.encode())
    answer = work(connection)
    connection.execute(
        insert(requests),
        {
            "actor": actor,
            "key": key,
            "body": digest,
            "status": answer.status,
            "answer": answer.body.decode(),
            "created": now(),
        },
    )
    return answer
