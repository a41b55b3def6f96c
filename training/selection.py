"""Choose how strongly to regularise, by how well calibrated out-of-fold scores explain the labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.linear import sigmoid, softmax
from training import linear
from training.calibration import Platt, Tempering, fit_platt, fit_tempering

FloatArray = NDArray[np.float64]
# Inverse strengths of the L2 penalty, from much to little.
TOPIC_GRID = (1.0, 10.0, 30.0)
# For columns that lean to the topics' wording (:mod:`training.wordings`), which are for few labels.
WORDING_GRID = (0.1, 1.0)
STANCE_GRID = (0.3, 3.0, 30.0)


class TopicChoice(NamedTuple):
    """The strength chosen for the topic heads, their calibration, and the calibrated out-of-fold scores, shape
    (n, n_topics); ``loss`` is their mean log loss, and ``is_wide`` tells whether the matrix was the wide one."""

    is_wide: bool
    c: float
    loss: float
    platts: list[Platt]
    scores: FloatArray


class StanceChoice(NamedTuple):
    """The same for the stance heads; scores of shape (n_pairs, 3)."""

    c: float
    loss: float
    tempering: Tempering
    scores: FloatArray


def choose_topics(
    matrix: sparse.csr_matrix,
    wide: sparse.csr_matrix | None,
    labels: NDArray[np.bool_],
    folds: linear.Folds,
    *,
    jobs: int,
    step: Callable[[], None],
) -> TopicChoice:
    """Return the strength with the least log loss, one for all topics: of ``TOPIC_GRID`` on the matrix, or where there
    is a wide one too, of ``WORDING_GRID`` on that."""
    choices = []
    candidates = [(False, matrix, c) for c in TOPIC_GRID]
    if wide is not None:
        candidates += [(True, wide, c) for c in WORDING_GRID]
    for is_wide, columns, c in candidates:
        logits = linear.unseen_topics(columns, labels, folds, c, jobs=jobs, step=step)
        platts = [fit_platt(column, present) for column, present in zip(logits.T, labels.T, strict=True)]
        slopes, offsets = np.array(platts).T
        scores = sigmoid(logits * slopes + offsets)
        loss = -np.mean(np.log(np.maximum(np.where(labels, scores, 1 - scores), 1e-15)))
        choices.append(TopicChoice(is_wide, c, float(loss), platts, scores))
    return min(choices, key=lambda choice: choice.loss)


def choose_stances(
    matrix: sparse.csr_matrix,
    pairs: linear.Pairs,
    n_topics: int,
    folds: linear.Folds,
    *,
    jobs: int,
    step: Callable[[], None],
) -> StanceChoice:
    """Return the strength of ``STANCE_GRID`` with the least log loss."""
    augmented = linear.augment(matrix[pairs.row], pairs.topic, n_topics)
    choices = []
    for c in STANCE_GRID:
        logits = linear.unseen_stances(augmented, pairs, folds, c, jobs=jobs, step=step)
        tempering = fit_tempering(logits, pairs.stance)
        scores = softmax(logits * tempering.slope + tempering.offset)
        right = scores[np.arange(len(scores)), pairs.stance]
        choices.append(StanceChoice(c, float(-np.mean(np.log(np.maximum(right, 1e-15)))), tempering, scores))
    return min(choices, key=lambda choice: choice.loss)
