"""Examples in, a scorer out: features, out-of-fold choices, heads, and how fast more examples make it better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.errors import InvalidData
from models.examples import STANCES, Example
from models.features import Features
from models.linear import LinearModel
from models.scorer import Rules, Scorer
from models.taxonomy import Taxonomy
from training import calibration, linear, splits
from training.evaluation import measure, score_examples
from training.ngrams import fit_ngrams
from training.selection import (
    STANCE_GRID,
    TOPIC_GRID,
    WIDE_STANCE_GRID,
    WIDE_TOPIC_GRID,
    StanceChoice,
    TopicChoice,
    choose_stances,
    choose_topics,
)
from training.wordings import Wordings, description

if TYPE_CHECKING:
    from models.crossencoder import CrossEncoder
    from training.embeddings import Embeddings
    from training.tuning import TunedEncoder

FloatArray = NDArray[np.float64]
CURVE_PARTS = (0.125, 0.25, 0.5, 1.0)


class Material(NamedTuple):
    """Examples as the heads see them: matrix (n, n_features), labels (n, n_topics), and the pairs with a stance.

    With an encoder heads may be fitted on ``wide`` instead, which ``wordings`` made of the matrix.
    """

    taxonomy: Taxonomy
    examples: list[Example]
    features: Features
    matrix: sparse.csr_matrix
    labels: NDArray[np.bool_]
    pairs: linear.Pairs
    wide: sparse.csr_matrix | None
    wordings: Wordings | None

    @property
    def groups(self) -> list[str]:
        return [example.group for example in self.examples]


class Choices(NamedTuple):
    """What was chosen on out-of-fold scores, with those scores; no stance where no example carries one."""

    topic: TopicChoice
    stance: StanceChoice | None
    rules: Rules
    folds: int

    @property
    def topic_c(self) -> float:
        return self.topic.c

    @property
    def stance_c(self) -> float:
        return self.stance.c if self.stance else STANCE_GRID[0]

    @property
    def stance_scores(self) -> FloatArray:
        """Calibrated out-of-fold scores of the pairs with a stance, shape (n_pairs, 3)."""
        return self.stance.scores if self.stance else np.empty((0, len(STANCES)))


def prepare(
    examples: list[Example], taxonomy: Taxonomy, embeddings: Embeddings | None = None, cache: Path | None = None
) -> Material:
    """Count the n-grams of `examples`, except those whose counts lie in `cache`, and put their embeddings beside them.

    Raises
    ------
    InvalidData
        If no n-gram stands in two paragraphs.
    """
    texts = [example.text for example in examples]
    ngrams, matrix, _ = fit_ngrams(texts, min_df=linear.MIN_DF, cache=cache)
    if not ngrams.size:
        raise InvalidData(["no n-gram stands in two paragraphs; more examples are needed"])
    features: Features = ngrams
    wordings = None
    if embeddings is not None:
        from models.encoder import EncoderFeatures

        features = EncoderFeatures(ngrams, embeddings.encoder, embeddings)
        wordings = Wordings(np.array([embeddings(description(topic)) for topic in taxonomy.topics]))
        embedded = sparse.csr_matrix(np.array([embeddings(text) for text in texts]))
        matrix = sparse.csr_matrix(sparse.hstack([matrix, embedded], format="csr"))
    return Material(
        taxonomy,
        examples,
        features,
        matrix,
        linear.topic_labels(examples, taxonomy.ids),
        linear.stance_pairs(examples, taxonomy.ids),
        None if wordings is None else wordings.widen(matrix),
        wordings,
    )


def choose(
    material: Material, near: splits.Near, *, folds: int, seed: int, jobs: int, step: Callable[[], None]
) -> Choices:
    """Choose strengths, calibration, thresholds and bands, all by models that had not seen the paragraph."""
    taxonomy, labels, pairs, groups = material.taxonomy, material.labels, material.pairs, material.groups
    n_folds = min(folds, len(set(groups)))
    dealt = linear.Folds(splits.folds(groups, n_folds, seed), near)
    topic = choose_topics(material.matrix, material.wide, labels, dealt, jobs=jobs, step=step)
    stance = None
    if len(pairs.row):
        stance = choose_stances(material.matrix, material.wide, pairs, len(taxonomy.ids), dealt, jobs=jobs, step=step)
    stance_scores = stance.scores if stance else np.empty((0, len(STANCES)))
    rules = calibration.choose_rules(taxonomy.ids, topic.scores, labels, stance_scores, pairs.stance)
    return Choices(topic, stance, rules, n_folds)


def fit(
    material: Material,
    choices: Choices,
    *,
    jobs: int,
    step: Callable[[], None],
    rows: NDArray[np.int64] | None = None,
    pairs: CrossEncoder | None = None,
    tuned: TunedEncoder | None = None,
) -> Scorer:
    """Fit every head on the given rows, all where none are named, under the calibration and rules of the whole.

    Beside a pair model topics without labels are scored by their wording, and their stances too; a fine-tuned encoder
    is put beside the heads.
    """
    stances, n = material.pairs, len(material.examples)
    rows = np.arange(n) if rows is None else rows
    inside = np.isin(stances.row, rows)
    place = np.full(n, -1)
    place[rows] = np.arange(len(rows))
    chosen = linear.Pairs(place[stances.row[inside]], stances.topic[inside], stances.stance[inside])
    is_wide = choices.topic.is_wide, choices.stance is not None and choices.stance.is_wide
    topic_matrix, stance_matrix = (material.wide if wide else material.matrix for wide in is_wide)
    assert topic_matrix is not None and stance_matrix is not None
    parts = linear.fit_heads(
        topic_matrix[rows],
        stance_matrix[rows],
        material.labels[rows],
        chosen,
        topic_c=choices.topic_c,
        stance_c=choices.stance_c,
        jobs=jobs,
        step=step,
    )
    if material.wordings is not None:
        parts = _narrow(material.wordings, parts, *is_wide)
    if pairs is not None:
        _head_by_wordings(material, parts, np.flatnonzero(pairs.zero_shot).tolist())
    model = _calibrated(material.features, parts, choices.topic.platts, choices.stance)
    if tuned is not None:
        model = tuned.beside(model, material.taxonomy.ids)
    return Scorer(material.taxonomy, choices.rules, model, pairs)


def _narrow(wordings: Wordings, parts: linear.Heads, is_wide_topic: bool, is_wide_stance: bool) -> linear.Heads:
    """Turn weights of wide columns into those for the columns of the matrix."""
    topics, stances = parts.topic_weights, parts.stance_weights
    if is_wide_topic:
        topics = wordings.narrow(topics)
    if is_wide_stance and stances is not None:
        stances = np.stack([wordings.narrow(block) for block in stances])
    return parts._replace(topic_weights=topics, stance_weights=stances)


def _head_by_wordings(material: Material, parts: linear.Heads, topics: list[int]) -> None:
    """Give topics without labels, whose calibration changes nothing, heads that know their wording."""
    if material.wordings is None or not material.labels.any():
        return
    platt = material.wordings.zero_shot(material.matrix, material.labels)
    for topic in topics:
        parts.topic_weights[:, topic] = material.wordings.head(topic, platt, material.matrix.shape[1])
        parts.topic_bias[topic] = platt.offset


def steps(n_topics: int, n_folds: int, *, has_encoder: bool, has_curve: bool) -> int:
    """Count the fits of heads that a training tells."""
    topic_fits, stance_fits = len(TOPIC_GRID), len(STANCE_GRID)
    if has_encoder:
        topic_fits, stance_fits = topic_fits + len(WIDE_TOPIC_GRID), stance_fits + len(WIDE_STANCE_GRID)
    out_of_fold = n_folds * (n_topics * topic_fits + stance_fits)
    return out_of_fold + (n_topics + 1) * (len(CURVE_PARTS) if has_curve else 1)


def _calibrated(
    features: Features, parts: linear.Heads, platts: Sequence[calibration.Platt], stance: StanceChoice | None
) -> LinearModel:
    """Fold the calibration into the weights, so that serving needs no second step."""
    slopes, offsets = np.array(platts).T
    stance_weights, stance_bias = None, None
    if parts.stance_weights is not None and parts.stance_bias is not None and stance is not None:
        slope, offset = stance.tempering
        stance_weights = np.ascontiguousarray(parts.stance_weights * slope, dtype=np.float32)
        stance_bias = np.tile(parts.stance_bias * slope + offset, (len(slopes), 1))
    return LinearModel(
        features,
        np.ascontiguousarray(parts.topic_weights * slopes, dtype=np.float32),
        parts.topic_bias * slopes + offsets,
        stance_weights,
        stance_bias,
    )


def learning_curve(
    fit_rows: Callable[..., Scorer], material: Material, kept: Sequence[Example], full: dict[str, Any]
) -> list[dict[str, float]]:
    """Measure fits on growing parts of the groups, under the calibration and thresholds of the whole.

    Parameters
    ----------
    fit_rows : callable
        :func:`fit` of this material; takes ``rows``.
    material : Material
    kept : sequence of Example
        What to measure on.
    full : dict
        The metrics of the fit on all of the material.
    """
    order = splits.shuffled(material.groups)
    kept_groups = [example.group for example in kept]
    curve = []
    for part in CURVE_PARTS:
        count = round(part * len(order))
        if count < 2:
            continue
        metrics = full
        if part < 1:
            scores = score_examples(fit_rows(rows=np.sort(order[:count])), kept)
            metrics = measure(scores, material.taxonomy.ids, kept_groups)
        stance = metrics["stance"]["given_topic"]["macro_f1"]["value"] if "stance" in metrics else None
        topic = metrics["topics"]["macro"]["f1"]["value"]
        curve.append(
            {
                "paragraphs": count,
                "topic_macro_f1": np.nan if topic is None else topic,
                "stance_macro_f1": np.nan if stance is None else stance,
            }
        )
    return curve
