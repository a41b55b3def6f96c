"""Embeddings kept on disk by the hash of their text, so that to fit again embeds only what is new."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.encoder import Encoder

# Seconds to wait for another that has the file.
PATIENCE = 30.0


class Embeddings:
    """Embed texts, each once.

    Parameters
    ----------
    encoder : Encoder
    folder : Path, optional
        Where they are kept, in a file for each encoder; in memory without it. It may be deleted at any time: what
        cannot be kept is embedded again.

    Attributes
    ----------
    made : int
        How many texts were embedded and not found.
    """

    def __init__(self, encoder: Encoder, folder: Path | None) -> None:
        self.encoder = encoder
        self.made = 0
        # What an embedding hangs on names the file.
        read = f"{encoder.spec.pooling} {encoder.spec.max_length}".encode()
        named = hashlib.sha256(encoder.graph + encoder.tokenizer + read).hexdigest()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._database = _opened(None if folder is None else folder / f"{named[:16]}.sqlite")

    def __call__(self, text: str) -> NDArray[np.float64]:
        """Return the embedding of a text, shape (d,)."""
        name = hashlib.sha256(text.encode()).digest()
        found = self._execute("SELECT vector FROM embeddings WHERE text = ?", name).fetchone()
        if found is not None:
            return np.frombuffer(found[0], dtype=np.float64)
        vector = self.encoder.embed(text)
        self.made += 1
        self._execute("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", name, vector.tobytes())
        return vector

    def _execute(self, statement: str, *values: bytes) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.OperationalError:
            # Busy for long, full, or deleted under our hands: nothing is lost but time.
            self._database.close()
            self._database = _opened(None)
            return self._database.execute(statement, values)

    def close(self) -> None:
        self._database.close()


def _opened(place: Path | None) -> sqlite3.Connection:
    """Open the file; one that is damaged is begun anew, since all in it can be made again."""
    database = sqlite3.connect(":memory:" if place is None else place, isolation_level=None, timeout=PATIENCE)
    try:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("CREATE TABLE IF NOT EXISTS embeddings (text BLOB PRIMARY KEY, vector BLOB NOT NULL)")
        if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("damaged")
    except sqlite3.OperationalError:
        # Busy, or no room: nothing is wrong with the file.
        database.close()
        if place is None:
            raise
        return _opened(None)
    except sqlite3.DatabaseError:
        database.close()
        if place is None:
            raise
        place.unlink(missing_ok=True)
        return _opened(place)
    return database
