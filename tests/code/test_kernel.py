"""The compiled feature function against the plain one, and against scikit-learn's estimators on the same weights."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from models.bundle import Bundle
from models.examples import Example
from models.features import IS_COMPILED, NgramFeatures, NgramRow
from training.export import pipelines
from training.linear import feature_matrix

# Where the letters, digits, signs and white space of scripts begin; 400 code points of each.
SCRIPTS = (
    0x21, 0xC0, 0x180, 0x300, 0x370, 0x410, 0x531, 0x5D0, 0x620, 0x905, 0xE01, 0x10A0, 0x1200, 0x1E00, 0x2000, 0x2150,
    0x2C00, 0x3041, 0x4E00, 0xAC00, 0xFB00, 0xFE70, 0x10400, 0x1D400, 0x1D7CE, 0x1F600, 0x20000,
)  # fmt: skip
Pair = tuple[NgramFeatures, NgramFeatures]


@pytest.fixture(scope="module")
def both(bundle: Bundle) -> Pair:
    """The features of the seeds, compiled and not."""
    ngrams = bundle.scorer.model.features.ngrams
    made = [NgramFeatures(ngrams.words, ngrams.chars, ngrams.idf, compiled=compiled) for compiled in (True, False)]
    return made[0], made[1]


@pytest.fixture(scope="module")
def texts(seeds: list[Example]) -> list[str]:
    """Ten thousand texts: the seeds' sentences mixed with words of many scripts."""
    drawn = random.Random(5)
    words = [word for example in seeds for word in example.text.split()]
    made = []
    for _ in range(10_000):
        parts = []
        for _ in range(drawn.randint(1, 40)):
            if drawn.random() < 0.7:
                parts.append(drawn.choice(words))
            else:
                parts.append(
                    "".join(chr(drawn.choice(SCRIPTS) + drawn.randrange(400)) for _ in range(drawn.randint(1, 30)))
                )
        made.append(drawn.choice((" ", "  ", "\n", " ")).join(parts))
    return made


def check_equal(both: Pair, bundle: Bundle, text: str) -> None:
    compiled, plain = (features.read(text) for features in both)
    np.testing.assert_array_equal(compiled.columns(), plain.columns())
    # To the last bit.
    assert compiled.values().tobytes() == plain.values().tobytes()
    model = bundle.scorer.model
    assert model.stance_weights is not None
    products = plain.dot(model.topic_weights)
    np.testing.assert_allclose(both[0].dot((text,), model.topic_weights)[0], products, atol=1e-9)
    for matrix, direction in (
        (model.topic_weights, tuple(np.eye(model.topic_weights.shape[1])[1])),
        (model.topic_weights[:, 3:4], (1.0,)),
        (model.stance_weights[4], (2 / 3, -1 / 3, -1 / 3)),
    ):
        np.testing.assert_allclose(compiled.dot(matrix), plain.dot(matrix), atol=1e-12)
        ours, theirs = (row.shares(matrix, direction) for row in (compiled, plain))
        assert ours.spans == theirs.spans
        np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-12)
        check_stretches(compiled, plain, matrix, direction)


def check_stretches(compiled: NgramRow, plain: NgramRow, matrix: np.ndarray, direction: tuple[float, ...]) -> None:
    ours, theirs = (row.stretches(matrix, direction, 0.1) for row in (compiled, plain))
    assert [stretch[:2] for stretch in ours] == [stretch[:2] for stretch in theirs]
    np.testing.assert_allclose([each[2] for each in ours], [each[2] for each in theirs], atol=1e-12)


def test_it_is_compiled_here() -> None:
    assert IS_COMPILED


def test_it_is_equal_on_the_seeds_and_on_many_scripts(
    both: Pair, bundle: Bundle, seeds: list[Example], texts: list[str]
) -> None:
    for text in [example.text for example in seeds[::40]] + texts[::25]:
        check_equal(both, bundle, text)


@settings(deadline=None, max_examples=500)
@given(text=st.text(max_size=300))
def test_it_is_equal_on_any_text(both: Pair, bundle: Bundle, text: str) -> None:
    check_equal(both, bundle, text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "a", "İİ Σας ΑΣ Σ", "x" * 100_000, "ab " * 30_000, "a b " * 999, "\u2028".join("abc"), "one_two __ 1 22"],
)
def test_it_is_equal_at_the_edges(both: Pair, bundle: Bundle, text: str) -> None:
    check_equal(both, bundle, text)


def test_scores_are_those_of_scikit_learns_estimators_on_ten_thousand_texts(bundle: Bundle, texts: list[str]) -> None:
    scores = bundle.scorer.topic_scores(texts)
    # The estimators are given scikit-learn's own matrix of its own vectorisers.
    made = pipelines(bundle)["topics"]
    matrix = next(iter(made.values()))[:-1].transform(texts)
    for index, name in enumerate(bundle.taxonomy.ids):
        head = made[name][-1]
        assert isinstance(head, LogisticRegression)
        np.testing.assert_allclose(scores[:, index], expit(matrix @ head.coef_[0] + head.intercept_[0]), atol=1e-6)


def test_threads_share_one_vocabulary(both: Pair, bundle: Bundle, texts: list[str]) -> None:
    weights = bundle.scorer.model.topic_weights
    expected = both[0].dot(texts, weights)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: both[0].dot(texts, weights), range(16)):
            np.testing.assert_array_equal(found, expected)


def test_matrices_in_turn_are_not_taken_for_one_another(both: Pair, texts: list[str]) -> None:
    drawn = np.random.default_rng(3)
    # Of the widths that are summed by chunk, and one that is not; then in an order that is not.
    made = [drawn.normal(size=(both[0].size, width)).astype(np.float32) for width in (3, 3, 17, 65)]
    for matrix in (*made, np.asfortranarray(made[0]), *made):
        expected = both[1].dot(texts[:20], matrix)
        np.testing.assert_allclose(both[0].dot(texts[:20], matrix), expected, atol=1e-9)


def test_rows_outlive_one_another_and_their_features(bundle: Bundle, seeds: list[Example]) -> None:
    ngrams = bundle.scorer.model.features.ngrams
    made = NgramFeatures(ngrams.words, ngrams.chars, ngrams.idf)
    some = [example.text for example in seeds[:50]]
    rows = [made.read(text) for text in some]
    kept = [row.values().copy() for row in rows]
    del made
    for row, values, text in zip(rows, kept, some, strict=True):
        assert row.text == text
        np.testing.assert_array_equal(row.values(), values)


def test_what_does_not_fit_is_refused(both: Pair) -> None:
    row, size = both[0].read("some text"), both[0].size
    for wrong in (np.zeros((size - 1, 2), np.float32), np.zeros((size, 2)), np.zeros(size, np.float32)):
        with pytest.raises(ValueError, match=f"float32 matrix of at least {size} rows"):
            row.dot(wrong)
    good = np.zeros((size, 2), np.float32)
    with pytest.raises(ValueError, match="direction of 2"):
        row.shares(good, (1.0,))
    with pytest.raises(TypeError, match="text"):
        both[0].read(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="text"):
        both[0].dot(["text", 3], good)  # type: ignore[list-item]


def test_the_matrix_that_is_fitted_on_has_the_rows_that_are_served(both: Pair, texts: list[str]) -> None:
    matrix = feature_matrix(both[0], texts[:50])
    for index, text in enumerate(texts[:50]):
        row = both[1].read(text)
        order = np.argsort(row.columns())
        np.testing.assert_array_equal(matrix[index].indices, row.columns()[order])
        assert matrix[index].data.tobytes() == row.values()[order].tobytes()
