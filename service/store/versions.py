"""Model versions: which there are, which is active, and how it came to be."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, RowMapping, false, func, insert, select, update

from models.bundle import Manifest
from models.errors import StanceryError
from service.store.schema import activations, model_versions, now


class UnknownVersion(StanceryError):
    """A version that the store does not have."""


class Version(msgspec.Struct, frozen=True):
    """A registered bundle. ``path`` is relative to the home where it lies there."""

    version: str
    state: str
    path: str
    family: str
    created: str
    parent: str | None
    taxonomy: str
    metrics: dict[str, str]


class Wanted(NamedTuple):
    """What the store wants served: a version, by the activation of that number, and which one failed then, if any."""

    number: int
    version: str
    path: str
    failed: str | None


def register(connection: Connection, manifest: Manifest, path: Path, home: Path, state: str = "candidate") -> None:
    """Make a bundle known that was verified where it lies. Of one that is known already that is where it lies from now
    on, and if it was rejected it may pass after all."""
    path = path.absolute()
    place = path.relative_to(home.absolute()) if path.is_relative_to(home.absolute()) else path
    same = model_versions.c.version == manifest.version
    known = connection.execute(select(model_versions.c.state).where(same)).scalar()
    if known is not None:
        values = {"path": str(place), "state": state if known == "rejected" else known}
        connection.execute(update(model_versions).where(same).values(values))
        return
    connection.execute(
        insert(model_versions),
        {
            "version": manifest.version,
            "state": state,
            "path": str(place),
            "family": manifest.family,
            "created": manifest.created,
            "parent": manifest.parent,
            "taxonomy": manifest.taxonomy_hash,
            "metrics": msgspec.json.encode(manifest.headline()).decode(),
        },
    )


def activate(connection: Connection, version: str, actor: str) -> None:
    """Make a version the active one and retire the one that was.

    Raises
    ------
    UnknownVersion
    """
    find(connection, version)
    active = model_versions.c.state == "active"
    connection.execute(update(model_versions).where(active).values(state="retired"))
    connection.execute(update(model_versions).where(model_versions.c.version == version).values(state="active"))
    connection.execute(insert(activations), {"version": version, "actor": actor, "created": now()})


def note_failure(connection: Connection, version: str, actor: str, failure: str) -> None:
    """Keep that a version could not be made active; the active one stays."""
    row = {"version": version, "actor": actor, "failure": failure, "created": now()}
    connection.execute(insert(activations), row)


def find(connection: Connection, version: str) -> Version:
    """Return one version.

    Raises
    ------
    UnknownVersion
    """
    # PostgreSQL cannot be asked for a NUL.
    same = false() if "\0" in version else model_versions.c.version == version
    row = connection.execute(select(model_versions).where(same)).mappings().first()
    if row is None:
        raise UnknownVersion(f"{version}: no such version here")
    return _version(row)


def every(connection: Connection) -> list[Version]:
    """Return every version, the newest first."""
    order = model_versions.c.created.desc(), model_versions.c.version
    return [_version(row) for row in connection.execute(select(model_versions).order_by(*order)).mappings()]


def _version(row: RowMapping) -> Version:
    values = dict(row)
    return Version(**{**values, "metrics": msgspec.json.decode(values["metrics"])})


def wanted(connection: Connection) -> Wanted | None:
    """Return what should be served, or None before any version was made active."""
    last = select(func.max(activations.c.number)).scalar_subquery()
    # One statement, so that the version and the activation are of the same moment.
    found = connection.execute(
        select(
            activations.c.number,
            activations.c.version.label("tried"),
            activations.c.failure,
            model_versions.c.version,
            model_versions.c.path,
        )
        .join_from(activations, model_versions, model_versions.c.state == "active")
        .where(activations.c.number == last)
    ).first()
    if found is None:
        return None
    return Wanted(found.number, found.version, found.path, found.tried if found.failure else None)


def served_before(connection: Connection) -> list[tuple[str, str]]:
    """Return the versions that were active with their paths, the latest first: what to fall back on."""
    when = (
        select(activations.c.version, func.max(activations.c.number).label("number"))
        .where(activations.c.failure.is_(None))
        .group_by(activations.c.version)
        .subquery()
    )
    rows = select(model_versions.c.version, model_versions.c.path)
    rows = rows.join(when, when.c.version == model_versions.c.version).order_by(when.c.number.desc())
    return [(version, path) for version, path in connection.execute(rows)]
