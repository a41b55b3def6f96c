"""Which examples may stand on different sides of a split.

Paragraphs of one document stay together. A paragraph that shares most of its words with one on the measuring side is
left out of the fit: a model that has seen the one has nearly seen the other. (To join their documents instead would
chain a corpus with recurring sentences into one group.)
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
NEAR_DUPLICATE = 0.5
# A shingle in more paragraphs than this is boilerplate, and says nothing about two of them being copies.
_COMMON = 50


def near_duplicates(texts: Sequence[str]) -> NDArray[np.int64]:
    """Find near-duplicates: texts that share at least half of the 5-word shingles of the shorter one.

    The measure is the containment of Broder (1997), "On the resemblance and containment of documents".

    Returns
    -------
    ndarray of int64, shape (n_pairs, 2)
        Pairs ``(i, j)`` with ``i < j``.
    """
    shingles = [_shingles(text) for text in texts]
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    pairs = []
    first: dict[str, int] = {}
    for index, own in enumerate(shingles):
        # Copies of one text may be so many that their shingles count as boilerplate.
        if first.setdefault(texts[index], index) != index:
            pairs.append((first[texts[index]], index))
            continue
        shared: Counter[int] = Counter()
        for shingle in own:
            if len(holders[shingle]) <= _COMMON:
                shared.update(holders[shingle])
                holders[shingle].append(index)
        pairs += [
            (other, index)
            for other, count in shared.items()
            if count >= NEAR_DUPLICATE * min(len(own), len(shingles[other]))
        ]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def shadows(pairs: NDArray[np.int64], measured: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which texts are near-duplicates of a measured one without being measured, shape (n_texts,).

    Parameters
    ----------
    pairs : ndarray of int64, shape (n_pairs, 2)
        From :func:`near_duplicates`.
    measured : ndarray of bool, shape (n_texts,)
    """
    found = np.zeros(len(measured), dtype=bool)
    for first, second in (pairs.T, pairs.T[::-1]):
        found[first[measured[second]]] = True
    return found & ~measured


def holdout(group_names: Sequence[str], fraction: float) -> NDArray[np.bool_]:
    """Tell which examples are held out. A group's side hangs on the hash of its name alone, so it never crosses over.

    Returns
    -------
    ndarray of bool, shape (n_examples,)
    """
    return np.array([_unit_hash(name) < fraction for name in group_names], dtype=bool)


def folds(group_names: Sequence[str], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Deal whole groups into folds of nearly equal size; return each example's fold, shape (n_examples,)."""
    sizes = Counter(group_names)
    load = np.zeros(n_folds, np.int64)
    fold_of = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], _unit_hash(f"{seed}:{name}"))):
        fold_of[name] = int(load.argmin())
        load[fold_of[name]] += sizes[name]
    return np.array([fold_of[name] for name in group_names], dtype=np.int64)


def shuffled(group_names: Sequence[str]) -> NDArray[np.int64]:
    """Return the examples' places, groups whole and in an order that hangs on the hashes of their names alone."""
    return np.array(sorted(range(len(group_names)), key=lambda place: _unit_hash(group_names[place])), dtype=np.int64)


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


def _unit_hash(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
