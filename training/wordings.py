"""What a topic's own words say of it before anybody has labelled a paragraph: for the families with an encoder.

The embedding of a topic's title and description is a direction that paragraphs about it lean to. With few labels it
pays to look for a topic's weights along such directions first; with many it does not, and out-of-fold scores tell which
is the case. A topic without any label has this direction for all its weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.taxonomy import Topic
from training.calibration import Platt, fit_platt

FloatArray = NDArray[np.float64]
# Scales of columns: the penalty on a weight falls with their square. Chosen on the training part of the manifestos, at
# 8 to 128 labels a class.
_EMBEDDING = 2.0
_WORDING = 4.0


def description(topic: Topic) -> str:
    """Return what is embedded of a topic: what it is about, not what is claimed of it."""
    return f"{topic.title}: {topic.description or topic.proposition or ''}".rstrip(": ")


class Wordings:
    """Embeddings of topics, beside paragraphs whose embedding stands in the last columns of their matrix.

    Parameters
    ----------
    embeddings : ndarray of float64, shape (n_topics, n_dimensions)
        Of :func:`description`, each of norm 1.
    """

    def __init__(self, embeddings: FloatArray) -> None:
        self._embeddings = embeddings

    def likeness(self, matrix: sparse.csr_matrix) -> FloatArray:
        """Return the cosine of each row's embedding and each topic's, shape (n, n_topics)."""
        return np.asarray(matrix[:, -self._embeddings.shape[1] :] @ self._embeddings.T)

    def widen(self, matrix: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the matrix that weights may be fitted on instead, shape (n, n_columns + n_topics)."""
        n_dimensions = self._embeddings.shape[1]
        parts = [
            matrix[:, :-n_dimensions],
            _EMBEDDING * matrix[:, -n_dimensions:],
            sparse.csr_matrix(_WORDING * self.likeness(matrix)),
        ]
        return sparse.csr_matrix(sparse.hstack(parts, format="csr"))

    def narrow(self, weights: FloatArray) -> FloatArray:
        """Turn weights for the columns of :meth:`widen`, one head a column, into those for the matrix' own."""
        n_topics, n_dimensions = self._embeddings.shape
        found = weights[:-n_topics].copy()
        found[-n_dimensions:] *= _EMBEDDING
        found[-n_dimensions:] += _WORDING * self._embeddings.T @ weights[-n_topics:]
        return found

    def zero_shot(self, matrix: sparse.csr_matrix, labels: NDArray[np.bool_]) -> Platt:
        """Return how likeness is calibrated over the topics that have labels, shape (n, n_topics): as far as can be
        known, for one that has none."""
        known = labels.any(axis=0)
        return fit_platt(self.likeness(matrix)[:, known].ravel(), labels[:, known].ravel())

    def head(self, topic: int, platt: Platt, n_columns: int) -> FloatArray:
        """Return a topic's weights by its wording alone, shape (n_columns,); the bias is ``platt.offset``."""
        weights = np.zeros(n_columns)
        weights[-self._embeddings.shape[1] :] = platt.slope * self._embeddings[topic]
        return weights
