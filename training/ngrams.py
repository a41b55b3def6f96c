"""Count the n-grams of each text once: what was counted is kept on disk, so that to fit again counts only what is new.

What changes with the set of texts, the vocabulary, the idf and so every value, is made anew from the counts, which
takes no text apart. The values are those of :mod:`models.features`, to the last bit.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.features import WORD_NGRAMS, NgramFeatures
from models.plain import CACHED_CHUNKS, CHAR_NGRAMS, WORD, char_ngrams, normalised, sublinear
from training.kept import name_of, open_kept

# Numbers of n-grams, in the order in which they first occur, and how often they do: shape (2, n).
Counts = NDArray[np.int32]
# What takes a text apart: by other rules, or by another Unicode, it has other n-grams.
_GRAMMAR = repr((WORD.pattern, WORD_NGRAMS, CHAR_NGRAMS, unicodedata.unidata_version))
_TABLES = (
    "CREATE TABLE IF NOT EXISTS counts (text BLOB PRIMARY KEY, words BLOB NOT NULL, chars BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS grams (block TEXT, first INTEGER, names TEXT NOT NULL, PRIMARY KEY (block, first))",
)


class Ngrams:
    """Count the n-grams of texts, of each text once.

    Parameters
    ----------
    folder : Path, optional
        Where counts are kept, in a file of their own; nowhere without it.

    Attributes
    ----------
    made : int
        How many texts were counted and not found.
    """

    def __init__(self, folder: Path | None) -> None:
        self.made = 0
        named = hashlib.sha256(_GRAMMAR.encode()).hexdigest()
        self._database = open_kept(folder, f"ngrams-{named[:16]}.sqlite", _TABLES)

    def fit(self, texts: Sequence[str], *, min_df: int) -> tuple[NgramFeatures, sparse.csr_matrix]:
        """Learn the vocabulary, n-grams in at least `min_df` texts, and the smooth idf, ``1 + ln((1 + n) / (1 + df))``.

        Returns
        -------
        features : NgramFeatures
        matrix : csr_matrix of float64, shape (n_texts, features.size)
            The rows of `texts`, columns ascending.
        """
        names = [name_of(text) for text in texts]
        # All in one transaction: numbers mean something beside the n-grams that were there with them.
        with self._database as database:
            database.execute("BEGIN")
            blocks = _Blocks(_Block(self._kept("words")), _Block(self._kept("chars")))
            rows = {name: row for name in names if (row := self._row(name)) is not None}
        new = {}
        for name, text in zip(names, texts, strict=True):
            if name not in rows:
                rows[name] = new[name] = blocks.taken_apart(text.lower())
        self.made += len(new)
        if new:
            self._keep(blocks, new)
        return _fitted(blocks, [_unpacked(rows[name]) for name in names], min_df)

    def close(self) -> None:
        self._database.close()

    def _kept(self, block: str) -> list[str]:
        rows = self._database.execute("SELECT names FROM grams WHERE block = ? ORDER BY first", (block,)).fetchall()
        # Words and chunks are what stands between white space: there is no line end in any n-gram.
        return [name for (names,) in rows for name in names.split("\n")]

    def _row(self, name: bytes) -> _Packed | None:
        row = self._database.execute("SELECT words, chars FROM counts WHERE text = ?", (name,)).fetchone()
        return None if row is None else _Packed(*row)

    def _keep(self, blocks: _Blocks, new: dict[bytes, _Packed]) -> None:
        """Write down what is new, unless another training has given the same numbers to other n-grams meanwhile."""
        with self._database as database:
            database.execute("BEGIN IMMEDIATE")
            if any(len(self._kept(name)) != block.kept for name, block in blocks._asdict().items()):
                return
            for name, block in blocks._asdict().items():
                if added := list(block.number_of)[block.kept :]:
                    database.execute("INSERT INTO grams VALUES (?, ?, ?)", (name, block.kept, "\n".join(added)))
            rows = ((name, *row) for name, row in new.items())
            database.executemany("INSERT OR IGNORE INTO counts VALUES (?, ?, ?)", rows)


def _fitted(
    blocks: _Blocks, counts: Sequence[tuple[Counts, Counts]], min_df: int
) -> tuple[NgramFeatures, sparse.csr_matrix]:
    words = blocks.words.vocabulary([words for words, _ in counts], min_df)
    chars = blocks.chars.vocabulary([chars for _, chars in counts], min_df)
    df = np.concatenate([words.df, chars.df])
    idf = (1.0 + np.log((1.0 + len(counts)) / (1.0 + df))).astype(np.float32)
    columns, values = [], []
    for both in counts:
        for found, vocabulary, first in zip(both, (words, chars), (0, len(words.names)), strict=True):
            column, times = vocabulary.known(found)
            columns.append(column + first)
            values.append(normalised(sublinear(times) * idf[columns[-1]].astype(np.float64)))
    ends = np.cumsum([0, *map(len, columns)])[::2]
    matrix = sparse.csr_matrix((np.concatenate(values), np.concatenate(columns), ends), (len(counts), len(idf)))
    matrix.sort_indices()
    return NgramFeatures(words.names, chars.names, idf), matrix


class _Packed(NamedTuple):
    """The counts of one text as they are kept."""

    words: bytes
    chars: bytes


def _packed(numbers: Iterable[int]) -> bytes:
    counts = Counter(numbers)
    return np.array([[*counts.keys()], [*counts.values()]], np.int32).tobytes()


def _unpacked(row: _Packed) -> tuple[Counts, Counts]:
    words, chars = (np.frombuffer(part, np.int32).reshape(2, -1) for part in row)
    return words, chars


class _Vocabulary(NamedTuple):
    """The n-grams that are looked for: `names`, the commonest first, in how many texts each occurs, `df`, and the
    column of each number, -1 where it has none."""

    names: list[str]
    df: NDArray[np.int64]
    column: NDArray[np.int32]

    def known(self, counts: Counts) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the columns that a text has, and how often each occurs."""
        column = self.column[counts[0]]
        has = column >= 0
        return column[has], counts[1, has]


class _Block:
    """N-grams numbered as they come; `kept` of them are on disk."""

    def __init__(self, names: Sequence[str]) -> None:
        self.number_of = {name: number for number, name in enumerate(names)}
        self.kept = len(names)
        self.of_chunk = lru_cache(maxsize=CACHED_CHUNKS)(lambda chunk: self.numbered(char_ngrams(chunk)))

    def numbered(self, grams: Iterable[str]) -> list[int]:
        number = self.number_of.setdefault
        return [number(gram, len(self.number_of)) for gram in grams]

    def vocabulary(self, counts: Iterable[Counts], least: int) -> _Vocabulary:
        df = np.zeros(len(self.number_of), np.int64)
        for numbers, _ in counts:
            df[numbers] += 1
        names = list(self.number_of)
        frequent = np.flatnonzero(df >= least).tolist()
        # What is asked for together lies together in memory then, weights and all, and most stays near the processor.
        order = [number for *_, number in sorted((-int(df[number]), names[number], number) for number in frequent)]
        column = np.full(len(names), -1, np.int32)
        column[order] = np.arange(len(order))
        return _Vocabulary([names[number] for number in order], df[order], column)


class _Blocks(NamedTuple):
    """The n-grams of words and those of characters, which are columns apart."""

    words: _Block
    chars: _Block

    def taken_apart(self, lowered: str) -> _Packed:
        """Return the counts of a lower-case text."""
        words = WORD.findall(lowered)
        bigrams = (f"{one} {other}" for one, other in pairwise(words))
        chars = chain.from_iterable(map(self.chars.of_chunk, lowered.split()))
        return _Packed(_packed(self.words.numbered([*words, *bigrams])), _packed(chars))
