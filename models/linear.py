"""The linear family: a weight row per n-gram, topic heads, and stance heads that share and specialise.

Calibration is folded into the weights, so the logistic function of a topic's logit is its probability, the softmax of
a pair's stance logits are its probabilities, and what each word adds to a logit can be read off.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.features import Encoded, Features

FloatArray = NDArray[np.float64]
FAMILY = "linear"


class Contributions(NamedTuple):
    """A logit taken apart: ``bias + weights.sum()`` is the logit, `weights` has one entry per span."""

    bias: float
    spans: list[tuple[int, int]]
    weights: FloatArray


class LinearModel:
    """Score paragraphs by sparse dot products.

    Parameters
    ----------
    features : Features
    topic_weights : ndarray of float32, shape (n_features, n_topics)
    topic_bias : ndarray of float64, shape (n_topics,)
    stance_weights : ndarray of float32, shape (1 + n_topics, n_features, 3), or None
        First the weights that all topics share, then each topic's own, which are added to them (Daumé III 2007,
        "Frustratingly Easy Domain Adaptation"). None for a classifier of topics alone.
    stance_bias : ndarray of float64, shape (n_topics, 3), or None
    """

    def __init__(
        self,
        features: Features,
        topic_weights: NDArray[np.float32],
        topic_bias: FloatArray,
        stance_weights: NDArray[np.float32] | None = None,
        stance_bias: FloatArray | None = None,
    ) -> None:
        self.features = features
        self.topic_weights = topic_weights
        self.topic_bias = topic_bias
        self.stance_weights = stance_weights
        self.stance_bias = stance_bias

    def topic_logits(self, row: Encoded) -> FloatArray:
        """Return the logit of each topic, shape (n_topics,)."""
        return np.asarray(row.values @ self.topic_weights[row.columns] + self.topic_bias)

    def stance_logits(self, row: Encoded, topic: int) -> FloatArray:
        """Return the stance logits toward one topic in the order of ``STANCES``, shape (3,), their mean 0."""
        rows, bias = self._stance_parts(row, topic)
        return np.asarray(row.values @ rows + bias)

    def explain_topic(self, row: Encoded, topic: int) -> Contributions:
        """Take the logit of a topic apart by chunks of the text."""
        return self._contributions(row, self.topic_weights[row.columns, topic], self.topic_bias[topic])

    def explain_stance(self, row: Encoded, topic: int, stance: int) -> Contributions:
        """Take one stance's logit toward a topic apart by chunks of the text."""
        rows, bias = self._stance_parts(row, topic)
        return self._contributions(row, rows[:, stance], bias[stance])

    def _stance_parts(self, row: Encoded, topic: int) -> tuple[FloatArray, FloatArray]:
        """Return the stance weights, shape (n, 3), and bias, shape (3,), that apply, centred over the stances."""
        if self.stance_weights is None or self.stance_bias is None:
            raise ValueError("this model was fitted without stances")
        shared, own = self.stance_weights[0, row.columns], self.stance_weights[1 + topic, row.columns]
        weights = shared.astype(np.float64) + own
        bias = self.stance_bias[topic]
        return weights - weights.mean(axis=1, keepdims=True), bias - bias.mean()

    def _contributions(self, row: Encoded, weights: NDArray[np.floating], bias: np.floating) -> Contributions:
        spans, found, rest = self.features.share_out(row, weights)
        return Contributions(float(bias) + rest, spans, found)


def softmax(logits: FloatArray) -> FloatArray:
    """Return the softmax over the last axis, in float64."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return ``1 / (1 + exp(-x))`` without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
