"""fastText, with the settings of its own tutorial: one model for topics, one against all, and one for stance, which
reads the topic as a word before the text. Install: ``pip install fasttext-wheel numpy``."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import fasttext
import numpy as np

from benchmarks.peers.job import STANCES, pairs_of, run


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


class Fast:
    """Two fastText models."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._n = len(job["topics"])
        topics = [
            " ".join(f"__label__{job['topics'].index(topic)}" for topic in row["topics"]) + f" {_words(row['text'])}"
            for row in job["fitted"]
            if row["topics"]
        ]
        # A line without a label is not read; what is off topic has one of its own.
        topics += [f"__label__{self._n} {_words(row['text'])}" for row in job["fitted"] if not row["topics"]]
        stances = [
            f"__label__{stance} topic{topic} {_words(text)}" for text, topic, stance in zip(*pairs_of(job), strict=True)
        ]
        self._topics = self._fitted(topics, "ova", job["seed"])
        self._stances = self._fitted(stances, "softmax", job["seed"]) if stances else None

    @staticmethod
    def _fitted(lines: list[str], loss: str, seed: int) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lines.txt"
            path.write_text("\n".join(lines) + "\n")
            settings = {"lr": 0.5, "epoch": 25, "wordNgrams": 2, "bucket": 200_000, "dim": 50}
            return fasttext.train_supervised(str(path), loss=loss, thread=1, seed=seed, verbose=0, **settings)

    @staticmethod
    def _scores(model: Any, texts: list[str], n: int) -> np.ndarray:
        found = np.zeros((len(texts), n))
        if model is None:
            return found
        for row, text in enumerate(texts):
            # Not by model.predict, which wants a NumPy of long ago.
            for score, label in model.f.predict(text + "\n", -1, 0.0, "strict"):
                found[row, int(label.removeprefix("__label__"))] = score
        return found

    def topics(self, texts: list[str]) -> np.ndarray:
        return self._scores(self._topics, [_words(text) for text in texts], self._n + 1)[:, : self._n]

    def stances(self, texts: list[str], topic: int) -> np.ndarray:
        return self._scores(self._stances, [f"topic{topic} {_words(text)}" for text in texts], len(STANCES))

    def megabytes(self) -> float:
        return sum(model.get_input_matrix().nbytes for model in (self._topics, self._stances) if model) / 1e6


if __name__ == "__main__":
    run(Fast)
