"""Plain scikit-learn: TF-IDF of words 1-2 and char_wb 2-5, logistic regressions, untuned.

One stance head, with features shared across topics plus a copy for each.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion

from benchmarks.peers.job import STANCES, pairs_of, run


def _head(labels: list[Any], **settings: Any) -> Any:
    """Return what is fitted to labels, which may all be the same."""
    if len({*labels}) < 2:
        return DummyClassifier()
    return LogisticRegression(class_weight="balanced", **settings)


class Plain:
    """One logistic regression a topic, and one for stance."""

    def __init__(self, job: dict[str, Any]) -> None:
        words = TfidfVectorizer(ngram_range=(1, 2))
        self._features = FeatureUnion(
            [("words", words), ("chars", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)))]
        )
        matrix = self._features.fit_transform([row["text"] for row in job["fitted"]])
        self._n = len(job["topics"])
        self._heads = []
        for topic in job["topics"]:
            labels = [topic in row["topics"] for row in job["fitted"]]
            self._heads.append(_head(labels, solver="liblinear").fit(matrix, labels))
        texts, topics, stances = pairs_of(job)
        self._stance = None
        if stances:
            rows = self._copied(self._features.transform(texts), np.array(topics))
            self._stance = _head(stances, max_iter=300).fit(rows, stances)

    def _copied(self, rows: sparse.csr_matrix, topics: np.ndarray) -> sparse.csr_matrix:
        own = [sparse.diags((topics == place).astype(float)) @ rows for place in range(self._n)]
        return sparse.hstack([rows, *own]).tocsr()

    def topics(self, texts: list[str]) -> np.ndarray:
        matrix = self._features.transform(texts)
        return np.stack([head.predict_proba(matrix) @ head.classes_ for head in self._heads], axis=1)

    def stances(self, texts: list[str], topic: int) -> np.ndarray:
        found = np.zeros((len(texts), len(STANCES)))
        if self._stance is None:
            return found
        rows = self._copied(self._features.transform(texts), np.full(len(texts), topic))
        found[:, self._stance.classes_] = self._stance.predict_proba(rows)
        return found

    def megabytes(self) -> float:
        return len(pickle.dumps(self)) / 1e6


if __name__ == "__main__":
    run(Plain)
