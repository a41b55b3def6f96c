"""The encoder as it is served beside the same checkpoint in torch: speed, likeness, and what the evidence is worth.

Run ``python -m benchmarks.encoder CHECKPOINT [BUNDLE]``. Prints paragraphs a second of both, one at a time and, for
torch, in batches of 64 too, with two threads, as the median of interleaved rounds; how like the embeddings are; and,
for an encoder BUNDLE, how far the score of a topic falls when the heaviest piece of evidence is cut out of the
paragraph, beside a random piece of the same length.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks.drills.material import seed_texts
from models.bundle import load_bundle, read_holdout
from training.checkpoint import load_encoder

THREADS, TEXTS, ROUNDS, BATCH = 2, 128, 5, 64
CUT = 300


def speed(checkpoint: str) -> None:
    torch.set_num_threads(THREADS)
    encoder, peer = load_encoder(checkpoint, threads=THREADS), SentenceTransformer(checkpoint, device="cpu")
    texts = seed_texts(TEXTS)

    def ours() -> np.ndarray:
        encoder.parts.cache_clear()  # type: ignore[attr-defined]
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


def deletion(path: Path) -> None:
    """Cut out evidence, and random pieces of as many words, and see how far the log-odds of the topic fall."""
    scorer, draw = load_bundle(path).scorer, random.Random(0)
    falls: list[tuple[float, float]] = []
    for example in read_holdout(path):
        for topic in scorer.classify(example.text).topics:
            if topic.decision != "present" or not topic.evidence:
                continue
            text, span = example.text, topic.evidence[0]
            words = [at for at, char in enumerate(text) if not char.isspace() and (at == 0 or text[at - 1].isspace())]
            begin = draw.choice(words)
            end = min(len(text), begin + span.end - span.start)
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
    for path in sys.argv[2:]:
        deletion(Path(path))


if __name__ == "__main__":
    main()
