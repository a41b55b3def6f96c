"""Count the n-grams of each text once: a fit keeps what it counted, and the next counts only texts that are new.

What hangs on all texts, the vocabulary, the idf and so every value, is made anew from the counts, which takes no text
apart. The values are those of :mod:`models.features`, to the last bit.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save
from scipy import sparse

from models.features import WORD_NGRAMS, NgramFeatures
from models.files import replacing
from models.plain import CACHED_CHUNKS, CHAR_NGRAMS, WORD, char_ngrams, normalised, sublinear

# Numbers of n-grams, in the order in which they first occur, and how often each does: int32 of shape (2, n).
Grams = NDArray[np.int32]
# What takes a text apart; raise the number where code below, or `char_ngrams`, does it otherwise.
_GRAMMAR = repr((1, WORD.pattern, WORD_NGRAMS, CHAR_NGRAMS, unicodedata.unidata_version))
_BLOCKS = ("words", "chars")
_DIGEST = 32


class Fitted(NamedTuple):
    """Features, the rows of the texts they were learned from, columns ascending, float64 of shape (n_texts,
    features.size), and how many texts were counted and not found."""

    features: NgramFeatures
    matrix: sparse.csr_matrix
    counted: int


class _Counted(NamedTuple):
    """The n-grams of texts by their hash: for each block the names that the numbers stand for, and each text's."""

    names: tuple[list[str], list[str]]
    grams: dict[bytes, tuple[Grams, Grams]]


def fit_ngrams(texts: Sequence[str], *, min_df: int, cache: Path | None = None) -> Fitted:
    """Learn the vocabulary, n-grams in at least `min_df` texts, and the smooth idf, ``1 + ln((1 + n) / (1 + df))``.

    Parameters
    ----------
    texts : sequence of str
    min_df : int
    cache : path, optional
        A folder where the counts of the last fit are kept, in a file that may be deleted at any time. One that is
        damaged is taken for none, and where it cannot be written none is kept.
    """
    kept = cache / f"ngrams-{hashlib.sha256(_GRAMMAR.encode()).hexdigest()[:16]}" if cache else None
    known = (_read(kept) if kept else None) or _Counted(([], []), {})
    hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
    numbers = [{name: number for number, name in enumerate(names)} for names in known.names]
    count, text_of = _counter(*numbers), dict(zip(hashes, texts, strict=True))
    new = {name: count(text.lower()) for name, text in text_of.items() if name not in known.grams}
    found = {name: known.grams[name] for name in text_of if name in known.grams} | new
    names = list(numbers[0]), list(numbers[1])
    if kept and new:
        # To keep it saves time; not to keep it costs no more than that.
        with suppress(OSError):
            _write(kept, _Counted(names, found))
    blocks = [_block(of_block, [found[name][place] for name in hashes], min_df) for place, of_block in enumerate(names)]
    matrix = sparse.csr_matrix(sparse.hstack([block.matrix for block in blocks], format="csr"))
    idf = np.concatenate([block.idf for block in blocks])
    return Fitted(NgramFeatures(blocks[0].names, blocks[1].names, idf), matrix, len(new))


def _counter(words: dict[str, int], chars: dict[str, int]) -> Callable[[str], tuple[Grams, Grams]]:
    """Return what takes a lower-case text apart; n-grams that have no number yet get the next."""

    def numbered(number_of: dict[str, int], grams: Iterable[str]) -> list[int]:
        number = number_of.setdefault
        return [number(gram, len(number_of)) for gram in grams]

    of_chunk = lru_cache(maxsize=CACHED_CHUNKS)(lambda chunk: numbered(chars, char_ngrams(chunk)))

    def count(lowered: str) -> tuple[Grams, Grams]:
        found = WORD.findall(lowered)
        bigrams = (f"{one} {other}" for one, other in pairwise(found))
        parts = chain.from_iterable(map(of_chunk, lowered.split()))
        return _times(numbered(words, chain(found, bigrams))), _times(parts)

    return count


def _times(numbers: Iterable[int]) -> Grams:
    counts = Counter(numbers)
    return np.array([[*counts.keys()], [*counts.values()]], np.int32)


class _Block(NamedTuple):
    """One block of the columns: names, the commonest first, the idf of each, and rows of norm 1."""

    names: list[str]
    idf: NDArray[np.float32]
    matrix: sparse.csr_matrix


def _block(names: Sequence[str], rows: Sequence[Grams], min_df: int) -> _Block:
    ends = np.cumsum([0, *(grams.shape[1] for grams in rows)])
    numbers, times = np.concatenate(rows, axis=1)
    df = np.bincount(numbers, minlength=len(names))
    frequent = np.flatnonzero(df >= min_df).tolist()
    # What is asked for together lies together in memory then, weights and all, and most of it stays near the processor.
    order = [number for *_, number in sorted((-int(df[number]), names[number], number) for number in frequent)]
    idf = (1.0 + np.log((1.0 + len(rows)) / (1.0 + df[order]))).astype(np.float32)
    column = np.full(len(names), -1, np.int32)
    column[order] = np.arange(len(order))
    columns = column[numbers]
    is_known = columns >= 0
    columns = columns[is_known]
    values = sublinear(times[is_known]) * idf[columns].astype(np.float64)
    ends = np.append(0, np.cumsum(is_known))[ends]
    for start, end in pairwise(ends.tolist()):
        values[start:end] = normalised(values[start:end])
    matrix = sparse.csr_matrix((values, columns, ends), shape=(len(rows), len(order)))
    matrix.sort_indices()
    return _Block([names[number] for number in order], idf, matrix)


def _read(path: Path) -> _Counted | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        return None
    arrays = load(data[_DIGEST:])
    # Words and chunks are what stands between white space: there is no line end in any n-gram.
    names = [arrays[f"{block}.names"].tobytes().decode().split("\n") for block in _BLOCKS]
    parts = [np.split(arrays[f"{block}.grams"], arrays[f"{block}.ends"][:-1], axis=1) for block in _BLOCKS]
    hashes = [row.tobytes() for row in arrays["texts"]]
    return _Counted((names[0], names[1]), dict(zip(hashes, zip(*parts, strict=True), strict=True)))


def _write(path: Path, counted: _Counted) -> None:
    """Put the counts into a file, without the names that no text has any more."""
    arrays: dict[str, NDArray[Any]] = {
        "texts": np.frombuffer(b"".join(counted.grams), np.uint8).reshape(len(counted.grams), -1)
    }
    for place, block in enumerate(_BLOCKS):
        rows = [grams[place] for grams in counted.grams.values()]
        grams = np.concatenate(rows, axis=1)
        used = np.bincount(grams[0], minlength=len(counted.names[place])) > 0
        grams[0] = (np.cumsum(used) - 1)[grams[0]]
        names = "\n".join(name for name, is_used in zip(counted.names[place], used, strict=True) if is_used)
        arrays[f"{block}.names"] = np.frombuffer(names.encode(), np.uint8)
        arrays[f"{block}.grams"] = grams
        arrays[f"{block}.ends"] = np.cumsum([part.shape[1] for part in rows])
    data = save(arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(hashlib.sha256(data).digest())
        file.write(data)
