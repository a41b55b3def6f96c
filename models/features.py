"""The feature function: one definition for training and for serving.

A paragraph becomes two L2-normalised blocks of sublinear TF-IDF weights, one of word n-grams and one of character
n-grams inside white-space-delimited chunks. The grammar is that of scikit-learn's ``TfidfVectorizer`` (analyzers
``word`` and ``char_wb``), so an exported model is a plain scikit-learn pipeline and the two can be held against each
other. Unlike there, every feature knows the chunk of the original text that it came from.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from models.encoder import Encoder

WORD_NGRAMS = (1, 2)
CHAR_NGRAMS = (2, 5)

_CHUNK = re.compile(r"\S+")
_WORD = re.compile(r"\b\w\w+\b")
_CACHED_CHUNKS = 30_000
_CACHED_LENGTH = 40


class Encoded(NamedTuple):
    """The features of one paragraph.

    Attributes
    ----------
    text : str
    columns : ndarray of int64, shape (n,)
        Sorted and unique.
    values : ndarray of float64, shape (n,)
        Each block, of words and of characters, has norm 1 or is empty.
    """

    text: str
    columns: NDArray[np.int64]
    values: NDArray[np.float64]


class Features(Protocol):
    """What a linear model scores by: n-grams, maybe an encoder, and rows whose columns can be told by chunk of text."""

    @property
    def ngrams(self) -> NgramFeatures: ...

    @property
    def encoder(self) -> Encoder | None: ...

    @property
    def size(self) -> int: ...

    def encode(self, text: str) -> Encoded: ...

    def share_out(self, row: Encoded, weights: NDArray[np.floating]) -> Shares: ...


class Shares(NamedTuple):
    """What a row adds to a logit, taken apart: by chunk of the text, its (start, end) in `spans` and the amount in
    `weights`, float64 of shape (n_chunks,); `rest` belongs to no chunk."""

    spans: list[tuple[int, int]]
    weights: NDArray[np.float64]
    rest: float


class _Occurrences(NamedTuple):
    """Where the features of one paragraph stand.

    Attributes
    ----------
    spans : list of (start, end)
        The chunks of the paragraph, in characters of its text.
    feature : ndarray of int32, shape (n_occurrences,)
        Column of the feature.
    chunk : ndarray of int32, shape (n_occurrences,)
        Index into `spans`. A word bigram across two chunks occurs half in each.
    share : ndarray of float64, shape (n_occurrences,)
        Part of one occurrence, 1.0 or 0.5.
    """

    spans: list[tuple[int, int]]
    feature: NDArray[np.int32]
    chunk: NDArray[np.int32]
    share: NDArray[np.float64]


def add_by_chunk(
    starts: Sequence[int],
    spans: Sequence[tuple[int, int]],
    shares: NDArray[np.float64],
    onto: NDArray[np.float64],
) -> float:
    """Add each token's share to the chunk of text that it stands in; return what stands in none.

    Parameters
    ----------
    starts : sequence of int
        Where the chunks begin, ascending.
    spans : sequence of (start, end), length n_tokens
    shares : ndarray of float64, shape (n_tokens,)
    onto : ndarray of float64, shape (n_chunks,)
        Added to in place.
    """
    rest = 0.0
    for (start, _), share in zip(spans, shares.tolist(), strict=True):
        chunk = bisect_right(starts, start) - 1
        if chunk < 0:
            rest += share
        else:
            onto[chunk] += share
    return rest


def char_ngrams(chunk: str) -> list[str]:
    """Return the n-grams of a lower-case chunk padded by one space on each side; a short chunk yields itself once."""
    padded = f" {chunk} "
    length = len(padded)
    grams = []
    for n in range(CHAR_NGRAMS[0], CHAR_NGRAMS[1] + 1):
        grams += [padded[i : i + n] for i in range(max(length - n, 0) + 1)]
        if n >= length:
            break
    return grams


def _analyzer(column_of: dict[str, int]) -> Callable[[str], tuple[list[str], NDArray[np.int32]]]:
    """Return what takes a chunk apart, into its words and the columns of its n-grams.

    A method in its place, cached by the features that it belongs to, would be a cycle: a bundle that another took over
    from would stay in memory until the garbage collector came by.
    """
    lookup = column_of.get

    def analyze(chunk: str) -> tuple[list[str], NDArray[np.int32]]:
        columns = [column for gram in char_ngrams(chunk) if (column := lookup(gram)) is not None]
        return _WORD.findall(chunk), np.array(columns, np.int32)

    return analyze


class NgramFeatures:
    """Map paragraphs to sparse TF-IDF rows.

    Parameters
    ----------
    words, chars : sequence of str
        The vocabulary: word n-grams (joined by one space), then character n-grams. Columns are numbered in this order.
    idf : ndarray of float32, shape (n_words + n_chars,)
        Inverse document frequency of each column.
    """

    def __init__(self, words: Sequence[str], chars: Sequence[str], idf: NDArray[np.float32]) -> None:
        if len(words) + len(chars) != len(idf):
            raise ValueError(f"{len(idf)} idf values for {len(words)} + {len(chars)} n-grams")
        self.words = words
        self.chars = chars
        self.idf = idf
        self._idf64 = idf.astype(np.float64)
        self._word_column = {gram: column for column, gram in enumerate(words)}
        self._char_column = {gram: column for column, gram in enumerate(chars, len(words))}
        self._analyze = _analyzer(self._char_column)
        self._cached_chunk = lru_cache(maxsize=_CACHED_CHUNKS)(self._analyze)

    @property
    def ngrams(self) -> NgramFeatures:
        return self

    @property
    def encoder(self) -> None:
        return None

    @property
    def size(self) -> int:
        """How many columns there are."""
        return len(self.idf)

    @classmethod
    def fit(cls, texts: Iterable[str], *, min_df: int) -> NgramFeatures:
        """Learn the vocabulary (n-grams in at least `min_df` texts) and the smooth idf, ``1 + ln((1+n)/(1+df))``."""
        word_df: Counter[str] = Counter()
        char_df: Counter[str] = Counter()
        grams_of = lru_cache(maxsize=_CACHED_CHUNKS)(lambda chunk: frozenset(char_ngrams(chunk)))
        n = 0
        for text in texts:
            n += 1
            lowered = text.lower()
            words = _WORD.findall(lowered)
            word_df.update({*words, *map(" ".join, pairwise(words))})
            char_df.update(frozenset().union(*map(grams_of, lowered.split())))
        kept_words = sorted(gram for gram, df in word_df.items() if df >= min_df)
        kept_chars = sorted(gram for gram, df in char_df.items() if df >= min_df)
        df = np.array([*map(word_df.get, kept_words), *map(char_df.get, kept_chars)], np.float64)
        return cls(kept_words, kept_chars, (1.0 + np.log((1.0 + n) / (1.0 + df))).astype(np.float32))

    def encode(self, text: str) -> Encoded:
        """Return the row of `text`."""
        found = [self._chunk(chunk) for chunk in text.lower().split()]
        words = [word for tokens, _ in found for word in tokens]
        lookup = self._word_column.get
        ids = [column for gram in words if (column := lookup(gram)) is not None]
        ids += [c for pair in pairwise(words) if (c := lookup(" ".join(pair))) is not None]
        occurrences = np.concatenate([np.array(ids, np.int32), *(chars for _, chars in found)])
        columns, counts = np.unique(occurrences, return_counts=True)
        values = (1.0 + np.log(counts)) * self._idf64[columns]
        border = int(np.searchsorted(columns, len(self.words)))
        for block in (values[:border], values[border:]):
            if block.size:
                block /= np.sqrt(block @ block)
        return Encoded(text, columns.astype(np.int64), values)

    def share_out(self, row: Encoded, weights: NDArray[np.floating]) -> Shares:
        """Share what each column adds to a logit evenly among its occurrences, and sum it by chunk of the text.

        Parameters
        ----------
        row : Encoded
        weights : ndarray, shape (n,)
            Those of the row's columns.
        """
        spans, feature, chunk, share = self._occurrences(row.text)
        position = np.searchsorted(row.columns, feature)
        counts = np.bincount(position, share, minlength=len(row.columns))
        each = row.values * weights / counts
        return Shares(spans, np.bincount(chunk, share * each[position], minlength=len(spans)).astype(np.float64), 0.0)

    def _occurrences(self, text: str) -> _Occurrences:
        """Return each occurrence of each feature of `text` with the chunk that it stands in."""
        matches = list(_CHUNK.finditer(text))
        feature: list[NDArray[np.int32]] = []
        chunk: list[NDArray[np.int32]] = []
        words: list[tuple[str, int]] = []
        for index, match in enumerate(matches):
            tokens, chars = self._chunk(match[0].lower())
            words += [(token, index) for token in tokens]
            feature.append(chars)
            chunk.append(np.full(len(chars), index, np.int32))
        lookup = self._word_column.get
        whole = [(column, index, 1.0) for word, index in words if (column := lookup(word)) is not None]
        for (first, i), (second, j) in pairwise(words):
            column = lookup(f"{first} {second}")
            if column is not None:
                whole += [(column, i, 0.5), (column, j, 0.5)]
        columns, indices, shares = zip(*whole, strict=True) if whole else ((), (), ())
        n_chars = sum(map(len, feature))
        return _Occurrences(
            [match.span() for match in matches],
            np.concatenate([*feature, np.array(columns, np.int32)]),
            np.concatenate([*chunk, np.array(indices, np.int32)]),
            np.concatenate([np.ones(n_chars), np.array(shares, np.float64)]),
        )

    def _chunk(self, chunk: str) -> tuple[list[str], NDArray[np.int32]]:
        # The cache is bounded in entries and in the length of each, so hostile text cannot grow it.
        return self._cached_chunk(chunk) if len(chunk) <= _CACHED_LENGTH else self._analyze(chunk)
