"""Labels worth a second look: likely mislabels, texts labelled twice and differently, and labels no model confirms.

Nothing here changes a label or leaves a row out: a person decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.examples import STANCES, Example
from training.linear import Pairs
from training.splits import Near

FloatArray = NDArray[np.float64]
LISTED = 100
_SHOWN_CHARS = 200


class OutOfFold(NamedTuple):
    """What models that had not seen them say of the examples fitted on.

    Attributes
    ----------
    examples : list of Example
    topics : ndarray of float64, shape (n, n_topics)
        Probabilities.
    labels : ndarray of bool, shape (n, n_topics)
    thresholds : ndarray of float64, shape (n_topics,)
    pairs : Pairs
        The pairs that carry a stance.
    stances : ndarray of float64, shape (n_pairs, 3)
        Probabilities of those pairs.
    """

    examples: Sequence[Example]
    topics: FloatArray
    labels: NDArray[np.bool_]
    thresholds: FloatArray
    pairs: Pairs
    stances: FloatArray


def audit(examples: Sequence[Example], near: Near, seen: OutOfFold, ids: Sequence[str]) -> dict[str, Any]:
    """Look through labels.

    Parameters
    ----------
    examples : sequence of Example
        All of them, fitted on or not.
    near : Near
        Copies and near-duplicates among them.
    seen : OutOfFold
    ids : sequence of str
        The topics, in the order of the columns.

    Returns
    -------
    dict
        ``examples``: how many. ``likely_mislabels``, ``conflicts``, ``near_duplicates``: each ``{"count", "listed"}``,
        at most ``LISTED`` of them, likely mislabels with the worst first. ``agreement``: see :func:`agreement`.
    """
    mislabels = likely_mislabels(seen, ids)
    conflicts = _conflicts(examples, near)
    apart = _near_duplicates(examples, near)
    return {
        "examples": len(examples),
        "likely_mislabels": {"count": len(mislabels), "listed": mislabels[:LISTED]},
        "conflicts": {"count": len(conflicts), "listed": conflicts[:LISTED]},
        "near_duplicates": {"count": len(apart), "listed": apart[:LISTED]},
        "agreement": agreement(seen, ids),
    }


def agreement(seen: OutOfFold, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Tell for each topic which share of its labels the models confirm that had not seen them.

    Returns
    -------
    dict
        ``topic``: share of the ``n`` paragraphs with the topic whose score reaches its threshold; ``stance``: share of
        the ``n_stances`` pairs with a stance whose likeliest stance is the one given. None where there is no label.
    """
    confirmed = seen.topics >= seen.thresholds
    right = seen.stances.argmax(axis=1) == seen.pairs.stance
    found = {}
    for index, name in enumerate(ids):
        gold, own = seen.labels[:, index], seen.pairs.topic == index
        found[name] = {
            "n": int(gold.sum()),
            "topic": round(float(confirmed[gold, index].mean()), 6) if gold.any() else None,
            "n_stances": int(own.sum()),
            "stance": round(float(right[own].mean()), 6) if own.any() else None,
        }
    return found


def confident_issues(scores: FloatArray, given: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find likely mislabels by confident learning (Northcutt, Jiang and Chuang 2021, section 3).

    A class is confidently suggested where its score is at least the mean score that the examples labelled with it
    give it (equation 2); of several the highest. An example is a likely mislabel where another class than its own is
    suggested: it lies off the diagonal of the confident joint.

    Parameters
    ----------
    scores : ndarray of float64, shape (n, n_classes)
        Out-of-fold probabilities.
    given : ndarray of int64, shape (n,)
        The labels.

    Returns
    -------
    tuple of ndarray of int64, shape (n_found,) each
        The rows of the likely mislabels and the class suggested for each.
    """
    rows = np.arange(len(given))
    counts = np.bincount(given, minlength=scores.shape[1])
    sums = np.bincount(given, scores[rows, given], scores.shape[1])
    # A class that nobody gave cannot be suggested.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = scores >= thresholds
    suggested = np.where(confident, scores, -1.0).argmax(axis=1)
    found = np.flatnonzero(confident.any(axis=1) & (suggested != given))
    return found, suggested[found]


def likely_mislabels(seen: OutOfFold, ids: Sequence[str]) -> list[dict[str, Any]]:
    """List the likely mislabels of every topic and stance, ranked by normalised margin, the worst first.

    The margin is the probability of the label given less that of the one suggested (Northcutt et al. 2021, section
    3.2); ``confidence`` is the probability of the one suggested.
    """
    found: list[tuple[float, dict[str, Any]]] = []

    def add(row: int, kind: str, topic: str, given: str, suggested: str, scores: tuple[float, float]) -> None:
        example = seen.examples[row]
        entry: dict[str, Any] = {"id": example.id, "text": example.text[:_SHOWN_CHARS], "kind": kind, "topic": topic}
        entry |= {"given": given, "suggested": suggested, "confidence": round(scores[1], 4)}
        found.append((scores[0] - scores[1], entry))

    for index, name in enumerate(ids):
        both = np.stack([1 - seen.topics[:, index], seen.topics[:, index]], axis=1)
        gold = seen.labels[:, index].astype(np.int64)
        names = ("absent", "present")
        for row, suggested in zip(*map(np.ndarray.tolist, confident_issues(both, gold)), strict=True):
            scores = (float(both[row, gold[row]]), float(both[row, suggested]))
            add(row, "topic", name, names[gold[row]], names[suggested], scores)
    for pair, suggested in zip(*map(np.ndarray.tolist, confident_issues(seen.stances, seen.pairs.stance)), strict=True):
        given = int(seen.pairs.stance[pair])
        scores = (float(seen.stances[pair, given]), float(seen.stances[pair, suggested]))
        topic = ids[int(seen.pairs.topic[pair])]
        add(int(seen.pairs.row[pair]), "stance", topic, STANCES[given], STANCES[suggested], scores)
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def _disagree(labels: Iterable[dict[str, str | None]]) -> bool:
    """Tell whether labels differ in their topics, or in a stance; a stance left out contradicts none."""
    each = list(labels)
    stances: defaultdict[str, set[str]] = defaultdict(set)
    for topics in each:
        for name, stance in topics.items():
            if stance is not None:
                stances[name].add(stance)
    return len({frozenset(topics) for topics in each}) > 1 or any(len(found) > 1 for found in stances.values())


def _conflicts(examples: Sequence[Example], near: Near) -> list[dict[str, Any]]:
    """List the texts that stand several times, but for case and spacing, and are not labelled alike."""
    copies: defaultdict[int, list[Example]] = defaultdict(list)
    for example, first in zip(examples, near.first.tolist(), strict=True):
        copies[first].append(example)
    return [_entry(group) for group in copies.values() if _disagree(example.topics for example in group)]


def _near_duplicates(examples: Sequence[Example], near: Near) -> list[dict[str, Any]]:
    """List the pairs of near-duplicates, copies aside, that are not labelled alike."""
    pairs = [(examples[i], examples[j]) for i, j in near.pairs.tolist()]
    return [_entry(pair) for pair in pairs if _disagree(example.topics for example in pair)]


def _entry(examples: Sequence[Example]) -> dict[str, Any]:
    return {
        "ids": [example.id for example in examples[:LISTED]],
        "text": examples[0].text[:_SHOWN_CHARS],
        "labels": [example.topics for example in examples[:LISTED]],
    }
