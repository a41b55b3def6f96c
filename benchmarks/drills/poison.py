"""Poisoned labels against the gate: what is false must not take over, what is honest must.

Run ``python -m benchmarks.drills.poison [--quick] [--count N] [--jobs N]``. Some champions are fitted, each on a random
four fifths of the seeds' documents. Each is challenged by trainings on its labels and some of the documents that it has
not seen, drawn anew for each training:

``honest``   the labels as they are,
``flipped``  of one topic, 40 % of the stances turned: favor and against swapped, neutral made either,
``swapped``  two topics with each other's labels, everywhere.

False labels are in the rows held out as well, as they would be.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks.drills.harness import SEEDS, TAXONOMY, Report, arguments, workplace
from models.taxonomy import read_taxonomy
from training.run import Options, run

COUNT, QUICK_COUNT = 20, 4
CHAMPIONS = 4
KNOWN = 0.8
ADDED = 0.1
TURNED = 0.4
HONEST_AT_LEAST = 0.95

Row = dict[str, Any]


class Trial(NamedTuple):
    """One challenge: what was done to the labels, the champion's folder, the rows, and where to work."""

    kind: str
    what: str
    champion: Path
    examples: Path


def _document(row: Row) -> str:
    return row["document_id"] or row["id"]


def _turned(stance: str, draw: random.Random) -> str:
    if stance == "neutral":
        return draw.choice(("favor", "against"))
    return "against" if stance == "favor" else "favor"


def flipped(rows: Iterable[Row], topic: str, draw: random.Random) -> list[Row]:
    """Turn some of a topic's stances."""
    rows = list(rows)
    having = [index for index, row in enumerate(rows) if row["topics"].get(topic)]
    for index in draw.sample(having, round(TURNED * len(having))):
        topics = rows[index]["topics"]
        rows[index] = {**rows[index], "topics": {**topics, topic: _turned(topics[topic], draw)}}
    return rows


def swapped(rows: Iterable[Row], pair: tuple[str, str]) -> list[Row]:
    """Give each of two topics the labels of the other."""
    name = dict(zip(pair, reversed(pair), strict=True))
    return [{**row, "topics": {name.get(id, id): stance for id, stance in row["topics"].items()}} for row in rows]


def _trials(folder: Path, count: int) -> Iterator[Trial]:
    rows = [json.loads(line) for line in SEEDS.read_text().splitlines()]
    documents = sorted({_document(row) for row in rows})
    topics = [topic.id for topic in read_taxonomy(TAXONOMY).topics]
    pairs = list(combinations(topics, 2))
    random.Random(0).shuffle(pairs)
    for champion in range(min(CHAMPIONS, count)):
        known = set(random.Random(champion).sample(documents, round(KNOWN * len(documents))))
        directory = folder / f"champion-{champion}"
        _write(directory.with_suffix(".jsonl"), (row for row in rows if _document(row) in known))
        fresh = sorted(set(documents) - known)
        for number in range(champion, count, CHAMPIONS):
            for kind in ("honest", "flipped", "swapped"):
                draw = random.Random(f"{kind} {number}")
                added = known.union(draw.sample(fresh, round(ADDED * len(documents))))
                asked: list[Row] = [row for row in rows if _document(row) in added]
                what = ""
                if kind == "flipped":
                    what = topics[number % len(topics)]
                    asked = flipped(asked, what, draw)
                elif kind == "swapped":
                    what = " and ".join(pairs[number])
                    asked = swapped(asked, pairs[number])
                examples = folder / f"{kind}-{number}.jsonl"
                _write(examples, asked)
                yield Trial(kind, what, directory, examples)


def _write(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _crown(champion: Path) -> None:
    run(champion.with_suffix(".jsonl"), TAXONOMY, champion, Options(jobs=1))


def _challenge(trial: Trial) -> tuple[Trial, bool, list[str]]:
    bundle = trial.examples.with_suffix("")
    gate = run(trial.examples, TAXONOMY, bundle, Options(jobs=1), champion=trial.champion).gate
    shutil.rmtree(bundle)
    if gate is None:
        raise AssertionError("a training with a champion ended without the gate's word")
    return trial, gate.passed, gate.reasons


def _each(jobs: int, function: Callable[[Any], Any], tasks: list[Any], what: str) -> Iterator[Any]:
    # Spawned, as a fork would take the parent's threads along.
    with get_context("spawn").Pool(jobs) as pool:
        yield from tqdm(pool.imap_unordered(function, tasks), desc=what, total=len(tasks), file=sys.stdout)


def main() -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--count", type=int, help="trainings of each kind")
        parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time")

    given = arguments(__doc__, add)
    count = given.count or (QUICK_COUNT if given.quick else COUNT)
    report = Report(f"the gate: {count} trainings of each kind on the seeds")
    passed = dict.fromkeys(("honest", "flipped", "swapped"), 0)
    with workplace(given.keep) as folder:
        trials = list(_trials(folder, count))
        for _ in _each(given.jobs, _crown, sorted({trial.champion for trial in trials}), "champions"):
            pass
        for trial, activated, reasons in _each(given.jobs, _challenge, trials, "challengers"):
            passed[trial.kind] += activated
            if activated != (trial.kind == "honest"):
                tqdm.write(f"{trial.kind} {trial.what}: {'passed' if activated else '; '.join(reasons)}")
    least = int(HONEST_AT_LEAST * count)
    report.demand("honest, activated", f"at least {least}", passed["honest"], passed["honest"] >= least)
    for kind in ("flipped", "swapped"):
        report.demand(f"{kind}, activated", 0, passed[kind])
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
