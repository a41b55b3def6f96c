"""The linear family: a weight row per n-gram, topic heads, and stance heads that share and specialise.

Calibration is folded into the weights, so the logistic function of a topic's logit is its probability, the softmax of
a pair's stance logits are its probabilities, and what each word adds to a logit can be read off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.features import Features, Row, Shares
from models.plain import Matrix

FloatArray = NDArray[np.float64]
FAMILY = "linear"
_ALL = (1.0,)
# For each stance, its logit less the mean of the three.
_CENTRED = ((2 / 3, -1 / 3, -1 / 3), (-1 / 3, 2 / 3, -1 / 3), (-1 / 3, -1 / 3, 2 / 3))


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
        n_topics = topic_weights.shape[1]
        self._topics = [topic_weights[:, topic : topic + 1] for topic in range(n_topics)]
        self._stances: Sequence[Matrix] = [] if stance_weights is None else stance_weights[0] + stance_weights[1:]

    def topic_logits(self, texts: Sequence[str]) -> FloatArray:
        """Return the logit of each topic for each text, shape (n_texts, n_topics)."""
        return self.features.dot(texts, self.topic_weights) + self.topic_bias

    def stance_logits(self, row: Row, topic: int) -> FloatArray:
        """Return the stance logits toward one topic in the order of ``STANCES``, shape (3,), their mean 0."""
        weights, bias = self._stance_parts(topic)
        logits = row.dot(weights) + bias
        return np.asarray(logits - logits.sum() / len(logits))

    def explain_topic(self, row: Row, topic: int) -> Contributions:
        """Take the logit of a topic apart by chunks of the text."""
        return _contributions(row.shares(self._topics[topic], _ALL), float(self.topic_bias[topic]))

    def explain_stance(self, row: Row, topic: int, stance: int) -> Contributions:
        """Take one stance's logit toward a topic apart by chunks of the text."""
        weights, bias = self._stance_parts(topic)
        return _contributions(row.shares(weights, _CENTRED[stance]), float(bias[stance] - bias.mean()))

    def topic_stretches(self, row: Row, topic: int, part: float) -> list[tuple[int, int, float]]:
        """Return the stretches of text that raise the logit of a topic most, as :func:`models.plain.stretches` does."""
        return row.stretches(self._topics[topic], _ALL, part)

    def stance_stretches(self, row: Row, topic: int, stance: int, part: float) -> list[tuple[int, int, float]]:
        """Return the stretches of text that raise one stance's logit most."""
        return row.stretches(self._stance_parts(topic)[0], _CENTRED[stance], part)

    def _stance_parts(self, topic: int) -> tuple[Matrix, FloatArray]:
        """Return the stance weights, shape (n_features, 3), and the bias, shape (3,), that apply."""
        if self.stance_bias is None:
            raise ValueError("this model was fitted without stances")
        return self._stances[topic], self.stance_bias[topic]


def _contributions(shares: Shares, bias: float) -> Contributions:
    return Contributions(bias + shares.rest, shares.spans, shares.weights)


def softmax(logits: FloatArray) -> FloatArray:
    """Return the softmax over the last axis, in float64."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return ``1 / (1 + exp(-x))`` without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
