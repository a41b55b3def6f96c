"""Metrics, held against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from models.bundle import Bundle
from models.examples import STANCES, Example
from training.evaluation import evaluate, score_examples


def test_metrics_are_scikit_learns(bundle: Bundle, seeds: list[Example]) -> None:
    sample = seeds[::7]
    report, scores = evaluate(bundle.scorer, sample), score_examples(bundle.scorer, sample)
    for average in ("micro", "macro"):
        found = report["topics"][average]
        for name, metric in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            assert found[name]["value"] == pytest.approx(
                metric(scores.labels, scores.predicted, average=average), abs=1e-5
            )
    best = scores.stances.argmax(axis=1)
    given = report["stance"]["given_topic"]
    assert given["macro_f1"]["value"] == pytest.approx(f1_score(scores.stance, best, average="macro"), abs=1e-5)
    counts = np.array(given["confusion"]["counts"])
    assert counts.sum() == report["stance"]["pairs"] == len(scores.row)
    assert counts.sum(axis=1).tolist() == np.bincount(scores.stance, minlength=3).tolist()
    brier = ((scores.topics - scores.labels) ** 2).mean()
    assert report["topics"]["brier"]["value"] == pytest.approx(brier, abs=1e-5)


def test_end_to_end_counts_missed_and_invented_topics(bundle: Bundle, seeds: list[Example]) -> None:
    scores = score_examples(bundle.scorer, seeds[::7])
    expected = []
    for stance in range(3):
        best = scores.stances.argmax(axis=1)
        found = scores.predicted[scores.row, scores.topic]
        hits = (found & (best == stance) & (scores.stance == stance)).sum()
        claimed = (found & (best == stance)).sum() + (scores.false_stance == stance).sum()
        expected.append(2 * hits / (claimed + (scores.stance == stance).sum()))
    report = evaluate(bundle.scorer, seeds[::7])["stance"]["end_to_end"]
    assert report["macro_f1"]["value"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert list(report["per_stance"]) == list(STANCES)


def test_intervals_hold_the_value_and_narrow_with_more_paragraphs(bundle: Bundle, seeds: list[Example]) -> None:
    def width(sample: list[Example]) -> float:
        figure = evaluate(bundle.scorer, sample)["topics"]["micro"]["f1"]
        low, high = figure["interval"]
        assert low <= figure["value"] <= high
        return float(high - low)

    assert width(seeds[::3]) < width(seeds[::60])


def test_the_same_seed_gives_the_same_intervals(bundle: Bundle, seeds: list[Example]) -> None:
    assert evaluate(bundle.scorer, seeds[:200]) == evaluate(bundle.scorer, seeds[:200])


def test_nothing_gold_is_no_figure_and_no_error(bundle: Bundle) -> None:
    report = evaluate(
        bundle.scorer, [Example(id="a", text="Rain.", topics={}), Example(id="b", text="Sun.", topics={})]
    )
    assert report["topics"]["micro"]["f1"]["value"] is None
    assert "stance" not in report
