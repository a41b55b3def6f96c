"""May a challenger take the champion's place? Both are held against the same rows, and their labels against each other.

Labels may be wrong on purpose, and then the rows held out now are wrong with them. So the challenger is also judged on
the champion's rows with the labels they had when the champion was measured, and by how far its labels are
confirmed by models that had not seen them.

One rule for every check: it fails where the challenger's figure is below the champion's by more than the margin, and
the fall is real, that is, the upper bound of the difference, one-sided at 95 %, lies below 0. Where labels are few,
only a large fall is real, and a smaller one passes; but an average that falls by more than three margins never does.
On rows the intervals are paired: both models are resampled by the same documents; and as each topic is measured on few
rows, the topics share the 5 % (Bonferroni: with eleven, each has the bound of 99.5 %). Label agreement is not paired,
its bound is wide already, and each topic has its own 5 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from statistics import NormalDist
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, Manifest, load_bundle, read_holdout
from models.examples import STANCES, Example
from models.scorer import Scorer
from models.taxonomy import Taxonomy
from training.evaluation import Resample, mean, number, ratio, score_examples, wilson
from training.splits import folded, holdout

FloatArray = NDArray[np.float64]
Rows = Literal["held_out", "frozen", "fitted"]
# Two points of an average F1 are what a few dozen labels more or less make; one label in ten of a topic is what a
# reader notices; label agreement rests on all labels fitted on, and honest retrainings hardly move it down: half of
# that.
MARGINS = {
    "topic macro-F1": 0.02,
    "topic micro-F1": 0.02,
    "stance macro-F1": 0.02,
    "topic recall": 0.10,
    "stance accuracy": 0.10,
    "topic label agreement": 0.05,
    "stance label agreement": 0.05,
}
# An average that falls by so many margins is refused however few the rows are. Not so a topic's figure: of a dozen
# rows, two that chance turned are as much.
ANY = 3
LEVEL = 0.95
# With fewer gold rows an average is not judged at all, and nothing passes unjudged.
FEW = 5
# A topic's figure needs more of them, and in enough documents: one document would move it by more than a margin, and
# resampling a few shows less spread than there is.
FEW_OF_TOPIC = 15
FEW_DOCUMENTS = 10
_FEW_ROWS = 50


class Check(msgspec.Struct, frozen=True):
    """One figure of both models. ``passed`` is None where there were too few labels to judge."""

    rows: Rows
    metric: str
    topic: str | None
    support: int
    champion: float | None
    challenger: float | None
    difference: float | None
    interval: list[float | None] | None
    margin: float
    passed: bool | None

    def reason(self) -> str:
        """Say in a sentence why it failed."""
        of = f" of {self.topic}" if self.topic else ""
        where = {"held_out": "the rows held out now", "frozen": "the champion's rows, as labelled when it was measured"}
        return (
            f"{self.metric}{of} on {where.get(self.rows, 'the rows fitted on')}: {self.challenger:.3f} against the "
            f"champion's {self.champion:.3f}, {self.support} labels; a fall of up to {self.margin} is allowed"
        )


class Gate(msgspec.Struct, frozen=True):
    """The judgement on a challenger: ``reasons`` says why it failed, ``notes`` what could not be judged."""

    champion: str
    challenger: str
    passed: bool
    reasons: list[str]
    notes: list[str]
    margins: dict[str, float]
    rows: dict[str, int]
    checks: list[Check]


class Champion(NamedTuple):
    """The model to beat, and the rows that it was measured on."""

    bundle: Bundle
    rows: list[Example]


def load_champion(directory: str | Path) -> Champion:
    """Verify and load the model to beat; raises BundleError where it is damaged."""
    return Champion(load_bundle(directory), read_holdout(directory))


def fits(example: Example, taxonomy: Taxonomy) -> bool:
    """Tell whether the taxonomy still has every topic and stance that an example is labelled with."""
    takes = {topic.id: bool(topic.proposition) for topic in taxonomy.topics}
    return all(name in takes and (stance is None or takes[name]) for name, stance in example.topics.items())


def judge(
    champion: Champion, challenger: Scorer, manifest: Manifest, held_out: Sequence[Example], *, seed: int = 0
) -> Gate:
    """Hold a challenger against the champion.

    Parameters
    ----------
    champion : Champion
    challenger : Scorer
    manifest : Manifest
        The challenger's.
    held_out : sequence of Example
        The rows held out now, as labelled now. The challenger was not fitted on them, nor on the champion's rows.
    seed : int
        Draws the intervals.
    """
    old = champion.bundle.scorer
    topics = [name for name in challenger.taxonomy.ids if name in old.taxonomy.ids]
    takes = {name for name in topics if old.takes_stance(name) and challenger.takes_stance(name)}
    frozen = [example for example in champion.rows if fits(example, challenger.taxonomy)]
    unseen = _unseen(champion, held_out)
    tables: dict[Rows, Sequence[Example]] = {"held_out": list(compress(held_out, unseen)), "frozen": frozen}
    checks = []
    for name, examples in tables.items():
        if examples and topics:
            checks += _table(name, old, challenger, _common(examples, topics, takes), topics, seed)
    if _same_heads(old, challenger):
        checks += _agreement(champion.bundle.manifest, manifest, topics)
    reasons = [check.reason() for check in checks if check.passed is False]
    if not any(check.passed is not None for check in checks if check.rows != "fitted"):
        reasons.append(f"fewer than {FEW} labels are held out of what both models know: nothing to judge by")
    return Gate(
        champion=champion.bundle.manifest.version,
        challenger=manifest.version,
        passed=not reasons,
        reasons=reasons,
        notes=_notes(champion, challenger, tables, left_out=int((~unseen).sum())),
        margins=MARGINS,
        rows={name: len(examples) for name, examples in tables.items()},
        checks=checks,
    )


def _unseen(champion: Champion, held_out: Sequence[Example]) -> NDArray[np.bool_]:
    """Tell which rows the champion was measured on, or would have been: it may have been fitted on any other."""
    own = {folded(example.text) for example in champion.rows}
    part = champion.bundle.manifest.settings.get("holdout", 0.0)
    measured = np.array([folded(example.text) in own for example in held_out], dtype=bool)
    return measured | holdout([example.group for example in held_out], part)


def _common(examples: Sequence[Example], topics: Sequence[str], takes: set[str]) -> list[Example]:
    """Keep of the labels what both models can answer for."""
    return [
        msgspec.structs.replace(
            example,
            topics={
                name: stance if name in takes else None for name, stance in example.topics.items() if name in topics
            },
        )
        for example in examples
    ]


def _table(
    rows: Rows, old: Scorer, new: Scorer, examples: Sequence[Example], topics: Sequence[str], seed: int
) -> list[Check]:
    """Check both models on the same rows, resampled alike.

    An interval is the difference and so many of its standard errors, which the resamples tell (Efron and Tibshirani
    1993, chapter 12): the more topics share the 5 %, the further out the bound, beyond any percentile of the resamples.
    """
    resample = Resample([example.group for example in examples], seed)
    before, after = (_figures(scorer, examples, topics, resample) for scorer in (old, new))
    documents = {
        "topic recall": {name: len({each.group for each in examples if name in each.topics}) for name in topics},
        "stance accuracy": {name: len({each.group for each in examples if each.topics.get(name)}) for name in topics},
    }

    def enough(metric: str, topic: str | None, support: int) -> bool:
        if topic is None:
            return support >= FEW
        return support >= FEW_OF_TOPIC and documents[metric][topic] >= FEW_DOCUMENTS

    judged = Counter(metric for (metric, topic), (support, _) in before.items() if enough(metric, topic, support))
    checks = []
    for (metric, topic), (support, champion) in before.items():
        _, challenger = after[metric, topic]
        interval = None
        if enough(metric, topic, support):
            z = NormalDist().inv_cdf(1 - (1 - LEVEL) / judged[metric])
            difference, half = challenger[0] - champion[0], z * np.nanstd(challenger[1:] - champion[1:])
            interval = float(difference - half), float(difference + half)
        checks.append(check(rows, metric, topic, support, float(champion[0]), float(challenger[0]), interval))
    return checks


def _figures(
    scorer: Scorer, examples: Sequence[Example], topics: Sequence[str], resample: Resample
) -> dict[tuple[str, str | None], tuple[int, FloatArray]]:
    """Return for each metric and topic its support and its value on all rows and on every resample.

    Macro averages run over the topics and stances that have a gold label among the rows; what is claimed of the others
    counts in the micro average.
    """
    scores = score_examples(scorer, examples)
    columns = [scorer.taxonomy.ids.index(name) for name in topics]
    labels, predicted = scores.labels[:, columns], scores.predicted[:, columns]
    hits, claimed, gold = (resample.sums(part.astype(float)) for part in (labels & predicted, predicted, labels))
    recall = ratio(hits, gold)
    found: dict[tuple[str, str | None], tuple[int, FloatArray]] = {
        ("topic macro-F1", None): (int(labels.sum()), _macro_f1(hits, claimed, gold)),
        ("topic micro-F1", None): (int(labels.sum()), ratio(2 * hits.sum(axis=1), (claimed + gold).sum(axis=1))),
        **{("topic recall", name): (int(gold[0, i]), recall[:, i]) for i, name in enumerate(topics)},
    }
    if not len(scores.row):
        return found
    hot, best = np.eye(len(STANCES)), scores.stances.argmax(axis=1)
    right = (best == scores.stance).astype(float)
    hits, claimed, gold = (
        resample.sums(part, scores.row) for part in (hot[scores.stance] * right[:, None], hot[best], hot[scores.stance])
    )
    found["stance macro-F1", None] = len(scores.row), _macro_f1(hits, claimed, gold)
    own = (scores.topic[:, None] == columns).astype(float)
    there = resample.sums(own, scores.row)
    accuracy = ratio(resample.sums(own * right[:, None], scores.row), there)
    found |= {("stance accuracy", name): (int(there[0, i]), accuracy[:, i]) for i, name in enumerate(topics)}
    return found


def _macro_f1(hits: FloatArray, claimed: FloatArray, gold: FloatArray) -> FloatArray:
    return mean(np.where(gold > 0, ratio(2 * hits, claimed + gold), np.nan))


def _agreement(champion: Manifest, challenger: Manifest, topics: Sequence[str]) -> list[Check]:
    """Check which share of each topic's labels the models confirm that had not seen them."""
    checks = []
    for metric, share, count in (
        ("topic label agreement", "topic", "n"),
        ("stance label agreement", "stance", "n_stances"),
    ):
        both = {
            name: (champion.agreement[name], challenger.agreement[name])
            for name in topics
            if name in champion.agreement and name in challenger.agreement
        }
        for name, (before, after) in both.items():
            interval = None
            if min(before[count], after[count]) >= FEW_OF_TOPIC:
                z = NormalDist().inv_cdf(LEVEL)
                interval = difference_interval((after[share], after[count]), (before[share], before[count]), z)
            checks.append(check("fitted", metric, name, after[count], before[share], after[share], interval))
    return checks


def difference_interval(one: tuple[float, int], other: tuple[float, int], z: float) -> tuple[float, float]:
    """Return the interval of ``one - other``, two shares with their counts (Newcombe 1998, method 10).

    It takes the two sets for independent. Most labels of a retraining are in both, so it is wider than need be.
    """
    (p, n), (q, m) = one, other
    (p_low, p_high), (q_low, q_high) = wilson(p, n, z), wilson(q, m, z)
    low = p - q - np.hypot(p - p_low, q_high - q)
    high = p - q + np.hypot(p_high - p, q - q_low)
    return float(low), float(high)


def check(
    rows: Rows,
    metric: str,
    topic: str | None,
    support: int,
    champion: float | None,
    challenger: float | None,
    interval: tuple[float, float] | None,
) -> Check:
    """Apply the rule; without an interval there is nothing to judge."""
    margin = MARGINS[metric]
    difference = None if champion is None or challenger is None else challenger - champion
    passed = None
    if interval is not None and difference is not None:
        most = margin * ANY if topic is None else np.inf
        passed = difference >= -margin or (interval[1] >= 0 and difference >= -most)
    return Check(
        rows=rows,
        metric=metric,
        topic=topic,
        support=support,
        champion=_rounded(champion),
        challenger=_rounded(challenger),
        difference=_rounded(difference),
        interval=None if interval is None else [_rounded(end) for end in interval],
        margin=margin,
        passed=passed,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else number(value)


def _notes(champion: Champion, challenger: Scorer, tables: dict[Rows, Sequence[Example]], left_out: int) -> list[str]:
    """Say what the judgement leaves out, and what is odd about the rows."""
    old, notes = champion.bundle, []
    if unshared := {*old.taxonomy.ids} ^ {*challenger.taxonomy.ids}:
        notes.append(f"not judged, since only one of the two has them: {', '.join(sorted(unshared))}")
    if not champion.rows:
        notes.append(
            "the champion does not carry the rows it was measured on, so nothing is judged by labels of that time: "
            "labels that are wrong everywhere in the same way would not be noticed"
        )
    elif dropped := len(champion.rows) - len(tables["frozen"]):
        notes.append(f"{dropped} of the champion's rows are left out: their topics or stances are not in the taxonomy")
    if not old.manifest.agreement:
        notes.append("the champion does not say how far its labels were confirmed, so label agreement is not judged")
    if not _same_heads(old.scorer, challenger):
        notes.append(
            "label agreement is not judged: the heads that tell it have an encoder's columns in one of the two"
        )
    if left_out:
        notes.append(
            f"{left_out} of the rows held out now are left out: the champion held out "
            f"{old.manifest.settings.get('holdout', 0.0):g} of the documents, and may have been fitted on those"
        )
    if shared := _tuned_graphs(old.scorer) & _tuned_graphs(challenger):
        notes.append(
            f"the {shared.pop()[0]} is the champion's: where it was fitted on rows that are held out only now, both "
            "look better on them than they are"
        )
    present = {folded(example.text): example.topics for example in tables["held_out"]}
    changed = sum(present.get(folded(example.text), example.topics) != example.topics for example in tables["frozen"])
    if changed:
        notes.append(f"{changed} of the champion's rows have other labels now than when it was measured on them")
    for name, examples in tables.items():
        if 0 < len(examples) < _FEW_ROWS:
            notes.append(f"{name}: {len(examples)} rows, so only a large fall would be noticed")
    return notes


def _same_heads(one: Scorer, other: Scorer) -> bool:
    """Tell whether the heads of both were fitted on columns of one kind: on n-grams alone, or on an encoder's too."""
    encoders = [scorer.model.features.encoder for scorer in (one, other)]
    return len({encoder is None or encoder.spec.tuned is not None for encoder in encoders}) == 1


def _tuned_graphs(scorer: Scorer) -> set[tuple[str, bytes]]:
    """Return what of a model was fine-tuned on labels, named."""
    encoder, pairs = scorer.model.features.encoder, scorer.pairs
    found = {("pair model", pairs.graph)} if pairs is not None else set()
    return found | ({("encoder", encoder.graph)} if encoder is not None and encoder.spec.tuned is not None else set())
