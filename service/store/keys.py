"""API keys: made once, kept as a digest."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from models.errors import StanceryError
from service.store.schema import api_keys, now

SCOPES = ("classify", "label", "admin")
PREFIX = "stancery"


class Key(NamedTuple):
    """A key as the store has it; the secret itself is nowhere."""

    id: str
    name: str
    scopes: tuple[str, ...]
    digest: str
    requests_per_minute: int | None
    created: str
    revoked: str | None


def digest_of(secret: str) -> str:
    """Return SHA-256 of a secret. It has 256 random bits, so a slow hash, made for passwords, would add nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create(connection: Connection, name: str, scopes: Sequence[str], requests_per_minute: int | None) -> str:
    """Make a key and return it whole, for the only time.

    Raises
    ------
    StanceryError
        If the name is taken.
    """
    if connection.execute(select(api_keys.c.id).where(api_keys.c.name == name)).first():
        raise StanceryError(f"name: {name!r} is taken; revoked keys keep their names, so that labels stay theirs")
    id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    connection.execute(
        insert(api_keys),
        {
            "id": id,
            "name": name,
            "scopes": " ".join(scopes),
            "digest": digest_of(secret),
            "requests_per_minute": requests_per_minute,
            "created": now(),
        },
    )
    return f"{PREFIX}_{id}_{secret}"


def revoke(connection: Connection, name: str) -> None:
    """Make a key useless.

    Raises
    ------
    StanceryError
        If there is no such key.
    """
    row = update(api_keys).where(api_keys.c.name == name, api_keys.c.revoked.is_(None)).values(revoked=now())
    if not connection.execute(row).rowcount:
        raise StanceryError(f"name: there is no key {name!r} in use")


def every(connection: Connection) -> list[Key]:
    """Return every key, revoked ones too, oldest first."""
    rows = connection.execute(select(api_keys).order_by(api_keys.c.created, api_keys.c.id))
    return [
        Key(row.id, row.name, tuple(row.scopes.split()), row.digest, row.requests_per_minute, row.created, row.revoked)
        for row in rows
    ]
