"""Make one logit of two: of a model's heads, and of a net that was fine-tuned, on paragraphs that neither has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.crossencoder import Blend
from models.linear import softmax
from training import linear, splits
from training.fitting import Material

FloatArray = NDArray[np.float64]
# One paragraph in so many stops the fine-tuning and fits the blend: whole documents, unless there are so few that those
# would be one or two voices, standing for all.
_HELD = 10
_FEW_DOCUMENTS = 50
_VOICES = 5


class Prior(NamedTuple):
    """What the slopes of a blend are drawn to, the heads' and the net's, and are with fewer than ``least``
    observations."""

    head: float
    net: float
    least: int


# Heads are calibrated, and stand until enough has been seen of what a net adds to them. Of a topic without
# labels neither knows more than the other.
HEADS = Prior(1.0, 0.0, least=50)
BOTH = Prior(0.5, 0.5, least=1)


class Sides(NamedTuple):
    """Rows of the material that a net is fitted on, and those that stop it early and fit the blend; int64."""

    fitted: NDArray[np.int64]
    held: NDArray[np.int64]


def parted(material: Material, near: splits.Near, seed: int, ways: int) -> list[Sides]:
    """Part the rows in so many ways, each of which holds others, or in fewer where there is not enough to hold.

    What is nearly a copy of a held row is on neither side.
    """
    dealt = linear.Folds(splits.folds(held_with(material.groups), _HELD, seed), near)
    sides = list(zip(dealt.fitted, dealt.scored, strict=True))[:ways]
    return [Sides(np.flatnonzero(fitted), np.flatnonzero(held)) for fitted, held in sides]


def held_with(groups: Sequence[str]) -> Sequence[str]:
    """Return the name of what each paragraph is held out with: its document, or itself where there are few, or where
    one of them would be more than a fifth of what is held."""
    sizes = Counter(groups).values()
    is_varied = len(sizes) >= _FEW_DOCUMENTS and max(sizes) * _HELD * _VOICES <= len(groups)
    return groups if is_varied else [str(row) for row in range(len(groups))]


def stances_of(
    material: Material, held: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return which pairs with a stance are of held rows, their rows' places among those, and their stances."""
    place = np.full(len(material.examples), -1)
    place[held] = np.arange(len(held))
    inside = np.flatnonzero(place[material.pairs.row] >= 0)
    return inside, place[material.pairs.row[inside]], material.pairs.stance[inside]


def log_odds(scores: FloatArray) -> FloatArray:
    """Return the logits of probabilities, none of them infinite."""
    return np.asarray(np.log(np.clip(scores, 1e-9, 1)) - np.log(np.clip(1 - scores, 1e-9, 1)))


def log_likelihoods(scores: FloatArray) -> FloatArray:
    """Return the logarithms of probabilities, none of them infinite."""
    return np.asarray(np.log(np.clip(scores, 1e-9, 1)))


def fit_topic(heads: FloatArray, net: FloatArray, labels: NDArray[np.bool_], prior: Prior) -> Blend:
    """Fit ``sigmoid(head * heads + pair * net + offset)`` to labels, arrays of shape (n,)."""
    present = np.stack([heads, net], axis=1)
    columns = np.stack([np.zeros_like(present), present], axis=2)
    head, pair, offset = _fit(columns, labels.astype(np.int64), prior)
    return Blend(head, pair, [float(offset[1] - offset[0])])


def fit_stance(heads: FloatArray, net: FloatArray, stance: NDArray[np.int64], prior: Prior) -> Blend:
    """Fit ``softmax(head * heads + pair * net + offset)`` to stances; logits of shape (n, 3)."""
    head, pair, offset = _fit(np.stack([heads, net], axis=1), stance, prior)
    return Blend(head, pair, offset.tolist())


def _fit(logits: FloatArray, gold: NDArray[np.int64], prior: Prior) -> tuple[float, float, FloatArray]:
    """Fit two slopes, neither below 0, and an offset for each outcome, by log loss.

    Parameters
    ----------
    logits : ndarray of float64, shape (n, 2, n_outcomes)
        The heads', then the net's.
    gold : ndarray of int64, shape (n,)
    prior : Prior
        The offsets are drawn to 0.
    """
    n, _, n_outcomes = logits.shape
    hot = np.eye(n_outcomes)[gold]
    start = np.array([prior.head, prior.net, *np.zeros(n_outcomes)])
    if n < prior.least:
        return prior.head, prior.net, start[2:]

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        p = softmax(np.einsum("k,nko->no", parameters[:2], logits) + parameters[2:])
        error, off = p - hot, parameters - start
        nll = -np.sum(np.log(np.maximum((p * hot).sum(axis=1), 1e-300)))
        gradient = np.concatenate([np.einsum("no,nko->k", error, logits), error.sum(axis=0)])
        # A normal prior of precision 1 keeps the offsets finite.
        return float(nll + 0.5 * (off @ off)) / (n + 1), (gradient + off) / (n + 1)

    bounds: Sequence[tuple[float | None, None]] = [(0.0, None)] * 2 + [(None, None)] * n_outcomes
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return float(found.x[0]), float(found.x[1]), found.x[2:]
