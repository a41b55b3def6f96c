"""A linear bundle as plain scikit-learn pipelines, for notebooks."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline

from models.bundle import Bundle
from models.errors import BundleError
from models.examples import STANCES
from models.features import CHAR_NGRAMS, WORD_NGRAMS
from models.files import replacing
from models.linear import LinearModel


def pipelines(bundle: Bundle) -> dict[str, dict[str, Pipeline]]:
    """Return ``{"topics": {id: pipeline}, "stances": {id: pipeline}}``; each pipeline takes texts.

    A topic's ``predict_proba`` has the columns absent and present, a stance's those of ``classes_``.
    """
    model = bundle.scorer.model
    if model.features.encoder is not None:
        raise BundleError(
            f"{bundle.path}: has an encoder, which scikit-learn does not; a linear bundle can be exported"
        )
    features = _vectorizers(model)
    topics = {
        name: Pipeline(
            [
                ("features", features),
                ("head", _head([False, True], model.topic_weights[:, [index]].T, model.topic_bias[[index]])),
            ]
        )
        for index, name in enumerate(bundle.taxonomy.ids)
    }
    stances = {}
    if model.stance_weights is not None and model.stance_bias is not None:
        for index, name in enumerate(bundle.taxonomy.ids):
            if bundle.scorer.takes_stance(name):
                weights = model.stance_weights[0].astype(np.float64) + model.stance_weights[1 + index]
                head = _head(list(STANCES), weights.T, model.stance_bias[index])
                stances[name] = Pipeline([("features", features), ("head", head)])
    return {"topics": topics, "stances": stances}


def write_joblib(bundle: Bundle, path: Path) -> None:
    """Write :func:`pipelines` with joblib, compressed."""
    made = pipelines(bundle)
    with replacing(path) as file:
        joblib.dump(made, file, compress=3)


def _vectorizers(model: LinearModel) -> FeatureUnion:
    ngrams = model.features.ngrams
    n_words = len(ngrams.words)
    idf = ngrams.idf.astype(np.float64)
    blocks = []
    if n_words:
        words = TfidfVectorizer(ngram_range=WORD_NGRAMS, sublinear_tf=True, vocabulary=list(ngrams.words))
        words.idf_ = idf[:n_words]
        blocks.append(("words", words))
    if n_words < len(idf):
        chars = TfidfVectorizer(
            analyzer="char_wb", ngram_range=CHAR_NGRAMS, sublinear_tf=True, vocabulary=list(ngrams.chars)
        )
        chars.idf_ = idf[n_words:]
        blocks.append(("chars", chars))
    return FeatureUnion(blocks)


def _head(classes: list[bool] | list[str], weights: np.ndarray, bias: np.ndarray) -> LogisticRegression:
    """Return a logistic regression that has these weights; scikit-learn wants the classes in sorted order."""
    order = np.argsort(np.array(classes)) if len(weights) > 1 else np.array([0])
    head = LogisticRegression()
    head.classes_ = np.sort(np.array(classes))
    head.coef_ = np.ascontiguousarray(weights[order], dtype=np.float64)
    head.intercept_ = np.asarray(bias[order], dtype=np.float64)
    head.n_features_in_ = weights.shape[1]
    head.n_iter_ = np.array([0])
    return head
