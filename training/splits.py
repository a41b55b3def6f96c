"""Which examples may stand on different sides of a split.

Paragraphs of one document stay together. A paragraph that shares most of its words with one on the measuring side is
left out of the fit: a model that has seen the one has nearly seen the other. (To join their documents instead would
chain a corpus with recurring sentences into one group.)
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
NEAR_DUPLICATE = 0.5
# A shingle in more paragraphs than this is boilerplate: it is not looked up for each pair of them, which would be
# quadratic. Paragraphs that are boilerplate for the greater part, and the same boilerplate, are filled in on one form.
_COMMON = 50


class Near(NamedTuple):
    """Near-duplicates among texts. Copies of one text may be thousands, so only the first of them stands in a pair.

    Attributes
    ----------
    pairs : ndarray of int64, shape (n_pairs, 2)
        Pairs ``(i, j)`` with ``i < j`` of texts that share at least half of the 5-word shingles of the shorter one.
    first : ndarray of int64, shape (n_texts,)
        The place of the first text that each text is a copy of, its own where it is the first.
    form : ndarray of int64, shape (n_texts,)
        The same for texts filled in on one form that is in common use; ``first`` where there is no form.
    """

    pairs: NDArray[np.int64]
    first: NDArray[np.int64]
    form: NDArray[np.int64]

    def among(self, kept: NDArray[np.bool_]) -> Near:
        """Return those among the kept texts, counted anew. Of copies and forms the first must be kept, or none."""
        place = np.cumsum(kept) - 1
        return Near(place[self.pairs[kept[self.pairs].all(axis=1)]], place[self.first[kept]], place[self.form[kept]])


def folded(text: str) -> str:
    """Return `text` without its case and spacing: texts that fold to the same are copies."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def near_duplicates(texts: Sequence[str]) -> Near:
    """Find copies and near-duplicates: the containment of Broder (1997), "On the resemblance and containment of
    documents"."""
    firsts: dict[str, int] = {}
    first = np.array([firsts.setdefault(folded(text), index) for index, text in enumerate(texts)], dtype=np.int64)
    shingles: dict[int, set[tuple[str, ...]]] = {}
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    pairs: list[tuple[int, int]] = []
    for index in firsts.values():
        own = shingles[index] = _shingles(texts[index])
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
    forms = _forms(shingles, holders)
    form = np.array([forms.get(index, index) for index in first.tolist()], dtype=np.int64)
    return Near(np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2), first, form)


def _forms(
    shingles: Mapping[int, set[tuple[str, ...]]], holders: Mapping[tuple[str, ...], list[int]]
) -> dict[int, int]:
    """Map each text that is filled in on a form in common use to the first of those on the same form: forms are one
    where they share at least half of what is common in the shorter one."""
    firsts: dict[frozenset[tuple[str, ...]], int] = {}
    sizes: dict[int, int] = {}
    forms: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    found = {}
    for index, own in shingles.items():
        printed = frozenset(shingle for shingle in own if len(holders[shingle]) > _COMMON)
        if not printed or len(printed) < NEAR_DUPLICATE * len(own):
            continue
        if printed not in firsts:
            # A form whose common words change with the year is still one form.
            shared = Counter(form for shingle in printed for form in forms[shingle])
            alike = (form for form, n in shared.items() if n >= NEAR_DUPLICATE * min(len(printed), sizes[form]))
            firsts[printed] = form = min(alike, default=index)
            if form == index:
                sizes[index] = len(printed)
                for shingle in printed:
                    forms[shingle].append(index)
        found[index] = firsts[printed]
    return found


def shadows(near: Near, measured: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which texts are copies or near-duplicates of a measured one without being measured, shape (n_texts,).

    Parameters
    ----------
    near : Near
    measured : ndarray of bool, shape (n_texts,)
    """
    source = np.zeros(len(measured), dtype=bool)
    source[near.form[measured]] = True
    found = source.copy()
    for one, other in (near.form[near.pairs.T], near.form[near.pairs.T[::-1]]):
        found[one[source[other]]] = True
    return found[near.form] & ~measured


class Split(NamedTuple):
    """Which examples are measured on and which are fitted on, bool of shape (n_examples,) each; those on neither side
    nearly repeat a measured one. ``near`` are the near-duplicates among the examples."""

    held: NDArray[np.bool_]
    fitted: NDArray[np.bool_]
    near: Near


def split(texts: Sequence[str], group_names: Sequence[str], fraction: float, frozen: Sequence[str] = ()) -> Split:
    """Part examples into what is measured on and what is fitted on.

    Parameters
    ----------
    texts, group_names : sequence of str, length n_examples
    fraction : float
        Part of the groups to hold out.
    frozen : sequence of str
        Texts that an earlier model was measured on. Wherever they stand now, they are held out again, and nothing
        that nearly repeats them is fitted on.
    """
    own = [folded(text) for text in texts]
    known = {folded(text): text for text in frozen}
    held = holdout(group_names, fraction) | np.array([text in known for text in own], dtype=bool)
    present = set(own)
    gone = [text for fold, text in known.items() if fold not in present]
    near = near_duplicates([*texts, *gone])
    measured = np.append(held, np.ones(len(gone), dtype=bool))
    fitted = ~(measured | shadows(near, measured))[: len(texts)]
    return Split(held, fitted, near.among(np.arange(len(measured)) < len(texts)))


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
