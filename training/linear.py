"""Fit the linear family: scikit-learn's logistic regressions over the feature matrix, heads in parallel by joblib."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from models.examples import STANCES, Example
from training.splits import Near, shadows

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MIN_DF = 2
# Log-odds of a label that never occurs in the examples at hand.
NEVER = -8.0


class Head(NamedTuple):
    """Weights of shape (n_columns,) and the bias that goes with them."""

    weights: FloatArray
    bias: float


class Pairs(NamedTuple):
    """The (paragraph, topic) pairs that carry a stance: three arrays of shape (n_pairs,)."""

    row: IntArray
    topic: IntArray
    stance: IntArray


def topic_labels(examples: Sequence[Example], topics: Sequence[str]) -> NDArray[np.bool_]:
    """Return which topics each example has, shape (n_examples, n_topics)."""
    return np.array([[topic in example.topics for topic in topics] for example in examples], dtype=bool)


def stance_pairs(examples: Sequence[Example], topics: Sequence[str]) -> Pairs:
    """Return the pairs of the examples that carry a stance, in example order."""
    position = {topic: index for index, topic in enumerate(topics)}
    found = [
        (row, position[topic], STANCES.index(stance))
        for row, example in enumerate(examples)
        for topic, stance in example.topics.items()
        if stance is not None
    ]
    columns = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return Pairs(*columns)


def augment(rows: sparse.csr_matrix, topic: IntArray, n_topics: int) -> sparse.csr_matrix:
    """Give each row a shared copy of its features and one for its topic (Daumé III 2007, section 3).

    Returns
    -------
    csr_matrix, shape (n_pairs, (1 + n_topics) * n_features)
        Block 0 is shared, block ``1 + t`` is topic t's own.
    """
    n_features = rows.shape[1]
    lengths = np.diff(rows.indptr)
    own = rows.indices + np.repeat((1 + topic) * n_features, lengths)
    order = np.argsort(np.concatenate([np.repeat(np.arange(len(lengths)), lengths)] * 2), kind="stable")
    return sparse.csr_matrix(
        (np.tile(rows.data, 2)[order], np.concatenate([rows.indices, own])[order], 2 * rows.indptr),
        shape=(rows.shape[0], (1 + n_topics) * n_features),
    )


def fit_binary(matrix: sparse.csr_matrix, target: NDArray[np.bool_], c: float) -> Head:
    """Fit one label against the rest; without both kinds of example the head says what there is.

    Each stance is fitted so against the other two; calibration makes one softmax of the three.
    """
    if target.all() or not target.any():
        return Head(np.zeros(matrix.shape[1]), -NEVER if target.any() else NEVER)
    # The dual costs the non-zeros alone however many columns there are, and over a million there are: one copy of
    # every n-gram for each topic.
    model = LogisticRegression(
        C=c, class_weight="balanced", solver="liblinear", dual=True, random_state=0, tol=1e-2, max_iter=1000
    )
    model.fit(matrix, target)
    return Head(model.coef_[0], float(model.intercept_[0]))


class Folds:
    """Which rows each fold is scored on and which it is fitted on: the others, less near-duplicates of its own.

    Parameters
    ----------
    fold : ndarray of int64, shape (n,)
    near : Near
        Copies and near-duplicates among the rows.
    """

    def __init__(self, fold: IntArray, near: Near) -> None:
        self.scored = [fold == k for k in np.unique(fold)]
        self.fitted = [~scored & ~shadows(near, scored) for scored in self.scored]

    def __len__(self) -> int:
        return len(self.scored)


def unseen_topics(
    matrix: sparse.csr_matrix,
    labels: NDArray[np.bool_],
    folds: Folds,
    c: float,
    *,
    jobs: int,
    step: Callable[[], None],
) -> FloatArray:
    """Return topic logits of models that had not seen the row, shape (n, n_topics). `step` is called at each fit."""
    logits = np.zeros(labels.shape)
    tasks = [(k, topic) for k in range(len(folds)) for topic in range(labels.shape[1])]
    for (k, topic), found in _parallel(jobs, _unseen_topic, tasks, matrix, labels, folds, c):
        logits[folds.scored[k], topic] = found
        step()
    return logits


def unseen_stances(
    augmented: sparse.csr_matrix, pairs: Pairs, folds: Folds, c: float, *, jobs: int, step: Callable[[], None]
) -> FloatArray:
    """Return stance logits of models that had not seen the pair's row, shape (n_pairs, 3); `step` as above.

    Parameters
    ----------
    augmented : csr_matrix, shape (n_pairs, n_columns)
        From :func:`augment`.
    """
    logits = np.zeros((len(pairs.row), len(STANCES)))
    for k, found in _parallel(jobs, _unseen_stance, range(len(folds)), augmented, pairs, folds, c):
        logits[folds.scored[k][pairs.row]] = found
        step()
    return logits


class Heads(NamedTuple):
    """All heads of a fitted model: topic weights (n_columns, n_topics) and bias (n_topics,), stance weights
    (1 + n_topics, n_features, 3) and bias (3,), or None where no example carries a stance."""

    topic_weights: FloatArray
    topic_bias: FloatArray
    stance_weights: FloatArray | None
    stance_bias: FloatArray | None


def fit_heads(
    topic_matrix: sparse.csr_matrix,
    stance_matrix: sparse.csr_matrix,
    labels: NDArray[np.bool_],
    pairs: Pairs,
    *,
    topic_c: float,
    stance_c: float,
    jobs: int,
    step: Callable[[], None],
) -> Heads:
    """Fit every head on all rows given: topics on one matrix, which may have columns of its own, stances on another."""
    n_features, n_topics = stance_matrix.shape[1], labels.shape[1]
    weights, bias = np.zeros((topic_matrix.shape[1], n_topics)), np.zeros(n_topics)
    for topic, head in _parallel(jobs, _topic_head, range(n_topics), topic_matrix, labels, topic_c):
        weights[:, topic], bias[topic] = head
        step()
    if not len(pairs.row):
        return Heads(weights, bias, None, None)
    augmented = augment(stance_matrix[pairs.row], pairs.topic, n_topics)
    stance_weights, stance_bias = np.zeros((augmented.shape[1], len(STANCES))), np.zeros(len(STANCES))
    for stance, head in _parallel(jobs, _stance_head, range(len(STANCES)), augmented, pairs.stance, stance_c):
        stance_weights[:, stance], stance_bias[stance] = head
    step()
    return Heads(weights, bias, stance_weights.reshape(1 + n_topics, n_features, len(STANCES)), stance_bias)


def _parallel(jobs: int, function: Callable[..., Any], keys: Iterable[Any], *shared: Any) -> Iterator[tuple[Any, Any]]:
    """Yield ``(key, function(key, *shared))`` as they are done.

    In processes, not threads: liblinear draws from one random generator a process, and would not fit the same twice.
    joblib maps large arrays into the workers' memory instead of copying them.
    """
    tasks = (delayed(_keyed)(function, key, *shared) for key in keys)
    yield from Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks)


def _keyed(function: Callable[..., Any], key: Any, *shared: Any) -> tuple[Any, Any]:
    return key, function(key, *shared)


def _unseen_topic(
    key: tuple[int, int], matrix: sparse.csr_matrix, labels: NDArray[np.bool_], folds: Folds, c: float
) -> FloatArray:
    k, topic = key
    head = fit_binary(matrix[folds.fitted[k]], labels[folds.fitted[k], topic], c)
    return np.asarray(matrix[folds.scored[k]] @ head.weights + head.bias)


def _unseen_stance(k: int, augmented: sparse.csr_matrix, pairs: Pairs, folds: Folds, c: float) -> FloatArray:
    inside, outside = folds.fitted[k][pairs.row], folds.scored[k][pairs.row]
    heads = [fit_binary(augmented[inside], pairs.stance[inside] == stance, c) for stance in range(len(STANCES))]
    return np.stack([augmented[outside] @ head.weights + head.bias for head in heads], axis=1)


def _topic_head(topic: int, matrix: sparse.csr_matrix, labels: NDArray[np.bool_], c: float) -> Head:
    return fit_binary(matrix, labels[:, topic], c)


def _stance_head(stance: int, augmented: sparse.csr_matrix, gold: IntArray, c: float) -> Head:
    return fit_binary(augmented, gold == stance, c)
