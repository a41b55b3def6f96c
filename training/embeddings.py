"""Embeddings kept on disk by the hash of their text, so that to fit again embeds only what is new."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.encoder import Encoder
from training.kept import name_of, open_kept

_TABLES = ("CREATE TABLE IF NOT EXISTS embeddings (text BLOB PRIMARY KEY, vector BLOB NOT NULL)",)


class Embeddings:
    """Embed texts, each once.

    Parameters
    ----------
    encoder : Encoder
    folder : Path, optional
        Where they are kept, in a file for each encoder; nowhere without it.

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
        self._database = open_kept(folder, f"{named[:16]}.sqlite", _TABLES)
        # Each is written as it is made; an outage of power may leave a file that has to be deleted.
        self._database.execute("PRAGMA synchronous = OFF")

    def __call__(self, text: str) -> NDArray[np.float64]:
        """Return the embedding of a text, shape (d,)."""
        name = name_of(text)
        found = self._database.execute("SELECT vector FROM embeddings WHERE text = ?", (name,)).fetchone()
        if found is not None:
            return np.frombuffer(found[0], dtype=np.float64)
        vector = self.encoder.embed(text)
        self.made += 1
        self._database.execute("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", (name, vector.tobytes()))
        return vector

    def close(self) -> None:
        self._database.close()
