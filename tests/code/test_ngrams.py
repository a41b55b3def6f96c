"""Counting n-grams once: the matrix that is fitted on has the rows that are served, and only new texts are counted."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from models.examples import Example
from models.features import NgramFeatures
from training.ngrams import Ngrams, _Blocks, _Packed

ODD = ["", "x", "word " * 90, "İstanbul'da ΣΊΣΥΦΟΣ ﬁ ß\x00\u2028next\x85line", "制裁没有出路。 制裁没有出路。"]
Fitted = tuple[NgramFeatures, sparse.csr_matrix, int]


@pytest.fixture(scope="module")
def texts(seeds: list[Example]) -> list[str]:
    return [*ODD, *(example.text for example in seeds[:400])]


def fitted(folder: Path | None, texts: list[str]) -> Fitted:
    ngrams = Ngrams(folder)
    features, matrix = ngrams.fit(texts, min_df=2)
    ngrams.close()
    return features, matrix, ngrams.made


def same(one: Fitted, other: Fitted) -> bool:
    columns = [(list(features.words), list(features.chars), features.idf.tobytes()) for features, *_ in (one, other)]
    values = [(m.indptr.tolist(), m.indices.tolist(), m.data.tobytes()) for _, m, _ in (one, other)]
    return columns[0] == columns[1] and values[0] == values[1]


def test_the_matrix_has_the_rows_that_are_served(texts: list[str]) -> None:
    features, matrix, _ = fitted(None, texts)
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
    assert fitted(tmp_path, before)[2] == len(before)
    again = fitted(tmp_path, texts)
    assert again[2] == 100
    assert same(again, fitted(None, texts))
    assert not same(again, fitted(None, before))
    assert fitted(tmp_path, texts)[2] == 0


def test_two_that_count_at_once_do_not_mix_their_numbers(
    tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_apart, others = _Blocks.taken_apart, []

    def interrupted(blocks: _Blocks, lowered: str) -> _Packed:
        if not others:
            others.append(None)
            others.append(fitted(tmp_path, texts[100:200])[2])
        return taken_apart(blocks, lowered)

    monkeypatch.setattr(_Blocks, "taken_apart", interrupted)
    assert same(fitted(tmp_path, texts[:200]), fitted(None, texts[:200]))
    assert others == [None, 100]
    # What the first counted was not kept: its numbers were those of other n-grams.
    again = fitted(tmp_path, texts[:200])
    assert again[2] == 100
    assert same(again, fitted(None, texts[:200]))


def test_a_text_that_comes_twice_is_counted_once(tmp_path: Path, texts: list[str]) -> None:
    assert fitted(tmp_path, [*texts, *texts])[2] == len(texts)


def test_a_damaged_file_is_begun_anew_and_one_that_cannot_be_read_is_told_of(tmp_path: Path, texts: list[str]) -> None:
    fitted(tmp_path, texts)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"not a database" * 1000)
    assert fitted(tmp_path, texts)[2] == len(texts)
    file.unlink()
    file.mkdir()
    with pytest.raises(sqlite3.OperationalError):
        Ngrams(tmp_path)
    assert file.is_dir()
