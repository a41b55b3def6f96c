"""What it costs as topics, words, labels and workers grow."""

from __future__ import annotations

import random
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.speed.table import on_core, paragraphs, per_second, plot, show
from models.bundle import Bundle
from models.linear import LinearModel
from training import linear
from training.ngrams import fit_ngrams

TOPICS = (11, 100, 1000)
WORDS = (50, 500, 5000)
LABELS = (1_500, 15_000, 150_000)


def run(bundle: Bundle, most_labels: int, rounds: int, plots: Path) -> None:
    """Measure, print and draw."""
    with on_core(0):
        _topics(bundle, rounds, plots)
        _words(bundle, rounds, plots)
    _labels([count for count in LABELS if count <= most_labels], plots)


def _topics(bundle: Bundle, rounds: int, plots: Path) -> None:
    texts, features = paragraphs(512, 80), bundle.scorer.model.features
    rates: dict[str, list[float]] = {}
    for count in TOPICS:
        weights = np.random.default_rng(0).normal(size=(features.size, count)).astype(np.float32)
        model = LinearModel(features, weights, np.zeros(count))
        rates[f"{count:,} topics"] = [per_second(model.topic_logits, texts, 64) for _ in range(rounds)]
    _show("As topics grow, paragraphs of 80 words", "paragraphs/s", rates, plots / "topics.png")


def _words(bundle: Bundle, rounds: int, plots: Path) -> None:
    rates = {}
    for count in WORDS:
        texts = paragraphs(max(16, 25_600 // count), count)
        rates[f"{count:,} words"] = [
            count * per_second(lambda batch: bundle.scorer.classify(batch[0]), texts, 1) for _ in range(rounds)
        ]
    _show("As paragraphs grow, with stance and evidence", "words/s", rates, plots / "words.png")


def _show(title: str, unit: str, rates: dict[str, list[float]], path: Path) -> None:
    found = {name: {unit: values} for name, values in rates.items()}
    show(title, unit, [unit], found)
    plot(path, unit, [unit], found)


def _labels(counts: list[int], plots: Path) -> None:
    """Fit generated paragraphs of about 50 words, whose words come as often as those of the seeds do."""
    columns = ["features, s", "with 1 % new, s", "fit, s", "columns", "peak memory, MB"]
    print(f"\n{'As labels grow':<34}" + "".join(f"{column:>18}" for column in columns))
    rates = {}
    for count in counts:
        # A process of its own, started afresh: its peak of memory is that of this size alone.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(_fit, count).result()
        name = f"{count:,} paragraphs"
        print(f"{name:<34}" + "".join(f"{value:>18,.5g}" for value in found))
        rates[name] = {column: [value] for column, value in zip(columns, found, strict=True)}
    plot(plots / "labels.png", "", columns, rates)


def _fit(count: int) -> list[float]:
    words = [word for text in paragraphs(400, 500) for word in text.split()]
    drawn = random.Random(0)
    texts = [" ".join(drawn.choices(words, k=50)) for _ in range(count)]
    labels = np.array([[f" {topic}" in text for topic in ("the", "russia", "visa")] for text in texts])
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        fit_ngrams(texts[: -count // 100], min_df=2, cache=Path(folder))
        counted = time.perf_counter()
        features, matrix, _ = fit_ngrams(texts, min_df=2, cache=Path(folder))
        again = time.perf_counter()
    none = linear.Pairs(*np.empty((3, 0), dtype=np.int64))
    linear.fit_heads(matrix, matrix, labels, none, topic_c=1.0, stance_c=1.0, jobs=1, step=lambda: None)
    spent = [counted - start, again - counted, time.perf_counter() - again]
    # What resource tells has the peak of the process that started this one in it.
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return [*spent, float(features.size), 1024 * int(peak) / 1e6]
