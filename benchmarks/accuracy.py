"""Accuracy on the held-out seeds and, where there are any, on folders of real text with ``test.jsonl``.

Run ``python -m benchmarks.accuracy [DIR ...]``. A DIR holds ``test.jsonl`` and either its own ``taxonomy.toml`` and
``train.jsonl``, which are then fitted with default settings, or rows labelled with the seeds' taxonomy, on which the
seeds' bundle is measured. Beside it stands the peer: scikit-learn's TF-IDF and logistic regression, untuned, no
calibration, one stance head with features shared across topics plus a copy per topic. Nothing is chosen on a test part.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from models.bundle import load_bundle
from models.examples import Example, read_examples
from models.figures import text_figure
from models.taxonomy import Taxonomy, read_taxonomy
from training.evaluation import Scores, evaluate, measure
from training.linear import augment, stance_pairs, topic_labels
from training.run import train

ROOT = Path(__file__).resolve().parent.parent
SEEDS, TAXONOMY = ROOT / "seeds" / "paragraphs.jsonl", ROOT / "seeds" / "taxonomy.toml"
SHARED = ROOT.parent / "shared" / "benchmarks"


def peer(fitted: list[Example], kept: list[Example], taxonomy: Taxonomy) -> dict[str, Any]:
    """Fit plain scikit-learn on `fitted` and measure it on `kept`."""
    parts = [TfidfVectorizer(ngram_range=(1, 2)), TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5))]
    texts, other = [example.text for example in fitted], [example.text for example in kept]
    inside = sparse.hstack([part.fit_transform(texts) for part in parts]).tocsr()
    outside = sparse.hstack([part.transform(other) for part in parts]).tocsr()
    inside.sort_indices()
    labels, gold = topic_labels(fitted, taxonomy.ids), topic_labels(kept, taxonomy.ids)
    topics = np.zeros(gold.shape)
    for index in range(gold.shape[1]):
        head = LogisticRegression(class_weight="balanced", solver="liblinear").fit(inside, labels[:, index])
        topics[:, index] = head.predict_proba(outside)[:, 1]
    predicted = topics >= 0.5
    pairs, asked = stance_pairs(fitted, taxonomy.ids), stance_pairs(kept, taxonomy.ids)
    head = LogisticRegression(class_weight="balanced", max_iter=300)
    head.fit(augment(inside[pairs.row], pairs.topic, len(taxonomy.ids)), pairs.stance)

    def stances(row: np.ndarray, topic: np.ndarray) -> np.ndarray:
        return head.predict_proba(augment(outside[row], topic, len(taxonomy.ids))) if len(row) else np.empty((0, 3))

    false_row, false_topic = np.nonzero(predicted & ~gold)
    scores = Scores(
        topics,
        gold,
        predicted,
        *asked,
        stances(asked.row, asked.topic),
        false_row,
        stances(false_row, false_topic).argmax(axis=1),
    )
    return measure(scores, taxonomy.ids, [example.group for example in kept])


def row(name: str, report: dict[str, Any], seconds: float | None) -> None:
    topics, stance = report["topics"], report["stance"]
    figures = (
        topics["micro"]["f1"],
        topics["macro"]["f1"],
        stance["given_topic"]["macro_f1"],
        stance["end_to_end"]["macro_f1"],
        topics["ece"],
    )
    cells = "  ".join(f"{text_figure(figure):<22}" for figure in figures)
    print(f"{name:<26}{cells}{'' if seconds is None else f'{seconds:.0f} s to fit'}", flush=True)


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:]] or sorted(SHARED.glob("*/"))
    print(f"{'':<26}{'topic micro-F1':<24}{'topic macro-F1':<24}{'stance given topic':<24}{'end to end':<24}topic ECE")
    with tempfile.TemporaryDirectory() as name:
        path = train(SEEDS, TAXONOMY, Path(name) / "seeds")
        seeds = load_bundle(path)
        row("held-out seeds", seeds.manifest.metrics, None)
        for folder in folders:
            if (folder / "train.jsonl").exists():
                taxonomy = read_taxonomy(folder / "taxonomy.toml")
                start = time.perf_counter()
                path = train(folder / "train.jsonl", folder / "taxonomy.toml", Path(name) / folder.name)
                seconds = time.perf_counter() - start
                bundle, fitted = load_bundle(path), read_examples(folder / "train.jsonl", taxonomy)
            else:
                taxonomy, bundle, seconds = seeds.taxonomy, seeds, None
                fitted = read_examples(SEEDS, taxonomy)
            kept = read_examples(folder / "test.jsonl", taxonomy)
            row(folder.name, evaluate(bundle.scorer, kept), seconds)
            row("  plain scikit-learn", peer(fitted, kept, taxonomy), None)


if __name__ == "__main__":
    main()
