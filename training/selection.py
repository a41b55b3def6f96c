"""Choose how strongly to regularise, by how well calibrated out-of-fold scores explain the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
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
STANCE_GRID = (0.3, 3.0, 30.0)
# For columns that lean to the topics' wording and to embeddings (:mod:`training.wordings`), which are for few labels.
WIDE_TOPIC_GRID = (0.1, 1.0)
WIDE_STANCE_GRID = (0.3, 1.0)


class TopicChoice(NamedTuple):
    """The strength chosen for the topic heads, their calibration, and the calibrated out-of-fold scores, shape
    (n, n_topics); ``loss`` is their mean log loss, and ``is_wide`` tells whether the matrix was the wide one."""

    is_wide: bool
    c: float
    loss: float
    platts: list[Platt]
    scores: FloatArray


class StanceChoice(NamedTuple):
    """The same for the stance heads; scores of shape (n_pairs, 3), ``losses`` of each pair, shape (n_pairs,)."""

    is_wide: bool
    c: float
    losses: FloatArray
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
    """Return the strength with the least log loss, one for all topics, and the matrix that it is for: the narrow one,
    or where there is one the wide one, which has a grid of its own."""
    choices = []
    for is_wide, columns, c in _candidates(matrix, wide, TOPIC_GRID, WIDE_TOPIC_GRID):
        logits = linear.unseen_topics(columns, labels, folds, c, jobs=jobs, step=step)
        platts = [fit_platt(column, present) for column, present in zip(logits.T, labels.T, strict=True)]
        slopes, offsets = np.array(platts).T
        scores = sigmoid(logits * slopes + offsets)
        loss = -np.mean(np.log(np.maximum(np.where(labels, scores, 1 - scores), 1e-15)))
        choices.append(TopicChoice(is_wide, c, float(loss), platts, scores))
    return min(choices, key=lambda choice: choice.loss)


def choose_stances(
    matrix: sparse.csr_matrix,
    wide: sparse.csr_matrix | None,
    pairs: linear.Pairs,
    n_topics: int,
    folds: linear.Folds,
    *,
    jobs: int,
    step: Callable[[], None],
) -> StanceChoice:
    """Return the strength of each matrix with the least log loss; of the two the wide one, unless the narrow one is
    better by more than the standard error of the difference, in the manner of Breiman et al. 1984, section 3.4.3: the
    loss of a few dozen pairs tells them apart by chance."""
    choices = []
    for is_wide, columns, c in _candidates(matrix, wide, STANCE_GRID, WIDE_STANCE_GRID):
        augmented = linear.augment(columns[pairs.row], pairs.topic, n_topics)
        logits = linear.unseen_stances(augmented, pairs, folds, c, jobs=jobs, step=step)
        tempering = fit_tempering(logits, pairs.stance)
        scores = softmax(logits * tempering.slope + tempering.offset)
        right = scores[np.arange(len(scores)), pairs.stance]
        losses = -np.log(np.maximum(right, 1e-15))
        choices.append(StanceChoice(is_wide, c, losses, tempering, scores))
    best = [
        min(group, key=lambda choice: choice.losses.mean())
        for _, group in groupby(choices, lambda choice: choice.is_wide)
    ]
    more = best[-1].losses - best[0].losses
    return best[0] if more.mean() > more.std() / len(more) ** 0.5 else best[-1]


def _candidates(
    matrix: sparse.csr_matrix,
    wide: sparse.csr_matrix | None,
    grid: Sequence[float],
    wide_grid: Sequence[float],
) -> list[tuple[bool, sparse.csr_matrix, float]]:
    """Return matrices and strengths to choose from, and whether each matrix is the wide one."""
    narrow = [(False, matrix, c) for c in grid]
    return narrow if wide is None else [*narrow, *((True, wide, c) for c in wide_grid)]
