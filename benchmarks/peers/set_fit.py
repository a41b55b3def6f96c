"""SetFit on the same checkpoint: one model for topics, one against the rest, and one for stance, which reads the topic
before the text. Install: torch in the build for this machine, then ``pip install setfit 'transformers<5'``."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

from benchmarks.peers.job import STANCES, pairs_of, run

# Contrastive pairs for each sentence; every pair of many sentences would take days.
_PAIRS = 10


class Contrastive:
    """Two SetFit models."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._names = job["topics"]
        self._checkpoint, self._seed = job["checkpoint"], job["seed"]
        texts = [row["text"] for row in job["fitted"]]
        labels = [[int(topic in row["topics"]) for topic in self._names] for row in job["fitted"]]
        self._topics = self._fitted(texts, labels, "one-vs-rest")
        texts, topics, stances = pairs_of(job)
        named = [self._named(*each) for each in zip(texts, topics, strict=True)]
        self._stances = self._fitted(named, stances, None) if stances else None

    def _named(self, text: str, topic: int) -> str:
        return f"{self._names[topic]}: {text}"

    def _fitted(self, texts: list[str], labels: list[Any], strategy: str | None) -> Any:
        model = SetFitModel.from_pretrained(self._checkpoint, multi_target_strategy=strategy, local_files_only=True)
        arguments = TrainingArguments(
            batch_size=16, num_epochs=1, num_iterations=_PAIRS, seed=self._seed, report_to="none", save_strategy="no"
        )
        trainer = Trainer(model, arguments, train_dataset=Dataset.from_dict({"text": texts, "label": labels}))
        trainer.train()
        return model

    def topics(self, texts: list[str]) -> np.ndarray:
        return np.asarray(self._topics.predict_proba(texts, as_numpy=True)).reshape(len(texts), len(self._names))

    def stances(self, texts: list[str], topic: int) -> np.ndarray:
        found = np.zeros((len(texts), len(STANCES)))
        if texts and self._stances is not None:
            scores = self._stances.predict_proba([self._named(text, topic) for text in texts], as_numpy=True)
            found[:, self._stances.model_head.classes_] = scores
        return found

    def megabytes(self) -> float:
        weights = sum(each.numel() * each.element_size() for each in self._topics.model_body.parameters())
        return 2 * weights / 1e6


if __name__ == "__main__":
    run(Contrastive)
