"""The feature function: what a paragraph is to a linear model.

A paragraph becomes two L2-normalised blocks of sublinear TF-IDF weights, one of word n-grams and one of character
n-grams inside white-space-delimited chunks. The grammar is that of scikit-learn's ``TfidfVectorizer`` (analyzers
``word`` and ``char_wb``), so an exported model is a plain scikit-learn pipeline and the two can be held against each
other. Unlike there, every feature knows the chunk of the original text that it came from.

It is compiled (``models/kernel``); where it could not be, ``models/plain.py`` gives the same features to the last bit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models import plain
from models.plain import CHAR_NGRAMS, Label, Matrix, Weights
from models.results import Evidence

try:
    from models import _kernel as kernel
except ImportError:
    kernel = plain  # type: ignore[misc]  # the same by another module

if TYPE_CHECKING:
    from models.encoder import Encoder

__all__ = ["CHAR_NGRAMS", "WORD_NGRAMS", "Features", "NgramFeatures", "NgramRow", "Row", "Shares", "add_by_chunk"]

WORD_NGRAMS = (1, 2)
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

    def dot(self, matrix: Matrix) -> NDArray[np.float64]:
        """Return the product of the row and a matrix, shape (width,)."""

    def shares(self, matrix: Matrix, direction: tuple[float, ...]) -> Shares:
        """Take the product of `dot` and `direction` apart by chunk of the text."""


class Labeller(Protocol):
    """Topics and stances of texts: :class:`models.plain.Labeller`, or the compiled one, whose arrays are buffers."""

    def logits(self, texts: Sequence[str], /) -> bytearray | NDArray[np.float64]: ...

    def label(
        self, texts: Sequence[str], floors: NDArray[np.float64], encoded: bool = False, /
    ) -> list[list[Label]]: ...


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
        """Return the columns that are not 0, shape (n,), unique, in the order in which they first occur."""
        return np.frombuffer(self._found.columns(), np.int32).astype(np.int64)

    def values(self) -> NDArray[np.float64]:
        """Return their values, shape (n,), those that are fitted on (:mod:`training.ngrams`) to the last bit."""
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
        return kernel.Labeller(self._ngrams, *weights._replace(topics=topics), part, Evidence)
