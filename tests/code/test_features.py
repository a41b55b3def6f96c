"""The feature function, held against scikit-learn's vectorisers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from models.examples import Example
from models.features import CHAR_NGRAMS, WORD_NGRAMS, NgramFeatures
from training.ngrams import fit_ngrams

SCRIPTS = [
    "Крым — это Россия? Нет: так сказал ΣΊΣΥΦΟΣ, İstanbul'da.",
    "中国外交部发言人表示,制裁没有出路。",
    "a b c I O’Brien don't U.S.–Russia $4.5bn 🇷🇺\u2028next\x85line\u00a0end",
    "नमस्ते दुनिया é é ﬁ ß ẞ",
    "x" * 5000,
    " \t\n",
]


# Our features, and scikit-learn's of words and of characters with their names.
Pair = tuple[NgramFeatures, list[tuple[TfidfVectorizer, NDArray[np.object_]]]]


@pytest.fixture(scope="module")
def pair(seeds: list[Example]) -> Pair:
    texts = [example.text for example in seeds[:600]] + SCRIPTS
    words = TfidfVectorizer(ngram_range=WORD_NGRAMS, sublinear_tf=True, min_df=2)
    chars = TfidfVectorizer(analyzer="char_wb", ngram_range=CHAR_NGRAMS, sublinear_tf=True, min_df=2)
    words.fit(texts)
    chars.fit(texts)
    named = [(vectorizer, vectorizer.get_feature_names_out()) for vectorizer in (words, chars)]
    return fit_ngrams(texts, min_df=2).features, named


def check(pair: Pair, text: str) -> None:
    row = pair[0].read(text)
    grams = [*pair[0].words, *pair[0].chars]
    ours = {(column >= len(pair[0].words), grams[column]): i for i, column in enumerate(row.columns())}
    reference = {}
    for is_char, (vectorizer, names) in enumerate(pair[1]):
        found = vectorizer.transform([text])
        values = zip(names[found.indices], found.data, strict=True)
        reference |= {(bool(is_char), name): value for name, value in values}
    assert ours.keys() == reference.keys()
    np.testing.assert_allclose(row.values()[list(ours.values())], [reference[key] for key in ours], atol=1e-6)


def test_the_vocabulary_is_the_same_commonest_first(pair: Pair) -> None:
    words, chars = (list(names) for _, names in pair[1])
    assert sorted(pair[0].words) == words
    assert sorted(pair[0].chars) == chars
    assert (np.diff(pair[0].idf[: len(words)]) >= 0).all() and (np.diff(pair[0].idf[len(words) :]) >= 0).all()


def test_rows_are_the_same_on_the_seeds_and_on_many_scripts(pair: Pair, seeds: list[Example]) -> None:
    for text in [example.text for example in seeds[600:900]] + SCRIPTS:
        check(pair, text)


@settings(deadline=None, max_examples=300)
@given(text=st.text(max_size=300))
def test_rows_are_the_same_on_any_text(pair: Pair, text: str) -> None:
    check(pair, text)


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=200))
def test_every_feature_of_a_row_occurs_in_a_chunk(pair: Pair, text: str) -> None:
    row = pair[0].read(text)
    for column, value in zip(row.columns(), row.values(), strict=True):
        one = np.zeros((pair[0].size, 1), np.float32)
        one[column] = 1
        found = row.shares(one, (1.0,))
        assert found.weights.sum() == pytest.approx(value) and found.rest == 0
        assert all(text[a:b] == text[a:b].strip() and text[a:b] for a, b in found.spans)
