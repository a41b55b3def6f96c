"""One training: examples in, a bundle out, with its progress told on the way."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from itertools import compress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.bundle import CARD, FORMAT, MANIFEST, REPORT, Canary, Manifest, content_files, load_bundle, write_bundle
from models.errors import BundleError, InvalidData
from models.examples import STANCES, Example, examples_hash, read_examples
from models.features import CHAR_NGRAMS, WORD_NGRAMS, NgramFeatures
from models.linear import FAMILY, LinearModel
from models.scorer import Scorer
from models.taxonomy import Taxonomy, read_taxonomy
from training import calibration, linear, report, splits
from training.evaluation import Scores, measure, score_examples
from training.selection import STANCE_GRID, TOPIC_GRID, StanceChoice, choose_stances, choose_topics

FloatArray = NDArray[np.float64]
CURVE_PARTS = (0.125, 0.25, 0.5, 1.0)
_CANARIES = 4
_LIBRARIES = ("joblib", "numpy", "safetensors", "scikit-learn", "scipy")


@dataclass(frozen=True)
class Options:
    """How to train. ``holdout`` is the part of the groups that is only measured on; ``jobs`` processes fit heads."""

    family: str = FAMILY
    holdout: float = 0.1
    folds: int = 5
    seed: int = 0
    jobs: int = os.cpu_count() or 1


@dataclass(frozen=True)
class Progress:
    """Where a training stands: ``fraction`` of its work done, in [0, 1], and ``seconds_left`` at the pace so far."""

    phase: str
    fraction: float
    message: str
    seconds_left: float | None = None


class _Teller:
    """Count steps of a known total and pass the state on."""

    def __init__(self, tell: Callable[[Progress], None], total: int) -> None:
        self._tell = tell
        self._total = total
        self._done = 0
        self._start = time.monotonic()
        self._phase, self._message = "read", ""

    def phase(self, name: str, message: str) -> None:
        self._phase, self._message = name, message
        self._send()

    def step(self) -> None:
        self._done += 1
        self._send()

    def _send(self) -> None:
        spent = time.monotonic() - self._start
        left = spent / self._done * (self._total - self._done) if self._done else None
        self._tell(Progress(self._phase, min(1.0, self._done / self._total), self._message, left))


def train(
    examples_path: str | Path,
    taxonomy_path: str | Path,
    output: Path | Callable[[str], Path],
    options: Options | None = None,
    tell: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Fit a classifier and write it as a bundle.

    Parameters
    ----------
    examples_path, taxonomy_path : path
    output : Path, or a function of the new version's name
        The bundle's folder. It must not hold anything yet.
    options : Options, optional
    tell : callable
        Receives a Progress now and then.

    Returns
    -------
    Path
        The bundle's folder.

    Raises
    ------
    InvalidData
        With every fault of the taxonomy or of the examples; nothing was fitted then.
    BundleError
        If the output folder is in use.
    """
    options = options or Options()
    if options.family != FAMILY:
        raise InvalidData([f"family: {options.family!r} is not one of {FAMILY}"])
    if isinstance(output, Path) and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise BundleError(f"{output}: exists already, and a bundle is never changed once written; name a new folder")
    taxonomy = read_taxonomy(taxonomy_path)
    examples = read_examples(examples_path, taxonomy)
    n_topics = len(taxonomy.topics)
    teller = _Teller(tell, total=_steps(n_topics, options.folds))

    teller.phase("split", f"{len(examples):,} examples: splitting by document, looking for near-duplicates")
    groups = [example.group for example in examples]
    held = splits.holdout(groups, options.holdout)
    near = splits.near_duplicates([example.text for example in examples])
    inside = ~held & ~splits.shadows(near, held)
    fitted, kept = list(compress(examples, inside)), list(compress(examples, held))
    fitted_groups = list(compress(groups, inside))
    if len(set(fitted_groups)) < 2:
        raise InvalidData([f"{examples_path}: fewer than two documents to fit on; calibration needs at least two"])
    place = np.cumsum(inside) - 1
    near = place[near[inside[near].all(axis=1)]]
    teller.step()

    teller.phase("features", f"counting n-grams of {len(fitted):,} paragraphs")
    texts = [example.text for example in fitted]
    features = NgramFeatures.fit(texts, min_df=linear.MIN_DF)
    if not len(features.idf):
        raise InvalidData([f"{examples_path}: no n-gram stands in two paragraphs; more examples are needed"])
    matrix = linear.feature_matrix(features, texts)
    labels = linear.topic_labels(fitted, taxonomy.ids)
    pairs = linear.stance_pairs(fitted, taxonomy.ids)
    teller.step()

    n_folds = min(options.folds, len(set(fitted_groups)))
    teller.phase("calibrate", f"scoring each paragraph by models that have not seen it, {n_folds} folds")
    folds = linear.Folds(splits.folds(fitted_groups, n_folds, options.seed), near)
    topic_choice = choose_topics(matrix, labels, folds, jobs=options.jobs, step=teller.step)
    stance_choice = (
        choose_stances(matrix, pairs, n_topics, folds, jobs=options.jobs, step=teller.step) if len(pairs.row) else None
    )
    rules = calibration.choose_rules(
        taxonomy.ids,
        topic_choice.scores,
        labels,
        stance_choice.scores if stance_choice else np.empty((0, len(STANCES))),
        pairs.stance,
    )
    topic_c, stance_c = topic_choice.c, stance_choice.c if stance_choice else STANCE_GRID[0]

    def fit(rows: NDArray[np.int64]) -> Scorer:
        inside = np.isin(pairs.row, rows)
        place = np.full(len(fitted), -1)
        place[rows] = np.arange(len(rows))
        chosen = linear.Pairs(place[pairs.row[inside]], pairs.topic[inside], pairs.stance[inside])
        parts = linear.fit_heads(
            matrix[rows], labels[rows], chosen, topic_c=topic_c, stance_c=stance_c, jobs=options.jobs, step=teller.step
        )
        return Scorer(taxonomy, rules, _calibrated(features, parts, topic_choice.platts, stance_choice))

    teller.phase("fit", f"fitting {n_topics} topics and their stances on {len(fitted):,} paragraphs")
    scorer = fit(np.arange(len(fitted)))
    scores, metrics, curve = None, {}, []
    if kept:
        kept_groups = list(compress(groups, held))
        scores = score_examples(scorer, kept)
        metrics = measure(scores, taxonomy.ids, kept_groups, seed=options.seed)
        teller.phase("curve", "fitting on parts of the examples for the learning curve")
        curve = _learning_curve(fit, fitted_groups, kept, kept_groups, taxonomy, metrics)

    teller.phase("write", "drawing the report and writing the bundle")
    warnings = _warnings(taxonomy, labels, pairs)
    files = content_files(taxonomy, scorer.model)
    settings = {
        "holdout": options.holdout,
        "folds": n_folds,
        "seed": options.seed,
        "topic_c": topic_c,
        "stance_c": stance_c,
        "chosen_from": {"topic_c": TOPIC_GRID, "stance_c": STANCE_GRID, "by": "out-of-fold log loss"},
        "min_df": linear.MIN_DF,
        "word_ngrams": WORD_NGRAMS,
        "char_ngrams": CHAR_NGRAMS,
    }
    data_hash = examples_hash(examples)
    # The version names what scores, how it decides, and what it was fitted and measured on.
    named = [*(files[name] for name in sorted(files)), msgspec.json.encode([rules, settings, data_hash])]
    content = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in named)).hexdigest()
    manifest = Manifest(
        format=FORMAT,
        family=FAMILY,
        version=f"{FAMILY}-{content[:12]}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        parent=None,
        taxonomy_hash=taxonomy.hash,
        examples_hash=data_hash,
        counts=_counts(examples, fitted, kept, groups, taxonomy),
        settings=settings,
        rules=rules,
        rule_statements=calibration.RULE_STATEMENTS,
        calibration={
            "method": "Platt's sigmoid a topic; one temperature and a bias a stance; on out-of-fold scores, folded "
            "into the weights",
            "topics": {name: platt._asdict() for name, platt in zip(taxonomy.ids, topic_choice.platts, strict=True)},
            "stance": (
                {"slope": stance_choice.tempering.slope, "offset": stance_choice.tempering.offset.tolist()}
                if stance_choice
                else None
            ),
        },
        metrics=metrics,
        libraries={"python": platform.python_version(), **{name: library_version(name) for name in _LIBRARIES}},
        canaries=_canaries(scorer, fitted),
        files={},
    )
    drawn = report.draw(manifest, taxonomy, scorer.model, scores, curve)
    files[CARD] = report.model_card(manifest, taxonomy, warnings).encode()
    files[REPORT] = report.report_page(manifest, drawn, warnings).encode()
    directory = output if isinstance(output, Path) else output(manifest.version)
    if callable(output) and directory.exists():
        # The version is the digest of what scores, so this very model is there already; it becomes the newest.
        load_bundle(directory)
        os.utime(directory / MANIFEST)
    else:
        write_bundle(directory, manifest, files)
    tell(Progress("done", 1.0, str(directory), 0.0))
    return directory


def _steps(n_topics: int, n_folds: int) -> int:
    """Count the steps that a training tells: splitting, features, and every fit of a head."""
    out_of_fold = n_folds * (n_topics * len(TOPIC_GRID) + len(STANCE_GRID))
    return 2 + out_of_fold + (n_topics + 1) * len(CURVE_PARTS)


def _calibrated(
    features: NgramFeatures, parts: linear.Heads, platts: Sequence[calibration.Platt], stance: StanceChoice | None
) -> LinearModel:
    """Fold the calibration into the weights, so that serving needs no second step."""
    slopes, offsets = np.array(platts).T
    stance_weights, stance_bias = None, None
    if parts.stance_weights is not None and parts.stance_bias is not None and stance is not None:
        slope, offset = stance.tempering
        stance_weights = np.ascontiguousarray(parts.stance_weights * slope, dtype=np.float32)
        stance_bias = np.tile(parts.stance_bias * slope + offset, (len(slopes), 1))
    return LinearModel(
        features,
        np.ascontiguousarray(parts.topic_weights * slopes, dtype=np.float32),
        parts.topic_bias * slopes + offsets,
        stance_weights,
        stance_bias,
    )


def _learning_curve(
    fit: Callable[[NDArray[np.int64]], Scorer],
    fitted_groups: Sequence[str],
    kept: Sequence[Example],
    kept_groups: Sequence[str],
    taxonomy: Taxonomy,
    full: dict[str, Any],
) -> list[dict[str, float]]:
    """Measure fits on growing parts of the groups, under the calibration and thresholds of the whole."""
    order = splits.shuffled(fitted_groups)
    curve = []
    for part in CURVE_PARTS:
        count = round(part * len(order))
        if count < 2:
            continue
        metrics = full
        if part < 1:
            scores: Scores = score_examples(fit(np.sort(order[:count])), kept)
            metrics = measure(scores, taxonomy.ids, kept_groups)
        stance = metrics["stance"]["given_topic"]["macro_f1"]["value"] if "stance" in metrics else None
        topic = metrics["topics"]["macro"]["f1"]["value"]
        curve.append(
            {
                "paragraphs": count,
                "topic_macro_f1": np.nan if topic is None else topic,
                "stance_macro_f1": np.nan if stance is None else stance,
            }
        )
    return curve


def _counts(
    examples: Sequence[Example],
    fitted: Sequence[Example],
    kept: Sequence[Example],
    groups: Sequence[str],
    taxonomy: Taxonomy,
) -> dict[str, Any]:
    per_topic = {
        name: {
            "paragraphs": sum(name in example.topics for example in examples),
            **{stance: sum(example.topics.get(name) == stance for example in examples) for stance in STANCES},
        }
        for name in taxonomy.ids
    }
    return {
        "examples": len(examples),
        "groups": len(set(groups)),
        "fitted": len(fitted),
        "held_out": len(kept),
        "left_out_as_near_duplicates": len(examples) - len(fitted) - len(kept),
        "off_topic": sum(not example.topics for example in examples),
        "topics": per_topic,
    }


def _warnings(taxonomy: Taxonomy, labels: NDArray[np.bool_], pairs: linear.Pairs) -> list[str]:
    """Say what the examples are too few for."""
    warnings = []
    for index, topic in enumerate(taxonomy.topics):
        count = int(labels[:, index].sum())
        if count < 10:
            warnings.append(f"{topic.id}: {count} paragraphs to fit on; scores of this topic mean little.")
        elif topic.proposition:
            seen = np.bincount(pairs.stance[pairs.topic == index], minlength=len(STANCES))
            few = [name for name, number in zip(STANCES, seen, strict=True) if number < 5]
            if few:
                warnings.append(f"{topic.id}: fewer than 5 paragraphs to fit on for {', '.join(few)}.")
    return warnings


def _canaries(scorer: Scorer, fitted: Sequence[Example]) -> list[Canary]:
    """Take a few paragraphs, spread over the topics, with the scores they get now."""
    chosen: dict[str, Example] = {}
    for example in fitted:
        chosen.setdefault(next(iter(example.topics), ""), example)
    canaries = []
    for name, example in list(chosen.items())[:_CANARIES]:
        takes = bool(name) and scorer.takes_stance(name)
        canaries.append(
            Canary(
                text=example.text,
                topics=scorer.topic_scores([example.text])[0].tolist(),
                stance_topic=name if takes else None,
                stance=scorer.stance_scores([(example.text, name)])[0].tolist() if takes else None,
            )
        )
    return canaries
