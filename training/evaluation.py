"""How good a scorer is on examples it has not seen, with an interval beside every figure.

Intervals are percentile bootstrap intervals over whole groups of paragraphs (Efron and Tibshirani 1993, chapter 13):
paragraphs of one document are resampled together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.examples import STANCES, Example
from models.scorer import Scorer

FloatArray = NDArray[np.float64]
RESAMPLES = 1000
# Resamples that are drawn and summed together.
_AT_ONCE = 50
LEVEL = 0.95
ECE_BINS = 15
_FEW_GROUPS = 10


class Scores(NamedTuple):
    """What a scorer says of examples, beside their gold labels.

    Attributes
    ----------
    topics : ndarray of float64, shape (n, n_topics)
        Probabilities.
    labels, predicted : ndarray of bool, shape (n, n_topics)
    row, topic, stance : ndarray of int64, shape (n_pairs,)
        The pairs that carry a gold stance.
    stances : ndarray of float64, shape (n_pairs, 3)
        Stance probabilities of those pairs.
    false_row, false_stance : ndarray of int64, shape (n_false,)
        Row and likeliest stance of each predicted pair whose topic is not in the gold labels.
    """

    topics: FloatArray
    labels: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    row: NDArray[np.int64]
    topic: NDArray[np.int64]
    stance: NDArray[np.int64]
    stances: FloatArray
    false_row: NDArray[np.int64]
    false_stance: NDArray[np.int64]


def score_examples(scorer: Scorer, examples: Sequence[Example]) -> Scores:
    """Score examples by the scorer as it serves: its probabilities, its thresholds."""
    ids = scorer.taxonomy.ids
    texts = [example.text for example in examples]
    topics = scorer.topic_scores(texts)
    labels = np.array([[name in example.topics for name in ids] for example in examples], dtype=bool)
    predicted = topics >= np.array([scorer.rules.topics[name].threshold for name in ids])
    pairs = [
        (row, ids.index(name), STANCES.index(stance))
        for row, example in enumerate(examples)
        for name, stance in example.topics.items()
        if stance is not None and scorer.takes_stance(name)
    ]
    row, topic, stance = np.array(pairs, dtype=np.int64).reshape(-1, 3).T
    false = [(r, t) for r, t in np.argwhere(predicted & ~labels).tolist() if scorer.takes_stance(ids[t])]
    false_stances = scorer.stance_scores((texts[r], ids[t]) for r, t in false).argmax(axis=1)
    return Scores(
        topics,
        labels,
        predicted,
        row,
        topic,
        stance,
        scorer.stance_scores((texts[r], ids[t]) for r, t in zip(row, topic, strict=True)),
        np.array([r for r, _ in false], dtype=np.int64),
        false_stances,
    )


def evaluate(scorer: Scorer, examples: Sequence[Example], *, seed: int = 0) -> dict[str, Any]:
    """Measure a scorer on examples.

    Returns
    -------
    dict
        ``topics``: micro, macro and per-topic precision, recall and F1, Brier score and ECE. ``stance``: given the
        gold topics and end to end, macro-F1, accuracy, per-stance figures and confusion (rows gold, columns
        predicted), multi-class Brier score and top-label ECE. Every figure is ``{"value", "interval": [low, high]}``.
    """
    return measure(score_examples(scorer, examples), scorer.taxonomy.ids, [e.group for e in examples], seed=seed)


def measure(scores: Scores, ids: Sequence[str], group_names: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Turn scores into the metrics of :func:`evaluate`."""
    resample = Resample(group_names, seed)
    report: dict[str, Any] = {
        "paragraphs": len(scores.labels),
        "documents": len(set(group_names)),
        "off_topic": int((~scores.labels.any(axis=1)).sum()),
        "interval": {"level": LEVEL, "method": f"percentile bootstrap, {RESAMPLES} resamples", "unit": resample.unit},
        "topics": _topic_metrics(scores, ids, resample),
    }
    if len(scores.row):
        report["stance"] = _stance_metrics(scores, resample)
    return report


class Resample:
    """Sums of per-paragraph counts over resampled groups."""

    def __init__(self, group_names: Sequence[str], seed: int) -> None:
        names = {name: place for place, name in enumerate(sorted(set(group_names)))}
        self._group = np.array([names[name] for name in group_names], dtype=np.int64)
        self.unit = "document"
        if len(names) < _FEW_GROUPS:
            # So few documents cannot be resampled; the interval then leaves out what varies between them.
            self.unit, self._group = "paragraph", np.arange(len(group_names))
        self.n_groups = int(self._group.max(initial=-1)) + 1
        generator, even = np.random.default_rng(seed), np.full(self.n_groups, 1 / self.n_groups)
        # How often each group is drawn; of a hundred thousand groups eight bytes each would be most of a gigabyte.
        self._drawn = np.empty((RESAMPLES, self.n_groups), np.uint16)
        for start in range(0, RESAMPLES, _AT_ONCE):
            self._drawn[start : start + _AT_ONCE] = generator.multinomial(self.n_groups, even, _AT_ONCE)

    def sums(self, counts: FloatArray, row: NDArray[np.int64] | None = None) -> FloatArray:
        """Sum `counts`, shape (n, ...), of the given paragraphs: first over all, then over each resample."""
        group = self._group if row is None else self._group[row]
        totals = np.zeros((self.n_groups, *counts.shape[1:]))
        np.add.at(totals, group, counts)
        blocks = (self._drawn[start : start + _AT_ONCE] for start in range(0, RESAMPLES, _AT_ONCE))
        drawn = [np.tensordot(block.astype(float), totals, axes=1) for block in blocks]
        return np.concatenate([totals.sum(axis=0, keepdims=True), *drawn])


def figure(values: FloatArray) -> dict[str, Any]:
    """Return a metric as its value and interval from its value on the whole set and on each resample."""
    tails = 50 * (1 - LEVEL), 100 - 50 * (1 - LEVEL)
    low, high = np.nanpercentile(values[1:], tails) if not np.isnan(values[1:]).all() else (np.nan, np.nan)
    return {"value": number(values[0]), "interval": [number(low), number(high)]}


def wilson(share: FloatArray | float, count: NDArray[np.int64] | int, z: float = 1.96) -> tuple[FloatArray, FloatArray]:
    """Return the score interval of a share (Wilson 1927), which keeps its width at 0 and 1."""
    centre = share + z**2 / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = (centre - half) / (1 + z**2 / count), (centre + half) / (1 + z**2 / count)
    return np.minimum(low, share), np.maximum(high, share)


def number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def ratio(part: FloatArray, whole: FloatArray, empty: float = np.nan) -> FloatArray:
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(whole), empty), where=whole > 0))


def prf(hits: FloatArray, predicted: FloatArray, gold: FloatArray) -> dict[str, FloatArray]:
    """Precision, recall and F1: 0 where nothing was hit, undefined where nothing is gold and nothing predicted."""
    there = (predicted + gold) > 0

    def part(whole: FloatArray) -> FloatArray:
        return np.where(there, ratio(hits, whole, empty=0.0), np.nan)

    return {"precision": part(predicted), "recall": part(gold), "f1": ratio(2 * hits, predicted + gold)}


def mean(values: FloatArray) -> FloatArray:
    """Mean over the last axis of what is defined."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(float))


def _figures(parts: dict[str, FloatArray], pick: Callable[[FloatArray], FloatArray]) -> dict[str, Any]:
    return {name: figure(pick(values)) for name, values in parts.items()}


def _topic_metrics(scores: Scores, ids: Sequence[str], resample: Resample) -> dict[str, Any]:
    hits = resample.sums((scores.labels & scores.predicted).astype(float))
    predicted = resample.sums(scores.predicted.astype(float))
    gold = resample.sums(scores.labels.astype(float))
    each = prf(hits, predicted, gold)
    squared = resample.sums(((scores.topics - scores.labels) ** 2).mean(axis=1))
    paragraphs = resample.sums(np.ones(len(scores.labels)))
    # Macro averages run over the topics that have a gold or a predicted paragraph.
    there = (gold[0] + predicted[0]) > 0
    per_topic = {
        name: {
            "support": int(scores.labels[:, index].sum()),
            "predicted": int(scores.predicted[:, index].sum()),
            **_figures(each, lambda values, index=index: values[:, index]),  # type: ignore[misc]  # mypy infers no such lambda
        }
        for index, name in enumerate(ids)
    }
    return {
        "micro": _figures(prf(hits.sum(axis=1), predicted.sum(axis=1), gold.sum(axis=1)), lambda values: values),
        "macro": {"topics": int(there.sum()), **_figures(each, lambda values: mean(values[:, there]))},
        "per_topic": per_topic,
        "brier": figure(ratio(squared, paragraphs)),
        "ece": _ece(
            np.repeat(np.arange(len(scores.labels)), len(ids)), scores.topics.ravel(), scores.labels.ravel(), resample
        ),
    }


def _stance_metrics(scores: Scores, resample: Resample) -> dict[str, Any]:
    hot = np.eye(len(STANCES))
    gold, best = hot[scores.stance], scores.stances.argmax(axis=1)
    found = scores.predicted[scores.row, scores.topic]
    pairs = resample.sums(np.ones(len(scores.row)), scores.row)
    squared = resample.sums(((scores.stances - gold) ** 2).sum(axis=1), scores.row)
    return {
        "pairs": len(scores.row),
        "given_topic": _stance_figures(scores, resample, hot[best], np.empty(0, np.int64), hot[[]]),
        "end_to_end": _stance_figures(
            scores, resample, hot[best] * found[:, None], scores.false_row, hot[scores.false_stance]
        ),
        "brier": figure(ratio(squared, pairs)),
        "ece": _ece(scores.row, scores.stances.max(axis=1), best == scores.stance, resample),
    }


def _stance_figures(
    scores: Scores, resample: Resample, predicted: FloatArray, extra_row: NDArray[np.int64], extra: FloatArray
) -> dict[str, Any]:
    """Stance figures over the gold pairs and, end to end, the predicted pairs that are not gold.

    `predicted`, shape (n_pairs, 3), is one-hot, or zero where the topic was missed.
    """
    gold = np.eye(len(STANCES))[scores.stance]
    hits = resample.sums(gold * predicted, scores.row)
    claimed = resample.sums(predicted, scores.row) + resample.sums(extra, extra_row)
    there = resample.sums(gold, scores.row)
    each = prf(hits, claimed, there)
    return {
        "macro_f1": figure(mean(each["f1"])),
        "accuracy": figure(ratio(hits.sum(axis=1), there.sum(axis=1))),
        "per_stance": {
            name: {
                "support": int(there[0, index]),
                **_figures(each, lambda values, index=index: values[:, index]),  # type: ignore[misc]  # mypy infers no such lambda
            }
            for index, name in enumerate(STANCES)
        },
        "confusion": {"labels": list(STANCES), "counts": (gold.T @ predicted).astype(int).tolist()},
    }


def _ece(
    row: NDArray[np.int64], confidence: FloatArray, outcome: NDArray[np.bool_], resample: Resample
) -> dict[str, Any]:
    """Expected calibration error over equal-width bins (Guo et al. 2017, section 2).

    To resample adds noise to each bin, and so to the error: the interval lies too high, and is made to reach the value.
    """
    position = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    bins = np.eye(ECE_BINS)[position]
    gap = resample.sums(bins * (confidence - outcome)[:, None], row)
    total = resample.sums(np.ones(len(row)), row)
    values = ratio(np.abs(gap).sum(axis=1), total)
    found = figure(values)
    low, high = found["interval"]
    return found | {"interval": [low if low is None else min(low, found["value"]), high]}
