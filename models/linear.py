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
from models.plain import CENTRED, Label, Labeller, Matrix, Weights, centred

FloatArray = NDArray[np.float64]
FAMILY = "linear"
_ALL = (1.0,)
# A chunk is shown with its neighbours where it carries at least this part of the heaviest one's weight.
LINK_PART = 0.1


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
        sides = [] if stance_weights is None else list(sides_of(topic_weights, stance_weights))
        self._stances = [matrix[:, 1:] for matrix in sides]
        self._labeller = features.labeller(Weights(topic_weights, topic_bias, sides, stance_bias), LINK_PART)

    @property
    def is_compiled(self) -> bool:
        """Whether compiled code labels by it: of n-grams alone, and of no more topics than that takes."""
        return not isinstance(self._labeller, Labeller)

    def topic_logits(self, texts: Sequence[str]) -> FloatArray:
        """Return the logit of each topic for each text, shape (n_texts, n_topics)."""
        return np.frombuffer(self._labeller.logits(texts)).reshape(len(texts), len(self.topic_bias))

    def label(self, texts: Sequence[str], floors: FloatArray, encoded: bool = False) -> list[list[Label]]:
        """Do what :meth:`models.plain.Labeller.label` does."""
        return self._labeller.label(texts, floors, encoded)

    def stance_logits(self, row: Row, topic: int) -> FloatArray:
        """Return the stance logits toward one topic in the order of ``STANCES``, shape (3,), their mean 0."""
        weights, bias = self._stance_parts(topic)
        return centred(row.dot(weights) + bias)

    def explain_topic(self, row: Row, topic: int) -> Contributions:
        """Take the logit of a topic apart by chunks of the text."""
        return _contributions(row.shares(self._topics[topic], _ALL), float(self.topic_bias[topic]))

    def explain_stance(self, row: Row, topic: int, stance: int) -> Contributions:
        """Take one stance's logit toward a topic apart by chunks of the text."""
        weights, bias = self._stance_parts(topic)
        return _contributions(row.shares(weights, CENTRED[stance]), float(bias[stance] - bias.mean()))

    def _stance_parts(self, topic: int) -> tuple[Matrix, FloatArray]:
        """Return the stance weights, shape (n_features, 3), and the bias, shape (3,), that apply."""
        if self.stance_bias is None:
            raise ValueError("this model was fitted without stances")
        return self._stances[topic], self.stance_bias[topic]


def sides_of(topic_weights: NDArray[np.float32], stance_weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what :class:`models.plain.Weights` wants of each topic, shape (n_topics, n_features, 4), from the weights
    of a :class:`LinearModel`: what is read together lies together."""
    sides = np.empty((*topic_weights.T.shape, 1 + stance_weights.shape[2]), np.float32)
    sides[:, :, 0] = topic_weights.T
    np.add(stance_weights[0], stance_weights[1:], out=sides[:, :, 1:])
    return sides


def _contributions(shares: Shares, bias: float) -> Contributions:
    return Contributions(bias + shares.rest, shares.spans, shares.weights)


def softmax(logits: FloatArray) -> FloatArray:
    """Return the softmax over the last axis, in float64."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return ``1 / (1 + exp(-x))`` without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
