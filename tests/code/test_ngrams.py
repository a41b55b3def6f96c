"""Counting n-grams once: the matrix that is fitted on has the rows that are served, and only new texts are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.examples import Example
from models.features import NgramFeatures
from training.ngrams import Fitted, fit_ngrams

ODD = ["", "x", "word " * 90, "İstanbul'da ΣΊΣΥΦΟΣ ﬁ ß\x00\u2028next\x85line", "制裁没有出路。 制裁没有出路。"]


@pytest.fixture(scope="module")
def texts(seeds: list[Example]) -> list[str]:
    return [*ODD, *(example.text for example in seeds[:400])]


def fit(texts: list[str], cache: Path | None = None) -> Fitted:
    return fit_ngrams(texts, min_df=2, cache=cache)


def parts(fitted: Fitted) -> list[object]:
    features, matrix = fitted.features, fitted.matrix
    arrays = [array.tobytes() for array in (features.idf, matrix.indptr, matrix.indices, matrix.data)]
    return [list(features.words), list(features.chars), *arrays]


def test_the_matrix_has_the_rows_that_are_served(texts: list[str]) -> None:
    features, matrix, _ = fit(texts)
    assert matrix.shape == (len(texts), features.size)
    for compiled in (True, False):
        served = NgramFeatures(features.words, features.chars, features.idf, compiled=compiled)
        for row, text in zip(matrix[:80], texts, strict=False):
            read = served.read(text)
            order = np.argsort(read.columns())
            np.testing.assert_array_equal(row.indices, read.columns()[order])
            assert row.data.tobytes() == read.values()[order].tobytes()


def test_to_fit_again_counts_what_is_new_and_gives_what_a_fresh_count_gives(tmp_path: Path, texts: list[str]) -> None:
    before = [*texts[300:], *texts[:200]]
    assert fit(before, tmp_path).counted == len(before)
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    again = fit(texts, tmp_path)
    assert again.counted == 100
    assert parts(again) == parts(fit(texts))
    assert parts(again) != parts(fit(before))
    assert fit(texts, tmp_path).counted == 0
    # Of what is fitted no more, nothing stays.
    assert parts(fit([*texts[:50], "a new one"], tmp_path)) == parts(fit([*texts[:50], "a new one"]))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < size / 3


def test_a_text_that_comes_twice_is_counted_once(tmp_path: Path, texts: list[str]) -> None:
    fitted = fit([*texts, *texts], tmp_path)
    assert fitted.counted == len(texts)
    assert (fitted.matrix[: len(texts)] != fitted.matrix[len(texts) :]).nnz == 0


@pytest.mark.parametrize("empty", [[""], ["", " \n"], ["x"]])
def test_texts_without_ngrams_have_empty_rows(tmp_path: Path, empty: list[str]) -> None:
    for _ in range(2):
        fitted = fit(empty, tmp_path)
        assert fitted.features.size == 0 and fitted.matrix.shape == (len(empty), 0)


def test_a_damaged_file_is_taken_for_none(tmp_path: Path, texts: list[str]) -> None:
    fresh = parts(fit(texts, tmp_path))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, len(whole) - 1, *rng.integers(len(whole), size=8)]:
        damaged = bytearray(whole)
        damaged[place] ^= 64
        file.write_bytes(damaged)
        again = fit(texts, tmp_path)
        assert again.counted == len(texts) and parts(again) == fresh
    file.write_bytes(whole[:-1])
    assert fit(texts, tmp_path).counted == len(texts)
    assert fit(texts, tmp_path).counted == 0


def test_where_nothing_can_be_kept_a_fit_goes_on(tmp_path: Path, texts: list[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    fitted = fit(texts, tmp_path / "file")
    assert fitted.counted == len(texts) and parts(fitted) == parts(fit(texts))
