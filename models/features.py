"""The feature function: one definition for training and for serving.

A paragraph becomes two L2-normalised blocks of sublinear TF-IDF weights, one of word n-grams and one of character
n-grams inside white-space-delimited chunks. The grammar is that of scikit-learn's ``TfidfVectorizer`` (analyzers
``word`` and ``char_wb``), so an exported model is a plain scikit-learn pipeline and the two can be held against each
other. Unlike there, every feature knows the chunk of the original text that it came from.

It is compiled (``models/kernel``); where it could not be, ``models/plain.py`` gives the same features to the last bit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from models import plain
from models.plain import CACHED_CHUNKS, CHAR_NGRAMS, WORD, Label, Matrix, Weights, char_ngrams

try:
    from models import _kernel as kernel
except ImportError:
    kernel = plain  # type: ignore[misc]  # the same by another module

if TYPE_CHECKING:
    from models.encoder import Encoder

__all__ = ["CHAR_NGRAMS", "WORD_NGRAMS", "Features", "NgramFeatures", "NgramRow", "Row", "Shares", "add_by_chunk"]

WORD_NGRAMS = (1, 2)
T = TypeVar("T")
IS_COMPILED = kernel is not plain


class Shares(NamedTuple):
    """What a row adds to a logit, taken apart: by chunk of the text, its (start, end) in `spans` and the amount in
    `weights`, float64 of shape (n_chunks,); `rest` belongs to no chunk."""

    spans: list[tuple[int, int]]
    weights: NDArray[np.float64]
    rest: float


class Row(Protocol):
    """The features of one paragraph.

    Matrices are float32 of shape (n_features, width). A direction has `width` numbers and says what of the product is
    asked for.
    """

    @property
    def text(self) -> str: ...

    def columns(self) -> NDArray[np.int64]:
        """Return the columns that are not 0, shape (n,), unique, in the order in which they first occur."""

    def values(self) -> NDArray[np.float64]:
        """Return their values, shape (n,)."""

    def dot(self, matrix: Matrix) -> NDArray[np.float64]:
        """Return the product of the row and a matrix, shape (width,)."""

    def shares(self, matrix: Matrix, direction: tuple[float, ...]) -> Shares:
        """Take the product of `dot` and `direction` apart by chunk of the text."""


class Labeller(Protocol):
    """Topics and stances of texts: :class:`models.plain.Labeller`, or the compiled one, whose arrays are buffers."""

    def logits(self, texts: Sequence[str], /) -> bytearray | NDArray[np.float64]: ...

    def label(self, texts: Sequence[str], floors: NDArray[np.float64], /) -> list[list[Label]]: ...


class Features(Protocol):
    """What a linear model scores by: n-grams, maybe beside an encoder."""

    @property
    def ngrams(self) -> NgramFeatures: ...

    @property
    def encoder(self) -> Encoder | None: ...

    @property
    def size(self) -> int: ...

    def read(self, text: str) -> Row: ...

    def dot(self, texts: Sequence[str], matrix: Matrix) -> NDArray[np.float64]:
        """Return the products of the rows of `texts` and a matrix, shape (n_texts, width)."""

    def labeller(self, weights: Weights, part: float) -> Labeller:
        """Return what labels by these weights, which must not change; `part` as in :func:`models.plain.stretches`."""


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


class NgramRow:
    """One text that was read by its n-grams; each block of values, of words and of characters, has norm 1 or is empty.

    Parameters
    ----------
    found : models._kernel.Row or models.plain.Row
    """

    __slots__ = ("_found",)

    def __init__(self, found: kernel.Row) -> None:
        self._found = found

    @property
    def text(self) -> str:
        return self._found.text

    def columns(self) -> NDArray[np.int64]:
        return np.frombuffer(self._found.columns(), np.int32).astype(np.int64)

    def values(self) -> NDArray[np.float64]:
        return np.frombuffer(self._found.values(), np.float64)

    def dot(self, matrix: Matrix) -> NDArray[np.float64]:
        return np.frombuffer(self._found.dot(matrix), np.float64)

    def shares(self, matrix: Matrix, direction: tuple[float, ...]) -> Shares:
        return Shares(self._found.spans(), np.frombuffer(self._found.shares(matrix, direction), np.float64), 0.0)


class NgramFeatures:
    """Map paragraphs to sparse TF-IDF rows.

    Parameters
    ----------
    words, chars : sequence of str
        The vocabulary: word n-grams (joined by one space), then character n-grams. Columns are numbered in this order.
    idf : ndarray of float32, shape (n_words + n_chars,)
        Inverse document frequency of each column.
    compiled : bool
        Whether to use the compiled feature function; by default where there is one.
    """

    def __init__(
        self,
        words: Sequence[str],
        chars: Sequence[str],
        idf: NDArray[np.float32],
        *,
        compiled: bool = IS_COMPILED,
    ) -> None:
        if len(words) + len(chars) != len(idf):
            raise ValueError(f"{len(idf)} idf values for {len(words)} + {len(chars)} n-grams")
        self.words = words
        self.chars = chars
        self.idf = idf
        self._kernel = kernel if compiled else plain
        self._ngrams = self._kernel.Ngrams(words, chars, np.ascontiguousarray(idf, np.float32))

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
        words, bigrams, chars = _Frequencies[str](), _Frequencies[tuple[int, int]](), _Frequencies[str]()
        grams_of = lru_cache(maxsize=CACHED_CHUNKS)(lambda chunk: chars.numbered(char_ngrams(chunk)))
        n = 0
        for text in texts:
            n += 1
            lowered = text.lower()
            found = words.numbered(WORD.findall(lowered))
            words.add(found)
            bigrams.add(bigrams.numbered(pairwise(found.tolist())))
            chars.add(np.concatenate([np.empty(0, np.int64), *map(grams_of, lowered.split())]))
        names = words.names
        word_df = words.counts(min_df)
        word_df.update(
            (f"{names[one]} {names[other]}", count) for (one, other), count in bigrams.counts(min_df).items()
        )
        char_df = chars.counts(min_df)
        kept_words, kept_chars = _sorted(word_df), _sorted(char_df)
        df = np.array([*map(word_df.get, kept_words), *map(char_df.get, kept_chars)], np.float64)
        return cls(kept_words, kept_chars, (1.0 + np.log((1.0 + n) / (1.0 + df))).astype(np.float32))

    def read(self, text: str) -> NgramRow:
        """Return the row of `text`."""
        return NgramRow(self._ngrams.read(text))

    def dot(self, texts: Sequence[str], matrix: Matrix) -> NDArray[np.float64]:
        """Return the products of the rows of `texts` and a matrix, shape (n_texts, width); other threads run on."""
        products = np.frombuffer(self._ngrams.dot(texts, matrix), np.float64)
        return products.reshape(len(texts), matrix.shape[1])

    def labeller(self, weights: Weights, part: float) -> Labeller:
        """Return what labels by these weights, which must not change; `part` as in :func:`models.plain.stretches`."""
        if weights.topics.shape[1] > self._kernel.MOST_TOPICS:
            return plain.Labeller(self, *weights, part)
        topics = np.ascontiguousarray(weights.topics)
        return kernel.Labeller(self._ngrams, *weights._replace(topics=topics), part)


class _Frequencies(Generic[T]):
    """In how many texts things occur, which are numbered as they come."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self._counts = np.zeros(1024, np.int64)

    @property
    def names(self) -> list[T]:
        """The things in the order of their numbers."""
        return list(self._numbers)

    def numbered(self, things: Iterable[T]) -> NDArray[np.int64]:
        """Return the number of each thing."""
        number = self._numbers.setdefault
        return np.array([number(thing, len(self._numbers)) for thing in things], np.int64)

    def add(self, found: NDArray[np.int64]) -> None:
        """Count a text in which things of these numbers occur."""
        while len(self._counts) < len(self._numbers):
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        # A number that is there more than once is assigned to more than once, and counted once.
        self._counts[found] += 1

    def counts(self, least: int) -> dict[T, int]:
        """Return in how many texts each thing occurs that occurs in at least so many."""
        pairs = zip(self._numbers, self._counts.tolist(), strict=False)
        return {thing: count for thing, count in pairs if count >= least}


def _sorted(df: dict[str, int]) -> list[str]:
    """Return the n-grams, the commonest first.

    What is asked for together then lies together in memory, weights and all, and most of it stays near the processor.
    """
    return sorted(df, key=lambda gram: (-df[gram], gram))
