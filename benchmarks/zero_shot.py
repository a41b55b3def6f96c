"""A topic that nobody has labelled: the crossencoder family fitted without it, beside cosine similarity to its wording.

Run ``python -m benchmarks.zero_shot CHECKPOINT [TOPIC ...]``. For each topic of the seeds in turn, all when none is
named, the paragraphs about it are left out of the fit, and it is scored from its wording alone on held-out documents.
The peer takes a topic as present where the cosine of the checkpoint's embeddings of proposition and paragraph is above
the threshold that is best, by F1, on the fitted topics; stance it cannot tell. Each topic takes a fine-tuning, unless
several are left out ``--together``, which leaves less to learn from. Intervals are 95 %, over documents.
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
from models.encoder import Encoder
from models.examples import Example, read_examples
from models.figures import text_figure
from models.taxonomy import Taxonomy, read_taxonomy
from training import splits
from training.checkpoint import load_encoder
from training.evaluation import Scores, measure, score_examples
from training.run import Options, train


def only(scores: Scores, topic: int) -> Scores:
    """Return what the scores say of one topic."""
    asked = scores.topic == topic
    columns = (each[:, [topic]] for each in (scores.topics, scores.labels, scores.predicted))
    none = np.empty(0, np.int64)
    row, stance, stances = scores.row[asked], scores.stance[asked], scores.stances[asked]
    return Scores(*columns, row, np.zeros_like(row), stance, stances, none, none)


def by_cosine(
    scores: Scores, encoder: Encoder, taxonomy: Taxonomy, fitted: list[Example], kept: list[Example], left: list[int]
) -> Scores:
    """Put the peer's answers, whose threshold is that of the topics that are not left out, in the place of ours."""
    wordings = np.array([encoder.embed(topic.proposition or topic.title) for topic in taxonomy.topics])
    known = np.setdiff1d(np.arange(len(taxonomy.topics)), left)
    labels = np.array([[name in example.topics for name in taxonomy.ids] for example in fitted])[:, known]
    likeness = np.array([wordings @ encoder.embed(example.text) for example in fitted])[:, known]
    best = max(np.linspace(0, 1, 101), key=lambda each: f1_score(labels.ravel(), likeness.ravel() >= each))
    found = np.array([wordings @ encoder.embed(example.text) for example in kept])
    return scores._replace(topics=found, predicted=found >= best)


def main() -> None:
    taxonomy = read_taxonomy(TAXONOMY)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zero_shot", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("topics", metavar="TOPIC", nargs="*", default=list(taxonomy.ids))
    parser.add_argument("--together", metavar="N", type=int, default=1, help="topics left out of one fit (1)")
    parser.add_argument(
        "--cache", type=Path, help="a folder to keep in what is made of each text alone, and what an interrupt leaves"
    )
    arguments = parser.parse_args()
    if unknown := {*arguments.topics} - {*taxonomy.ids}:
        parser.error(f"{', '.join(unknown)}: no topic of the seeds; those are {', '.join(taxonomy.ids)}")
    examples = read_examples(SEEDS, taxonomy)
    split = splits.split([example.text for example in examples], [example.group for example in examples], 0.1)
    kept = list(compress(examples, split.held))
    groups = [example.group for example in kept]
    encoder = load_encoder(arguments.checkpoint, threads=2)
    print(f"{'':<22}{'paragraphs':>10}  {'topic F1':<24}{'cosine':<24}stance macro-F1, given the topic")
    for begin in tqdm(range(0, len(arguments.topics), arguments.together), disable=None):
        names = arguments.topics[begin : begin + arguments.together]
        fitted = [example for example in compress(examples, split.fitted) if not example.topics.keys() & set(names)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.jsonl"
            path.write_bytes(msgspec.json.Encoder().encode_lines(fitted))
            options = Options("crossencoder", holdout=0.0, encoder=arguments.checkpoint, cache=arguments.cache)
            scorer = load_bundle(train(path, TAXONOMY, Path(folder) / "bundle", options)).scorer
        ours = score_examples(scorer, kept)
        left = [taxonomy.ids.index(name) for name in names]
        theirs = by_cosine(ours, encoder, taxonomy, fitted, kept, left)
        for name, topic in zip(names, left, strict=True):
            found, peer = (measure(only(each, topic), [name], groups) for each in (ours, theirs))
            figures = [each["topics"]["per_topic"][name]["f1"] for each in (found, peer)]
            cells = "".join(f"{text_figure(each):<24}" for each in figures)
            stance = text_figure(found["stance"]["given_topic"]["macro_f1"])
            print(f"{name:<22}{ours.labels[:, topic].sum():>10}  {cells}{stance}", flush=True)


if __name__ == "__main__":
    main()
