"""The feature function in Python and NumPy: what `models._kernel` does where it could not be compiled.

Both have the same classes with the same methods, and the features are equal to the last bit: an occurrence comes after
those of the chunks before it, in a chunk words come before characters, bigrams of words come last, a column stands
where it first occurs, and sums run in that order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.results import Evidence

CHAR_NGRAMS = (2, 5)
CACHED_CHUNKS = 30_000
CHUNK = re.compile(r"\S+")
WORD = re.compile(r"\b\w\w+\b")
_LETTER = re.compile(r"[^\W_]")
_CACHED_LENGTH = 40
_KNOWN_COUNTS = 64
_SUBLINEAR = np.array([0.0, *(1.0 + math.log(count) for count in range(1, _KNOWN_COUNTS))])
# For each stance, its logit less the mean of the three.
CENTRED = ((2 / 3, -1 / 3, -1 / 3), (-1 / 3, 2 / 3, -1 / 3), (-1 / 3, -1 / 3, 2 / 3))
# Of the stretches so many at most are told of, and none that carries less than this part of the heaviest one's weight.
SHOWN = 5
SHOWN_PART = 0.25
# Their weights are rounded to one of so many parts of 1.
WEIGHT_PARTS = 1_000_000
# The widest taxonomy that a labeller takes n-grams for; any other is labelled by rows.
MOST_TOPICS = 0

FloatArray = NDArray[np.float64]
Matrix = NDArray[np.float32]
# Evidence, or the JSON of a list of it.
Found = list[Evidence] | bytes
# The likeliest stance, the probabilities of all, and the :func:`heaviest` stretches for that one.
StanceLabel = tuple[int, tuple[float, float, float], Found]
# A topic, its probability, the :func:`heaviest` stretches for it, and its stance, where the model has stances.
Label = tuple[int, float, Found, StanceLabel | None]


class Ngrams:
    """The feature function of a vocabulary: word n-grams, character n-grams, and the idf of each, float32."""

    def __init__(self, words: Sequence[str], chars: Sequence[str], idf: NDArray[np.float32]) -> None:
        self._idf = idf.astype(np.float64)
        self._n_words = len(words)
        self._word_column = {gram: column for column, gram in enumerate(words)}
        self._analyze = _analyzer({gram: column for column, gram in enumerate(chars, len(words))})
        self._cached_chunk = lru_cache(maxsize=CACHED_CHUNKS)(self._analyze)

    def read(self, text: str) -> Row:
        """Read one text."""
        occurrences = self._occurrences(text.lower())
        columns, first, entry, counts = np.unique(
            occurrences.column, return_index=True, return_inverse=True, return_counts=True
        )
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        columns, counts = columns[order], counts[order]
        values = self._weighted(columns, counts)
        entry = place[entry.reshape(-1)]
        return Row(text, columns, values, values / counts, occurrences._replace(column=entry.astype(np.int32)))

    def dot(self, texts: Sequence[str], matrix: Matrix) -> FloatArray:
        """Return the products of the rows of `texts` and a matrix, shape (n_texts, width)."""
        return np.array([self.read(text).dot(matrix) for text in texts]).reshape(len(texts), matrix.shape[1])

    def _weighted(self, columns: NDArray[np.int32], counts: NDArray[np.int64]) -> FloatArray:
        values = sublinear(counts) * self._idf[columns]
        is_word = columns < self._n_words
        for block in (is_word, ~is_word):
            values[block] = normalised(values[block])
        return values

    def _occurrences(self, lowered: str) -> _Occurrences:
        column: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
        chunk: list[int] = []
        bigrams: list[int] = []
        halves: list[int] = []
        before: tuple[str, int] | None = None
        lookup = self._word_column.get
        parts = lowered.split()
        for index, part in enumerate(parts):
            # The cache is bounded in entries and in the length of each, so hostile text cannot grow it.
            words, chars = (self._cached_chunk if len(part) <= _CACHED_LENGTH else self._analyze)(part)
            found = [known for word in words if (known := lookup(word)) is not None]
            column += [np.array(found, np.int32), chars]
            chunk += [index] * (len(found) + len(chars))
            for word in words:
                if before is not None and (known := lookup(f"{before[0]} {word}")) is not None:
                    bigrams.append(known)
                    halves += [before[1], index]
                before = word, index
        column.append(np.array(bigrams, np.int32))
        return _Occurrences(np.concatenate(column), np.array(chunk, np.int64), np.array(halves, np.int64), len(parts))


def sublinear(counts: NDArray[np.integer]) -> FloatArray:
    """Return ``1 + ln(count)`` of counts above 0."""
    more = [1.0 + math.log(count) for count in range(_KNOWN_COUNTS, int(counts.max(initial=0)) + 1)]
    return np.asarray((np.append(_SUBLINEAR, more) if more else _SUBLINEAR)[counts])


def normalised(values: FloatArray) -> FloatArray:
    """Return values of norm 1, or none where there are none."""
    # One after the other, as the compiled sum runs; NumPy's own sum goes pairwise.
    squares = np.cumsum(np.square(values))
    return values * (1.0 / math.sqrt(squares[-1])) if squares.size else values


class _Occurrences(NamedTuple):
    """Where columns occur: of each occurrence its column (in a row, the entry) and its chunk, those of bigrams last, of
    which `halves` has two chunks each; and how many chunks there are."""

    column: NDArray[np.int32]
    chunk: NDArray[np.int64]
    halves: NDArray[np.int64]
    n_chunks: int


class Row:
    """One text that was read: each column once, in the order in which they first occur."""

    def __init__(
        self,
        text: str,
        columns: NDArray[np.int32],
        values: FloatArray,
        each: FloatArray,
        occurrences: _Occurrences,
    ) -> None:
        self.text = text
        self._columns, self._values, self._each = columns, values, each
        self._occurrences = occurrences

    def columns(self) -> NDArray[np.int32]:
        """Return the columns, shape (n,)."""
        return self._columns

    def values(self) -> FloatArray:
        """Return their values, shape (n,); each block, of words and of characters, has norm 1 or is empty."""
        return self._values

    def dot(self, matrix: Matrix) -> FloatArray:
        """Return the product of the row and a matrix, shape (width,)."""
        return np.asarray(self._values @ matrix[self._columns].astype(np.float64))

    def shares(self, matrix: Matrix, direction: tuple[float, ...]) -> FloatArray:
        """Take the product with the matrix and then with `direction` apart by chunk of the text, shape (n_chunks,).

        What a column adds is shared evenly among its occurrences; a word bigram occurs half in the chunk of each word.
        """
        weights = matrix[self._columns].astype(np.float64) @ np.array(direction)
        found = self._occurrences
        each = (self._each * weights)[found.column]
        whole, half = each[: len(found.chunk)], np.repeat(0.5 * each[len(found.chunk) :], 2)
        where = np.concatenate([found.chunk, found.halves])
        return np.bincount(where, np.concatenate([whole, half]), minlength=found.n_chunks).astype(np.float64)

    def spans(self) -> list[tuple[int, int]]:
        """Return where the chunks stand in the text."""
        return self._spans

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        return [match.span() for match in CHUNK.finditer(self.text)]


class _Shares(Protocol):
    @property
    def spans(self) -> list[tuple[int, int]]: ...

    @property
    def weights(self) -> FloatArray: ...


class _Row(Protocol):
    def dot(self, matrix: Matrix, /) -> FloatArray: ...

    def shares(self, matrix: Matrix, direction: tuple[float, ...], /) -> _Shares: ...


class _Features(Protocol):
    def read(self, text: str, /) -> _Row: ...

    def dot(self, texts: Sequence[str], matrix: Matrix, /) -> FloatArray: ...


class Weights(NamedTuple):
    """What a linear model scores by.

    Attributes
    ----------
    topics : ndarray of float32, shape (n_features, n_topics)
    topic_bias : ndarray of float64, shape (n_topics,)
    sides : sequence of ndarray of float32, each of shape (n_features, 4)
        Of each topic, its weights once more and those of the stances toward it; none for a classifier of topics alone.
    stance_bias : ndarray of float64, shape (n_topics, 3), or None
    """

    topics: Matrix
    topic_bias: FloatArray
    sides: Sequence[Matrix]
    stance_bias: FloatArray | None


class Labeller:
    """Topics and stances of texts, and what decided them: `features` reads them, then come the :class:`Weights`, and
    `part` is as in :func:`stretches`."""

    def __init__(
        self,
        features: _Features,
        topics: Matrix,
        topic_bias: FloatArray,
        sides: Sequence[Matrix],
        stance_bias: FloatArray | None,
        part: float,
    ) -> None:
        self._features = features
        self._topics, self._topic_bias = topics, topic_bias
        self._sides, self._stance_bias = sides, stance_bias
        self._part = part

    def logits(self, texts: Sequence[str]) -> FloatArray:
        """Return the logit of each topic for each text, shape (n_texts, n_topics)."""
        return self._features.dot(texts, self._topics) + self._topic_bias

    def label(self, texts: Sequence[str], floors: FloatArray, encoded: bool = False) -> list[list[Label]]:
        """Label each text with the topics whose logit is at least the topic's floor, which has shape (n_topics,).

        Where the labels are `encoded` their evidence is JSON.
        """
        found = [self._label(text, floors) for text in texts]
        return [[_encoded(label) for label in labels] for labels in found] if encoded else found

    def _label(self, text: str, floors: FloatArray) -> list[Label]:
        # Of one text at once: an encoder remembers few.
        (logits,) = self.logits((text,))
        wanted = np.flatnonzero(logits >= floors).tolist()
        if not wanted:
            return []
        row = self._features.read(text)
        return [
            (
                topic,
                sigmoid_of(logits[topic]),
                self._stretches(text, row.shares(self._topics[:, topic : topic + 1], (1.0,))),
                self._stance(text, row, topic),
            )
            for topic in wanted
        ]

    def _stance(self, text: str, row: _Row, topic: int) -> StanceLabel | None:
        if self._stance_bias is None:
            return None
        weights = self._sides[topic][:, 1:]
        logits = centred(row.dot(weights) + self._stance_bias[topic])
        best = int(logits.argmax())
        shares = row.shares(weights, CENTRED[best])
        return best, softmax_of(*logits.tolist()), self._stretches(text, shares)

    def _stretches(self, text: str, shares: _Shares) -> list[Evidence]:
        return heaviest(stretches(text, shares.spans, shares.weights, self._part))


def _encoded(label: Label) -> Label:
    topic, score, found, stance = label
    if stance is not None:
        best, scores, decisive = stance
        stance = best, scores, msgspec.json.encode(decisive)
    return topic, score, msgspec.json.encode(found), stance


def sigmoid_of(logit: float) -> float:
    """Return the probability that a logit stands for."""
    return 0.5 * (1.0 + math.tanh(0.5 * logit))


def softmax_of(first: float, second: float, third: float) -> tuple[float, float, float]:
    """Return the softmax of three logits."""
    highest = max(first, second, third)
    first, second, third = (math.exp(each - highest) for each in (first, second, third))
    total = first + second + third
    return first / total, second / total, third / total


def centred(logits: FloatArray) -> FloatArray:
    """Return logits less their mean."""
    return np.asarray(logits - logits.sum() / len(logits))


def stretches(text: str, spans: Sequence[tuple[int, int]], weights: FloatArray, part: float) -> list[Evidence]:
    """Return the runs of neighbouring chunks that each carry at least `part` of the heaviest chunk's weight.

    Returns
    -------
    list of Evidence
        In text order, from the first letter or digit of the run to the last, the weight that of all its chunks; none
        without a letter or digit, and none where no chunk has a weight above 0.
    """
    if not weights.size or weights.max() <= 0:
        return []
    strong = np.concatenate([[False], weights >= part * weights.max(), [False]])
    borders = np.flatnonzero(strong[1:] != strong[:-1]).tolist()
    found = []
    for a, b in zip(borders[::2], borders[1::2], strict=True):
        start, end = spans[a][0], spans[b - 1][1]
        if first := _LETTER.search(text, start, end):
            while not _LETTER.match(text, end - 1):
                end -= 1
            found.append(Evidence(first.start(), end, text[first.start() : end], float(weights[a:b].sum())))
    return found


def heaviest(found: list[Evidence]) -> list[Evidence]:
    """Return the heaviest few stretches, heaviest first, their weights rounded; of those that are equal then the first
    of the text comes first."""
    rounded = [msgspec.structs.replace(each, weight=round(each.weight * WEIGHT_PARTS) / WEIGHT_PARTS) for each in found]
    shown = sorted(rounded, key=attrgetter("weight"), reverse=True)[:SHOWN]
    return [stretch for stretch in shown if stretch.weight >= SHOWN_PART * shown[0].weight]


def char_ngrams(chunk: str) -> list[str]:
    """Return the n-grams of a lower-case chunk padded by one space on each side; a short chunk yields itself once."""
    padded = f" {chunk} "
    length = len(padded)
    return [padded[i : i + n] for n in range(CHAR_NGRAMS[0], CHAR_NGRAMS[1] + 1) for i in range(length - n + 1)]


def _analyzer(column_of: dict[str, int]) -> Callable[[str], tuple[list[str], NDArray[np.int32]]]:
    """Return what takes a chunk apart, into its words and the columns of its n-grams.

    A method in its place, cached by the object that it belongs to, would be a cycle: a bundle that another took over
    from would stay in memory until the garbage collector came by.
    """
    lookup = column_of.get

    def analyze(chunk: str) -> tuple[list[str], NDArray[np.int32]]:
        columns = [column for gram in char_ngrams(chunk) if (column := lookup(gram)) is not None]
        return WORD.findall(chunk), np.array(columns, np.int32)

    return analyze
