"""A topic that nobody has labelled: the crossencoder family fitted without it, beside cosine similarity to its wording.

Run ``python -m benchmarks.zero_shot CHECKPOINT [TOPIC ...]``. For each topic of the seeds in turn, all when none is
named, the paragraphs about it are left out of the fit, and it is scored from its wording alone on held-out documents.
The peer takes a topic as present where the cosine of the checkpoint's embeddings of wording and paragraph is above the
threshold that is best, by F1, on the fitted topics; stance it cannot tell. Each topic takes a fine-tuning.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import compress
from pathlib import Path

import msgspec
import numpy as np
from sklearn.metrics import f1_score
from tqdm import tqdm

from benchmarks.accuracy import SEEDS, TAXONOMY
from models.bundle import load_bundle
from models.crossencoder import wording
from models.encoder import Encoder
from models.examples import STANCES, Example, read_examples
from models.taxonomy import Taxonomy, read_taxonomy
from training import splits
from training.checkpoint import load_encoder
from training.run import Options, train


def cosine(encoder: Encoder, taxonomy: Taxonomy, fitted: list[Example], kept: list[Example], topic: int) -> float:
    """Return the topic's F1 on `kept` at the threshold that is best over the other topics on `fitted`."""
    wordings = np.array([encoder.embed(wording(each)) for each in taxonomy.topics])
    labels = np.array([[name in example.topics for name in taxonomy.ids] for example in fitted])
    known = np.arange(len(taxonomy.topics)) != topic
    scores = np.array([wordings @ encoder.embed(example.text) for example in fitted])[:, known]
    thresholds = np.linspace(0, 1, 101)
    best = max(thresholds, key=lambda each: f1_score(labels[:, known].ravel(), scores.ravel() >= each))
    gold = [taxonomy.ids[topic] in example.topics for example in kept]
    return float(f1_score(gold, [wordings[topic] @ encoder.embed(example.text) >= best for example in kept]))


def main() -> None:
    taxonomy = read_taxonomy(TAXONOMY)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zero_shot", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("topics", metavar="TOPIC", nargs="*", default=list(taxonomy.ids))
    parser.add_argument("--cache", type=Path, help="a folder to keep embeddings in, and what an interrupt leaves")
    arguments = parser.parse_args()
    examples = read_examples(SEEDS, taxonomy)
    split = splits.split([example.text for example in examples], [example.group for example in examples], 0.1)
    kept = list(compress(examples, split.held))
    encoder = load_encoder(arguments.checkpoint, threads=2)
    print(f"{'':<22}{'paragraphs':>10}  {'topic F1':>8}  {'cosine':>6}  stance macro-F1, given the topic")
    for name in tqdm(arguments.topics, disable=None):
        topic = taxonomy.ids.index(name)
        fitted = [example for example in compress(examples, split.fitted) if name not in example.topics]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.jsonl"
            path.write_bytes(msgspec.json.Encoder().encode_lines(fitted))
            options = Options("crossencoder", holdout=0.0, encoder=arguments.checkpoint, cache=arguments.cache)
            scorer = load_bundle(train(path, TAXONOMY, Path(folder) / "bundle", options)).scorer
        found = scorer.topic_scores([example.text for example in kept])[:, topic]
        gold = np.array([name in example.topics for example in kept])
        f1 = f1_score(gold, found >= scorer.rules.topics[name].threshold)
        asked = [(example, stance) for example in kept if (stance := example.topics.get(name)) is not None]
        stances = scorer.stance_scores([(example.text, name) for example, _ in asked]).argmax(axis=1)
        stance = f1_score([STANCES.index(each) for _, each in asked], stances, average="macro")
        peer = cosine(encoder, taxonomy, fitted, kept, topic)
        print(f"{name:<22}{gold.sum():>10}  {f1:>8.3f}  {peer:>6.3f}  {stance:.3f}", flush=True)


if __name__ == "__main__":
    main()
