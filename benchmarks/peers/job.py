"""What every peer does: read the job, fit, score, take the time, answer. Needs nothing but NumPy."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

STANCES = ("favor", "against", "neutral")
_BATCHES = (1, 64)
_TIMED = 256


class Model(Protocol):
    """``topics`` gives probabilities, shape (n, n_topics); ``stances``, (n, 3), those toward a topic by its place."""

    def topics(self, texts: list[str]) -> np.ndarray: ...

    def stances(self, texts: list[str], topic: int) -> np.ndarray: ...

    def megabytes(self) -> float: ...


def run(fit: Callable[[dict[str, Any]], Model]) -> None:
    """Do the job on standard input with the model that `fit` makes of it."""
    job = json.load(sys.stdin)
    # Libraries print what they like; the answer goes where standard output was.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    start = time.perf_counter()
    model = fit(job)
    seconds = time.perf_counter() - start
    texts = job["texts"]
    found = {
        "topics": model.topics(texts).tolist(),
        "stances": np.stack([model.stances(texts, place) for place in range(len(job["topics"]))], axis=1).tolist(),
        "seconds": seconds,
        "milliseconds": [milliseconds(labels_of(model), texts, size) for size in _BATCHES],
        "megabytes": model.megabytes(),
    }
    json.dump(found, answer)
    answer.close()


def labels_of(model: Model) -> Callable[[list[str]], object]:
    """Return what labels a batch: the topics, and the stances toward those that are present."""

    def label(texts: list[str]) -> object:
        present = model.topics(texts) >= 0.5
        return [
            model.stances([texts[row] for row in np.flatnonzero(column)], place)
            for place, column in enumerate(present.T)
            if column.any()
        ]

    return label


def milliseconds(label: Callable[[list[str]], object], texts: list[str], size: int) -> float:
    """Return the median time a paragraph, in milliseconds, of labelling batches of that many."""
    taken = []
    for begin in range(0, min(len(texts), _TIMED), size):
        batch = texts[begin : begin + size]
        start = time.perf_counter()
        label(batch)
        taken.append((time.perf_counter() - start) / len(batch) * 1000)
    return statistics.median(taken)


def pairs_of(job: dict[str, Any]) -> tuple[list[str], list[int], list[int]]:
    """Return the texts, topics and stances, by their places, of all that carries a stance."""
    found = [
        (row["text"], job["topics"].index(topic), STANCES.index(stance))
        for row in job["fitted"]
        for topic, stance in row["topics"].items()
        if stance is not None
    ]
    return [text for text, _, _ in found], [topic for _, topic, _ in found], [stance for _, _, stance in found]
