"""In one process on one core: ours, scikit-learn's pipeline over the same features and weights, fastText, no work."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from scipy import sparse
from tqdm import tqdm

from benchmarks.accuracy import SEEDS
from benchmarks.speed.table import on_core, paragraphs, per_second, plot, show
from models.bundle import Bundle
from models.features import IS_COMPILED, NgramFeatures
from models.linear import LinearModel, sigmoid
from training.export import pipelines

ONE, MANY = "one at a time", "batches of 1,024"
_SIZES = {ONE: 1, MANY: 1024}
Label = Callable[[list[str]], object]


def run(bundle: Bundle, fasttext: str | None, rounds: int, plots: Path) -> None:
    """Measure, print and draw."""
    texts = paragraphs(2048, 80)
    ways = _ways(bundle)
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    peer = _FastText(fasttext, texts) if fasttext else None
    with on_core(0):
        for _ in tqdm(range(rounds), desc="in process", disable=None):
            for name, label in ways.items():
                for column, size in _SIZES.items():
                    label(texts[:size])
                    rates[name][column].append(per_second(label, texts, size))
            for name, column, rate in peer.round() if peer else ():
                rates[name][column].append(rate)
    if peer:
        peer.close()
    ordered = {name: rates[name] for name in [*ways, *(name for name in rates if name not in ways)]}
    ordered["scikit-learn, an estimator a topic"] = ordered.pop("scikit-learn, an estimator a topic")
    show("In process, one core, paragraphs of 80 words", "paragraphs/s", list(_SIZES), ordered)
    plot(plots / "in_process.png", "paragraphs/s", list(_SIZES), ordered)


def _ways(bundle: Bundle) -> dict[str, Label]:
    scorer, model = bundle.scorer, bundle.scorer.model
    made = pipelines(bundle)["topics"]
    vectorizer, heads = next(iter(made.values()))[:-1], [pipeline[-1] for pipeline in made.values()]
    weights, bias = model.topic_weights.astype(np.float64), model.topic_bias
    ngrams = model.features.ngrams
    plain = NgramFeatures(ngrams.words, ngrams.chars, ngrams.idf, compiled=False)
    without = LinearModel(plain, model.topic_weights, model.topic_bias)

    def product(texts: list[str]) -> object:
        return sigmoid(np.asarray(sparse.csr_matrix(vectorizer.transform(texts)) @ weights + bias))

    def in_turn(texts: list[str]) -> object:
        matrix = vectorizer.transform(texts)
        return [head.predict_proba(matrix) for head in heads]

    def full(texts: list[str]) -> object:
        return scorer.classify_all(texts, ids=[""] * len(texts))

    kind = "compiled" if IS_COMPILED else "not compiled"
    return {
        "no work": lambda texts: [len(text) for text in texts],
        f"Stancery, topics ({kind})": scorer.topic_scores,
        f"Stancery, stance, evidence ({kind})": full,
        "Stancery, topics (NumPy)": without.topic_logits,
        "scikit-learn, one product": product,
        "scikit-learn, an estimator a topic": in_turn,
    }


_PEER = """
import json, re, sys, time, tempfile
import fasttext
job = json.loads(sys.stdin.readline())
clean = lambda text: " ".join(re.findall(r"\\b\\w\\w+\\b", text.lower())) + "\\n"
with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    for labels, text in job["rows"]:
        file.write(" ".join("__label__" + label for label in labels or ["none"]) + " " + clean(text))
    file.flush()
    model = fasttext.train_supervised(file.name, wordNgrams=2, dim=100, loss="ova", thread=1, verbose=0)
ready = [clean(text) for text in job["texts"]]
one = lambda texts: [model.f.predict(text, -1, 0.0, "strict") for text in texts]
many = lambda texts: model.f.multilinePredict(texts, -1, 0.0, "strict")
def rate(label, texts):
    done, start = 0, time.perf_counter()
    while time.perf_counter() < start + 1:
        label(texts)
        done += len(texts)
    return done / (time.perf_counter() - start)
print("ready", flush=True)
for _ in sys.stdin:
    found = [rate(one, ready), rate(many, ready)]
    found += [rate(lambda texts: one([clean(text) for text in texts]), job["texts"])]
    found += [rate(lambda texts: many([clean(text) for text in texts]), job["texts"])]
    print(json.dumps(found), flush=True)
"""


class _FastText:
    """fastText in an environment of its own, trained on the seeds; its words are cut as ours are."""

    def __init__(self, python: str, texts: list[str]) -> None:
        rows = [(list(row["topics"]), row["text"]) for row in map(json.loads, SEEDS.read_text().splitlines())]
        self._process = subprocess.Popen(
            [python, "-c", _PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._ask({"rows": rows, "texts": texts})

    def _ask(self, asked: Any) -> str:
        given, answer = self._process.stdin, self._process.stdout
        assert isinstance(given, IO) or given is not None
        assert answer is not None
        given.write(json.dumps(asked) + "\n")
        given.flush()
        return answer.readline()

    def round(self) -> list[tuple[str, str, float]]:
        found = json.loads(self._ask("round"))
        names = ("fastText, words cut before", "fastText, words cut too")
        return [(names[at // 2], (ONE, MANY)[at % 2], rate) for at, rate in enumerate(found)]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
