"""Databases of what was made once of a text and is looked up by its hash. Any may be deleted at any time."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

# How SQLite says that a file is not, or is no more, a database.
_DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


def open_kept(folder: Path | None, name: str, tables: Sequence[str]) -> sqlite3.Connection:
    """Open a database, and make its tables; one that is damaged is begun anew.

    Parameters
    ----------
    folder : Path, optional
        Without it the database is gone when it is closed.
    name : str
        Of its file.
    tables : sequence of str
        Statements that make them where they are not there.
    """
    if folder is None:
        return _opened("", tables)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / name
    try:
        return _opened(str(place), tables)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode not in _DAMAGED:
            raise
        place.unlink()
        return _opened(str(place), tables)


def _opened(place: str, tables: Sequence[str]) -> sqlite3.Connection:
    database = sqlite3.connect(place, isolation_level=None, timeout=30)
    for statement in tables:
        database.execute(statement)
    return database


def name_of(text: str) -> bytes:
    """Return what a text is looked up by."""
    return hashlib.sha256(text.encode()).digest()
