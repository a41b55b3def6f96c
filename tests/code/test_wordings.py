"""What a topic's wording lends to its weights: wide columns score as narrow ones do, and few labels go farther."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.taxonomy import Taxonomy
from training import fitting, linear
from training.selection import choose_stances
from training.splits import near_duplicates
from training.wordings import Wordings, description


def test_weights_of_the_wide_columns_score_as_those_they_are_turned_into() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(3, 5))
    matrix = sparse.csr_matrix(np.hstack([rng.random((7, 4)) * (rng.random((7, 4)) > 0.5), rng.normal(size=(7, 5))]))
    wordings = Wordings(embeddings)
    wide = wordings.widen(matrix)
    weights = rng.normal(size=(wide.shape[1], 3))
    assert wide.shape == (7, 12)
    np.testing.assert_allclose(wide @ weights, matrix @ wordings.narrow(weights), atol=1e-12)
    stances = rng.normal(size=(4, wide.shape[1], 3))
    heads = linear.Heads(weights, np.zeros(3), stances, np.zeros(3))
    for is_wide in (True, False):
        narrow = fitting._narrow(wordings, heads, not is_wide, is_wide).stance_weights
        assert narrow is not None
        for block, found in zip(stances, narrow, strict=True):
            columns = matrix if is_wide else wide
            np.testing.assert_allclose(columns @ found, wide @ block, atol=1e-12)


def test_with_few_labels_the_wording_helps_to_find_a_topic() -> None:
    rng = np.random.default_rng(0)
    wordings, about = normed(rng.normal(size=(5, 64))), rng.integers(6, size=400)
    # Paragraphs lean to the wording of their topic; the last of six is none.
    matrix = sparse.csr_matrix(
        normed(normed(rng.normal(size=(400, 64))) + 0.5 * np.vstack([wordings, np.zeros(64)])[about])
    )
    labels = about[:, np.newaxis] == np.arange(5)

    def precision(columns: sparse.csr_matrix) -> float:
        """Of as many as there are, the share of those found first that are right."""
        found = []
        for topic in range(5):
            head = linear.fit_binary(columns[:40], labels[:40, topic], 1.0)
            first = np.argsort(-(columns[40:] @ head.weights))[: labels[40:, topic].sum()]
            found.append(labels[40:][first, topic].mean())
        return float(np.mean(found))

    assert precision(Wordings(wordings).widen(matrix)) > precision(matrix) + 0.01


def normed(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_stances_are_fitted_on_wide_columns_unless_the_narrow_ones_are_surely_better() -> None:
    rng = np.random.default_rng(3)
    stance = rng.integers(3, size=240)
    told = 0.1 * (np.eye(3)[stance] + rng.normal(scale=0.8, size=(240, 3)))
    untold = 0.1 * rng.normal(size=(240, 3))
    pairs = linear.Pairs(np.arange(240), np.zeros(240, np.int64), stance)
    folds = linear.Folds(np.arange(240) % 5, near_duplicates([str(place) for place in range(240)]))

    def is_wide(narrow: np.ndarray, wide: np.ndarray) -> bool:
        matrices = sparse.csr_matrix(narrow), sparse.csr_matrix(wide)
        return choose_stances(*matrices, pairs, 1, folds, jobs=1, step=lambda: None).is_wide

    assert is_wide(untold, told)
    assert not is_wide(told, untold)
    # The narrow ones are better by chance: the wide ones have a column more that says nothing.
    noise = rng.normal(scale=0.3, size=(240, 1))
    assert is_wide(told, np.hstack([told, noise]))
    assert not choose_stances(sparse.csr_matrix(told), None, pairs, 1, folds, jobs=1, step=lambda: None).is_wide


def test_a_topic_is_described_by_what_it_is_about(taxonomy: Taxonomy) -> None:
    assert description(taxonomy.topics[0]) == "Crimea: The status of Crimea and Sevastopol."
