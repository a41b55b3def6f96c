"""Embeddings kept on disk by the hash of their text, so that to fit again embeds only what is new."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.encoder import Encoder


class Embeddings:
    """Embed texts, each once.

    Parameters
    ----------
    encoder : Encoder
    folder : Path, optional
        Where they are kept, in a file for each encoder; nowhere without it. It may be deleted at any time.

    Attributes
    ----------
    made : int
        How many texts were embedded and not found.
    """

    def __init__(self, encoder: Encoder, folder: Path | None) -> None:
        self.encoder = encoder
        self.made = 0
        # Quantisation, pooling and length are in the graph and the specification, so both name the file.
        named = hashlib.sha256(encoder.graph + encoder.tokenizer + repr(encoder.spec).encode()).hexdigest()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        place = ":memory:" if folder is None else str(folder / f"{named[:16]}.sqlite")
        self._database = sqlite3.connect(place, isolation_level=None, timeout=30)
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE IF NOT EXISTS embeddings (text BLOB PRIMARY KEY, vector BLOB NOT NULL)")

    def __call__(self, text: str) -> NDArray[np.float64]:
        """Return the embedding of a text, shape (d,)."""
        name = hashlib.sha256(text.encode()).digest()
        found = self._database.execute("SELECT vector FROM embeddings WHERE text = ?", (name,)).fetchone()
        if found is not None:
            return np.frombuffer(found[0], dtype=np.float64)
        vector = self.encoder.embed(text)
        self.made += 1
        self._database.execute("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", (name, vector.tobytes()))
        return vector

    def close(self) -> None:
        self._database.close()
