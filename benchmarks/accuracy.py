"""Every family, and its peers, on one split: accuracy with intervals, speed, size, and how many labels it takes.

DIR holds ``test.jsonl`` and either its own ``taxonomy.toml`` and ``train.jsonl``, or rows labelled with the seeds'
taxonomy, and the seeds are fitted then. All fit on the same rows, with default settings; thresholds are a family's
own, chosen on out-of-fold scores, and 0.5 for the peers. Nothing is chosen on a test part. Intervals are 95 %, over
documents.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import msgspec
import numpy as np
from tqdm import tqdm

from benchmarks.peers.job import milliseconds
from models.bundle import FAMILIES, load_bundle
from models.examples import Example, read_examples
from models.figures import text_figure
from models.taxonomy import Taxonomy, read_taxonomy
from training.evaluation import Scores, evaluate, measure
from training.linear import stance_pairs, topic_labels
from training.run import Options, train

ROOT = Path(__file__).resolve().parent.parent
SEEDS, TAXONOMY = ROOT / "seeds" / "paragraphs.jsonl", ROOT / "seeds" / "taxonomy.toml"
PEERS = {"scikit-learn": "scikit_learn", "fasttext": "fast_text", "setfit": "set_fit"}
# Contrastive pairs of more labels than this take hours without a GPU.
SETFIT_MOST = 32
BUDGETS = (8, 32, 128, None)


HEADS = ("topic micro-F1", "topic macro-F1", "stance given topic", "stance end to end", "topic ECE")
# Of labels without stances.
_UNTOLD = {"value": None, "interval": [None, None]}


class Row(NamedTuple):
    """The measures of one classifier; times in seconds and, for batches of 1 and of 64, in milliseconds a paragraph."""

    metrics: dict[str, Any]
    seconds: float
    milliseconds: Sequence[float]
    megabytes: float


class Split(NamedTuple):
    """What to fit on and what to measure on."""

    taxonomy: Taxonomy
    fitted: list[Example]
    kept: list[Example]


def read(folder: Path) -> Split:
    own = (folder / "train.jsonl").exists()
    taxonomy = read_taxonomy(folder / "taxonomy.toml" if own else TAXONOMY)
    fitted = read_examples(folder / "train.jsonl" if own else SEEDS, taxonomy)
    return Split(taxonomy, fitted, read_examples(folder / "test.jsonl", taxonomy))


def ours(family: str, split: Split, arguments: argparse.Namespace) -> Row:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "taxonomy.json").write_bytes(msgspec.json.encode(split.taxonomy))
        (folder / "train.jsonl").write_bytes(b"".join(msgspec.json.encode(example) + b"\n" for example in split.fitted))
        encoder = None if family == "linear" else str(arguments.encoder)
        options = Options(family, holdout=0.0, jobs=arguments.jobs, encoder=encoder, cache=arguments.cache)
        start = time.perf_counter()
        path = train(folder / "train.jsonl", folder / "taxonomy.json", folder / "bundle", options)
        seconds = time.perf_counter() - start
        scorer = load_bundle(path).scorer
        metrics = evaluate(scorer, split.kept)
        texts = [example.text for example in split.kept]

        def label(batch: list[str]) -> object:
            return scorer.classify_all(batch, ids=[""] * len(batch))

        taken = [milliseconds(label, texts, size) for size in (1, 64)]
        return Row(metrics, seconds, taken, sum(file.stat().st_size for file in path.iterdir()) / 1e6)


def peer(name: str, split: Split, arguments: argparse.Namespace) -> Row:
    ids = list(split.taxonomy.ids)
    job = {
        "topics": ids,
        "fitted": [{"text": example.text, "topics": example.topics} for example in split.fitted],
        "texts": [example.text for example in split.kept],
        "checkpoint": str(arguments.encoder),
        "seed": 0,
    }
    python = sys.executable if name == "scikit-learn" else str(arguments.peer_python)
    command = [python, "-m", f"benchmarks.peers.{PEERS[name]}"]
    done = subprocess.run(command, input=json.dumps(job).encode(), stdout=subprocess.PIPE, cwd=ROOT, check=True)
    answer = json.loads(done.stdout)
    topics, stances = np.array(answer["topics"]), np.array(answer["stances"])
    gold, predicted, asked = topic_labels(split.kept, ids), topics >= 0.5, stance_pairs(split.kept, ids)
    takes_stance = np.array([bool(topic.proposition) for topic in split.taxonomy.topics])
    false_row, false_topic = np.nonzero(predicted & ~gold & takes_stance)
    false = stances[false_row, false_topic].argmax(axis=1)
    scores = Scores(topics, gold, predicted, *asked, stances[asked.row, asked.topic], false_row, false)
    metrics = measure(scores, split.taxonomy.ids, [example.group for example in split.kept])
    return Row(metrics, answer["seconds"], answer["milliseconds"], answer["megabytes"])


def few(split: Split, budget: int | None, seed: int) -> Split:
    """Draw so many paragraphs of each topic and stance, and of none; all where there is no budget."""
    if budget is None:
        return split
    classes: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, example in enumerate(split.fitted):
        for kind in [(topic, str(stance)) for topic, stance in example.topics.items()] or [()]:
            classes[kind].append(place)
    draw = random.Random(seed)
    chosen = {place for _, places in sorted(classes.items()) for place in draw.sample(places, min(budget, len(places)))}
    return split._replace(fitted=[split.fitted[place] for place in sorted(chosen)])


def figures_of(row: Row) -> Iterator[dict[str, Any]]:
    topics, stance = row.metrics["topics"], row.metrics.get("stance")
    yield from (topics["micro"]["f1"], topics["macro"]["f1"])
    for given in ("given_topic", "end_to_end"):
        yield stance[given]["macro_f1"] if stance else _UNTOLD
    yield topics["ece"]


def line(name: str, row: Row) -> str:
    cells = "".join(f"{text_figure(figure):<24}" for figure in figures_of(row))
    one, many = row.milliseconds
    return f"{name:<14}{cells}{row.seconds:5.0f}  {one:8.2f}{many:7.2f}{row.megabytes:7.0f}"


def plot(curves: dict[str, dict[int, list[Row]]], path: Path) -> None:
    """Draw topic and stance macro-F1 against labels a class, the mean of the draws with all of them as dots."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, place, title in zip(axes, (1, 2), ("topic macro-F1", "stance macro-F1, given the topic"), strict=True):
        for name, points in curves.items():
            found = {size: [list(figures_of(row))[place]["value"] for row in rows] for size, rows in points.items()}
            (line,) = axis.plot(list(found), [np.mean(each) for each in found.values()], label=name)
            for size, values in found.items():
                axis.plot([size] * len(values), values, ".", color=line.get_color())
        axis.set(xscale="log", xlabel="paragraphs fitted on", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=150)
    print(f"{path}: how accuracy grows with labels")


def run(name: str, split: Split, arguments: argparse.Namespace) -> Row | None:
    """Return a row, None for a peer that failed, whose own words are on standard error."""
    if name not in PEERS:
        return ours(name, split, arguments)
    try:
        return peer(name, split, arguments)
    except subprocess.CalledProcessError as error:
        print(f"{name:<14}failed, exit code {error.returncode}", flush=True)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--encoder", metavar="CHECKPOINT", type=Path, help="a folder; without it, linear models alone")
    parser.add_argument(
        "--peer-python",
        metavar="PATH",
        help="a Python with fasttext-wheel, setfit, 'transformers<5'; else neither runs",
    )
    parser.add_argument("--only", nargs="+", choices=[*FAMILIES, *PEERS], metavar="NAME", help="run these alone")
    parser.add_argument("--curves", metavar="PNG", type=Path, help="fit on 8, 32, 128 and all labels a class too")
    parser.add_argument("--draws", type=int, default=3, help="samples for each point of the curves (3)")
    parser.add_argument(
        "--cache",
        type=Path,
        help="a folder to keep what is made of each text alone in; what is found there takes no time to fit",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes that fit (2)")
    arguments = parser.parse_args()
    names = ["linear", *([] if arguments.encoder is None else list(FAMILIES)[1:]), "scikit-learn"]
    if arguments.peer_python:
        names += ["fasttext", *([] if arguments.encoder is None else ["setfit"])]
    names = arguments.only or names
    if arguments.encoder is None and {*names} - {"linear", "scikit-learn", "fasttext"}:
        parser.error("--encoder: a checkpoint is needed for what was named with --only")
    if arguments.peer_python is None and {*names} & {"fasttext", "setfit"}:
        parser.error("--peer-python: needed for what was named with --only")
    if names == ["setfit"] and arguments.curves is None:
        parser.error("setfit: on all labels it takes hours without a GPU; --curves fits it on a few")
    split = read(arguments.folder)
    print(f"{arguments.folder.name}: fitted on {len(split.fitted):,}, measured on {len(split.kept):,} paragraphs")
    print(f"{'':<14}" + "".join(f"{head:<24}" for head in HEADS) + "fit s   ms at 1  at 64     MB")
    whole = {}
    for name in tqdm(names, disable=None):
        if name != "setfit" and (row := run(name, split, arguments)):
            whole[name] = row
            print(line(name, row), flush=True)
    if arguments.curves is None:
        return
    curves: dict[str, dict[int, list[Row]]] = {name: {} for name in names}
    for budget in BUDGETS[:-1]:
        drawn = [few(split, budget, seed) for seed in range(arguments.draws)]
        for name in tqdm(names, desc=f"{budget} a class", disable=None):
            if name == "setfit" and budget > SETFIT_MOST:
                print(f"setfit: not fitted on {budget} labels a class or more, which takes hours without a GPU")
                continue
            if rows := [row for each in drawn if (row := run(name, each, arguments))]:
                curves[name][len(drawn[0].fitted)] = rows
                print(f"{budget:>4} a class  {'':2}{line(name, rows[0])}", flush=True)
    for name, row in whole.items():
        curves[name][len(split.fitted)] = [row]
    plot(curves, arguments.curves)


if __name__ == "__main__":
    main()
