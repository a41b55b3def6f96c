"""Turn logits into probabilities and probabilities into decisions, all on out-of-fold scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from models.linear import softmax
from models.scorer import Rules, TopicRule

FloatArray = NDArray[np.float64]
# An absence is uncertain where it was wrong at least this often, a stance where it was right less often than that.
ABSENCE_WRONG = 0.25
STANCE_RIGHT = 0.5
# What a threshold takes tells nothing apart where it is on topic at most so many times as often as all paragraphs.
_HARDLY = 1.1
RULE_STATEMENTS = {
    "threshold": "half the best F1 that the topic's calibrated scores reach out of fold (Lipton, Elkan and "
    "Narayanaswamy 2014: the threshold that maximises F1 is half the F1 it reaches); 1 where that finds a topic in "
    "most paragraphs that is hardly oftener in those than in any",
    "uncertain_from": f"the lowest score, short of the threshold, from which at least {ABSENCE_WRONG:.0%} of the "
    "out-of-fold (paragraph, topic) pairs were on topic, by isotonic regression over all topics",
    "stance_certain_from": f"the lowest probability of the likeliest stance at which it was right at least "
    f"{STANCE_RIGHT:.0%} of the time out of fold, by isotonic regression",
}


class Platt(NamedTuple):
    """A topic's calibration: the probability is ``sigmoid(slope * logit + offset)``."""

    slope: float
    offset: float


class Tempering(NamedTuple):
    """The stances' calibration: the probabilities are ``softmax(slope * logits + offset)``, offset of shape (3,)."""

    slope: float
    offset: FloatArray


def fit_platt(logits: FloatArray, present: NDArray[np.bool_]) -> Platt:
    """Fit a sigmoid to held-out logits with Platt's smoothed targets (Platt 1999, section 2.2).

    Parameters
    ----------
    logits : ndarray of float64, shape (n,)
    present : ndarray of bool, shape (n,)
    """
    positives = int(present.sum())
    if positives == 0 or positives == len(present):
        return Platt(1.0, 0.0)
    target = np.where(present, (positives + 1) / (positives + 2), 1 / (len(present) - positives + 2))

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        z = parameters[0] * logits + parameters[1]
        error = 0.5 * (1 + np.tanh(0.5 * z)) - target
        return float(np.mean(np.logaddexp(0, z) - target * z)), np.array([np.mean(error * logits), np.mean(error)])

    # A slope below zero would turn the ranking over; out-of-fold scores that bad are flattened instead.
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(1e-3, None), (None, None)])
    return Platt(float(found.x[0]), float(found.x[1]))


def fit_tempering(logits: FloatArray, stance: NDArray[np.int64]) -> Tempering:
    """Fit one temperature and a bias per stance to held-out logits (bias-corrected temperature scaling,
    Alexandari, Kundaje and Shrikumar 2020).

    Parameters
    ----------
    logits : ndarray of float64, shape (n, 3)
    stance : ndarray of int64, shape (n,)
    """
    hot = np.eye(logits.shape[1])[stance]

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        z = parameters[0] * logits + parameters[1:]
        p = softmax(z)
        error = (p - hot) / len(stance)
        nll = -np.mean(np.log(np.maximum((p * hot).sum(axis=1), 1e-300)))
        # One pseudo-observation keeps the bias of a stance that was never seen finite.
        ridge = 0.5 * float(parameters[1:] @ parameters[1:]) / len(stance)
        gradient = np.concatenate([[np.sum(error * logits)], error.sum(axis=0) + parameters[1:] / len(stance)])
        return float(nll) + ridge, gradient

    start = np.array([1.0, *np.zeros(logits.shape[1])])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(1e-3, None)] + [(None, None)] * 3)
    return Tempering(float(found.x[0]), found.x[1:])


def best_f1(scores: FloatArray, present: NDArray[np.bool_]) -> float:
    """Return the largest F1 that any threshold on `scores` reaches."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(present[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + present.sum())
    # A threshold takes all paragraphs of one score or none.
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)[: len(scores)]
    return float(f1[last_of_tie].max(initial=0.0))


def threshold_of(scores: FloatArray, present: NDArray[np.bool_], otherwise: float) -> float:
    """Return half the best F1, which is the threshold of the best F1 (Lipton et al. 2014), or `otherwise` where none is
    present or nothing tells those that are apart: half the best F1 then takes most paragraphs, and those that it takes
    are hardly oftener on topic than any other."""
    if not present.any():
        return otherwise
    threshold = best_f1(scores, present) / 2
    taken = scores >= threshold
    is_blind = taken.mean() > 0.5 > present.mean() and present[taken].mean() <= _HARDLY * present.mean()
    return otherwise if is_blind else threshold


def choose_rules(
    topics: tuple[str, ...],
    scores: FloatArray,
    labels: NDArray[np.bool_],
    stance_scores: FloatArray,
    stance: NDArray[np.int64],
) -> Rules:
    """Choose thresholds and bands by ``RULE_STATEMENTS`` from calibrated out-of-fold scores.

    Parameters
    ----------
    topics : tuple of str, length n_topics
    scores, labels : ndarray, shape (n, n_topics)
    stance_scores : ndarray of float64, shape (n_pairs, 3)
    stance : ndarray of int64, shape (n_pairs,)
    """
    uncertain_from = _lowest_score(scores.ravel(), labels.ravel(), ABSENCE_WRONG)
    rules = {}
    for index, topic in enumerate(topics):
        threshold = threshold_of(scores[:, index], labels[:, index], 1.0)
        rules[topic] = TopicRule(threshold, min(threshold, uncertain_from))
    certain_from = 0.0
    if len(stance):
        right = stance_scores.argmax(axis=1) == stance
        certain_from = _lowest_score(stance_scores.max(axis=1), right, STANCE_RIGHT)
    return Rules(rules, certain_from)


def rules_with_zero_shot(rules: Rules, zero_shot: Sequence[str], threshold: float) -> Rules:
    """Let topics without labels be present from `threshold` on: they have no F1 of their own to choose by."""
    rule = TopicRule(threshold, threshold)
    return msgspec.structs.replace(rules, topics=rules.topics | dict.fromkeys(zero_shot, rule))


def _lowest_score(scores: FloatArray, outcome: NDArray[np.bool_], rate: float) -> float:
    """Return the lowest score at which the isotonic estimate of the outcome's rate is at least `rate`."""
    estimate = IsotonicRegression(out_of_bounds="clip").fit(scores, outcome)
    grid = np.linspace(0.0, 1.0, 1001)
    reached = np.flatnonzero(estimate.predict(grid) >= rate)
    return float(grid[reached[0]]) if reached.size else 1.0
