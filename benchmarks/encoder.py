"""The encoder as it is served beside the same checkpoint in torch: speed, likeness, and what the evidence is worth.

Run ``python -m benchmarks.encoder CHECKPOINT [BUNDLE]``. Prints paragraphs a second of both, one at a time and, for
torch, in batches of 64 too, with two threads, as the median of interleaved rounds; how like the embeddings are; the F1
on held-out documents of the seeds of heads fitted on either's embeddings, and the difference; and, for an encoder
BUNDLE, how far the score of a topic falls when the heaviest piece of evidence is cut out of the paragraph, beside a
random piece of the same length.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from benchmarks.accuracy import SEEDS, TAXONOMY
from benchmarks.drills.material import seed_texts
from models.bundle import load_bundle, read_holdout
from models.encoder import Encoder
from models.examples import read_examples
from models.taxonomy import read_taxonomy
from training import fitting, splits
from training.checkpoint import load_encoder
from training.embeddings import Embeddings
from training.evaluation import Resample, figure, measure, prf, score_examples

THREADS, TEXTS, ROUNDS, BATCH = 2, 128, 5, 64
CUT, FOLDS = 300, 5


def speed(checkpoint: str) -> None:
    torch.set_num_threads(THREADS)
    encoder, peer = load_encoder(checkpoint, threads=THREADS), SentenceTransformer(checkpoint, device="cpu")
    texts = seed_texts(TEXTS)

    def ours() -> np.ndarray:
        encoder.parts.cache_clear()  # type: ignore[attr-defined]  # a cached function
        return np.array([encoder.embed(text) for text in texts])

    def theirs(batch: int) -> np.ndarray:
        found = [peer.encode(texts[i : i + batch], batch_size=batch) for i in range(0, len(texts), batch)]
        return np.concatenate(found)

    runs: dict[str, Callable[[], np.ndarray]] = {
        "int8 ONNX, one at a time": ours,
        "torch fp32, one at a time": lambda: theirs(1),
        f"torch fp32, {BATCH} at a time": lambda: theirs(BATCH),
    }
    found = {name: run() for name, run in runs.items()}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            rates[name].append(len(texts) / (time.perf_counter() - start))
    served, *others = runs
    for name, each in rates.items():
        print(f"{name:28}{statistics.median(each):8.0f} paragraphs/s  ({min(each):.0f} to {max(each):.0f})")
    for name in others:
        ratios = [one / other for one, other in zip(rates[served], rates[name], strict=True)]
        print(f"{served} : {name}  {statistics.median(ratios):.2f} x  ({min(ratios):.2f} to {max(ratios):.2f})")
        likeness = (found[served] * found[name]).sum(axis=1)
        print(f"  cosine of the embeddings: mean {likeness.mean():.4f}, least {likeness.min():.4f}")


class Whole:
    """The embeddings of torch in single precision, in the place of those that are served."""

    def __init__(self, checkpoint: str, encoder: Encoder) -> None:
        self.encoder = encoder
        self._peer = SentenceTransformer(checkpoint, device="cpu")
        self._known: dict[str, NDArray[np.float64]] = {}

    def __call__(self, text: str) -> NDArray[np.float64]:
        if text not in self._known:
            self._known[text] = self._peer.encode(text).astype(np.float64)
        return self._known[text]


def told(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['value']:.4f} [{low:.4f}, {high:.4f}]"


def precision(checkpoint: str) -> None:
    """Fit heads on the seeds' embeddings in either precision, and measure both on the same held-out documents."""
    taxonomy = read_taxonomy(TAXONOMY)
    examples = read_examples(SEEDS, taxonomy)
    split = splits.split([example.text for example in examples], [example.group for example in examples], 0.1)
    fitted, kept = list(compress(examples, split.fitted)), list(compress(examples, split.held))
    encoder = load_encoder(checkpoint, threads=THREADS)
    resample = Resample([example.group for example in kept], seed=0)
    micro = {}
    for name, embeddings in (("int8", Embeddings(encoder, None)), ("fp32", Whole(checkpoint, encoder))):
        material = fitting.prepare(fitted, taxonomy, embeddings)
        steps = fitting.steps(len(taxonomy.topics), FOLDS, has_encoder=True, has_curve=False)
        with tqdm(total=steps, desc=f"heads, {name}", disable=None) as bar:
            near = split.near.among(split.fitted)
            choices = fitting.choose(material, near, folds=FOLDS, seed=0, jobs=THREADS, step=bar.update)
            scores = score_examples(fitting.fit(material, choices, jobs=THREADS, step=bar.update), kept)
        found = measure(scores, taxonomy.ids, [example.group for example in kept])
        print(f"{name}: topic micro-F1 {told(found['topics']['micro']['f1'])}", end=", ")
        print(f"macro-F1 {told(found['topics']['macro']['f1'])}", end=", ")
        print(f"stance macro-F1, given the topic {told(found['stance']['given_topic']['macro_f1'])}")
        counts = [scores.predicted & scores.labels, scores.predicted, scores.labels]
        micro[name] = prf(*(resample.sums(each.sum(axis=1).astype(float)) for each in counts))["f1"]
    print(f"topic micro-F1, int8 less fp32 {told(figure(micro['int8'] - micro['fp32']))}")


def deletion(path: Path) -> None:
    """Cut out evidence, and random pieces as long, and see how far the log-odds of the topic fall."""
    scorer, draw = load_bundle(path).scorer, random.Random(0)
    falls: list[tuple[float, float]] = []
    for example in read_holdout(path):
        for topic in scorer.classify(example.text).topics:
            if topic.decision != "present" or not topic.evidence:
                continue
            text, span = example.text, topic.evidence[0]
            words = [at for at, char in enumerate(text) if not char.isspace() and (at == 0 or text[at - 1].isspace())]
            length = span.end - span.start
            begin = draw.choice([at for at in words if at + length <= len(text)])
            end = begin + length
            column = scorer.taxonomy.ids.index(topic.topic)
            cut = [text[: span.start] + text[span.end :], text[:begin] + text[end:]]
            scores = scorer.topic_scores([text, *(each if each.strip() else "-" for each in cut)])[:, column]
            odds = np.log(scores / (1 - scores))
            falls.append((odds[0] - odds[1], odds[0] - odds[2]))
        if len(falls) >= CUT:
            break
    evidence, chance = np.array(falls).T
    print(f"log-odds lost, {len(falls)} topics: evidence {evidence.mean():.2f}, random {chance.mean():.2f};", end=" ")
    print(f"evidence cost more in {(evidence > chance).mean():.0%}")


def main() -> None:
    speed(sys.argv[1])
    precision(sys.argv[1])
    for path in sys.argv[2:]:
        deletion(Path(path))


if __name__ == "__main__":
    main()
