"""Find labels that were made wrong on purpose: the label audit beside cleanlab, from the same out-of-fold scores.

Run ``python -m benchmarks.label_audit [--jobs N]``, with ``pip install cleanlab`` done in the same environment. Of the
seeds one topic label in twenty is taken away, as many are put where they do not belong, and one stance in twenty is
turned. Prints for both how many of the labels they list are wrong, and how many of the wrong ones they list.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from importlib.metadata import version

import numpy as np
from cleanlab.filter import find_label_issues
from numpy.typing import NDArray

from benchmarks.drills.harness import SEEDS, TAXONOMY
from models.examples import STANCES, read_examples
from models.taxonomy import read_taxonomy
from training import fitting, splits
from training.audit import confident_issues

WRONG = 0.05
SEED = 0


class Count:
    """How many labels were listed, and how many of them rightly so."""

    def __init__(self) -> None:
        self.right = self.listed = 0

    def add(self, found: Iterable[int], wrong: NDArray[np.bool_]) -> None:
        rows = np.fromiter(found, dtype=np.int64)
        self.listed += len(rows)
        self.right += int(wrong[rows].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that fit")
    given = parser.parse_args()
    draw = np.random.default_rng(SEED)
    taxonomy = read_taxonomy(TAXONOMY)
    material = fitting.prepare(read_examples(SEEDS, taxonomy), taxonomy)
    labels, pairs = material.labels.copy(), material.pairs
    turned = np.zeros(labels.shape, dtype=bool)
    for column, gold in zip(turned.T, material.labels.T, strict=True):
        count = round(WRONG * gold.sum())
        for rows in (np.flatnonzero(gold), np.flatnonzero(~gold)):
            column[draw.choice(rows, count, replace=False)] = True
    labels ^= turned
    false = draw.random(len(pairs.row)) < WRONG
    stance = np.where(false, (pairs.stance + draw.integers(1, len(STANCES), len(false))) % len(STANCES), pairs.stance)
    poisoned = material._replace(labels=labels, pairs=pairs._replace(stance=stance))
    near = splits.near_duplicates([example.text for example in material.examples])
    choices = fitting.choose(poisoned, near, folds=5, seed=SEED, jobs=given.jobs, step=lambda: None)

    tables = [("stance", choices.stance_scores, stance, false)]
    for column in range(labels.shape[1]):
        scores = choices.topic.scores[:, column]
        tables.append(
            ("topic", np.stack([1 - scores, scores], axis=1), labels[:, column].astype(int), turned[:, column])
        )
    print(f"{'labels':8}{'listed by':18}{'listed':>8}{'precision':>11}{'recall':>8}")
    for kind in ("topic", "stance"):
        ours, peer, wrong = Count(), Count(), 0
        for _, scores, named, is_wrong in (table for table in tables if table[0] == kind):
            wrong += int(is_wrong.sum())
            ours.add(confident_issues(scores, named)[0], is_wrong)
            peer.add(np.flatnonzero(find_label_issues(named, scores, n_jobs=1)), is_wrong)
        for name, count in (("the audit", ours), (f"cleanlab {version('cleanlab')}", peer)):
            precision, recall = count.right / max(1, count.listed), count.right / wrong
            print(f"{kind:8}{name:18}{count.listed:8}{precision:11.3f}{recall:8.3f}")


if __name__ == "__main__":
    main()
