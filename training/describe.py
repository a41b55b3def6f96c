"""What a bundle says of the model in it: its manifest, its model card and its report."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from typing import Any, NamedTuple

import msgspec
import numpy as np

from models.bundle import CARD, CROSS_ENCODER, ENCODER, FORMAT, HOLDOUT, REPORT, Canary, Manifest, content_files
from models.examples import STANCES, Example, examples_hash
from models.features import CHAR_NGRAMS, WORD_NGRAMS
from models.scorer import Scorer
from models.taxonomy import Taxonomy
from training import calibration, linear, report
from training.evaluation import Scores
from training.fitting import Choices, Material
from training.selection import STANCE_GRID, TOPIC_GRID, WIDE_STANCE_GRID, WIDE_TOPIC_GRID

_CANARIES = 4
_LIBRARIES = ("joblib", "numpy", "safetensors", "scikit-learn", "scipy")


class Corpus(NamedTuple):
    """All examples; ``kept`` are those held out, ``carried`` rows that an earlier model was measured on and that are
    not among the examples any more."""

    examples: list[Example]
    kept: list[Example]
    carried: list[Example]


class Measured(NamedTuple):
    """What was found out about a model and its labels; scores, metrics and curve are of the rows held out."""

    audit: dict[str, Any]
    scores: Scores | None
    metrics: dict[str, Any]
    curve: list[dict[str, float]]


def seal(
    family: str,
    material: Material,
    choices: Choices,
    scorer: Scorer,
    corpus: Corpus,
    measured: Measured,
    *,
    asked: Mapping[str, Any],
    parent: str | None,
    is_carried: bool,
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest, as yet without digests, and the files of a bundle.

    Parameters
    ----------
    family : str
    material, choices, scorer
        What was fitted.
    corpus : Corpus
    measured : Measured
    asked : mapping
        The settings that were asked for.
    parent : str, optional
        The champion's version.
    is_carried : bool
        Whether what is fine-tuned is the champion's.
    """
    taxonomy, (examples, kept, carried) = material.taxonomy, corpus
    settings = {
        **asked,
        "folds": choices.folds,
        "topic_c": choices.topic_c,
        "stance_c": choices.stance_c,
        "chosen_from": {"topic_c": TOPIC_GRID, "stance_c": STANCE_GRID, "by": "out-of-fold log loss"},
        **_wordings(choices, material),
        "min_df": linear.MIN_DF,
        "word_ngrams": WORD_NGRAMS,
        "char_ngrams": CHAR_NGRAMS,
    }
    files = content_files(taxonomy, scorer.model, scorer.pairs)
    if ENCODER in files:
        settings["encoder"] = msgspec.json.decode(files[ENCODER])
    if CROSS_ENCODER in files:
        settings["crossencoder"] = msgspec.json.decode(files[CROSS_ENCODER])
    if kept or carried:
        files[HOLDOUT] = msgspec.json.Encoder().encode_lines([*kept, *carried])
    data_hash = examples_hash(examples)
    # The version names what scores, how it decides, and what it was fitted and measured on.
    named = [*(files[name] for name in sorted(files)), msgspec.json.encode([choices.rules, settings, data_hash])]
    content = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in named)).hexdigest()
    version = f"{family}-{content[:12]}"
    manifest = Manifest(
        format=FORMAT,
        family=family,
        version=version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        # The same examples again make the champion itself, and nothing is its own parent.
        parent=parent if parent != version else None,
        taxonomy_hash=taxonomy.hash,
        examples_hash=data_hash,
        counts=_counts(examples, material, kept),
        settings=settings,
        rules=choices.rules,
        rule_statements=calibration.RULE_STATEMENTS,
        calibration=_calibration(taxonomy, choices),
        metrics=measured.metrics,
        libraries={"python": platform.python_version(), **{name: library_version(name) for name in _LIBRARIES}},
        canaries=_canaries(scorer, material.examples),
        files={},
        agreement=measured.audit["agreement"],
    )
    warnings = _warnings(material, choices)
    if is_carried:
        warnings.append(
            "What is fine-tuned was taken over from the version before, as it was: where that was fitted on rows that "
            "are held out only now, the metrics are too high."
        )
    encoder = scorer.model.features.encoder
    if scorer.pairs is not None or (encoder is not None and encoder.spec.tuned is not None):
        warnings.append(
            "Thresholds, bands and label agreement are those of the heads, out of fold; the scores are of the blend of "
            "those with what was fine-tuned."
        )
    if scorer.pairs is not None and scorer.pairs.spec.zero_shot:
        warnings.append(
            f"Without labels, and so scored by their wording alone: {', '.join(scorer.pairs.spec.zero_shot)}. Their "
            "threshold was fitted on other topics; nobody has checked it on these."
        )
    drawn = report.draw(manifest, taxonomy, scorer.model, measured.scores, measured.curve)
    files[CARD] = report.model_card(manifest, taxonomy, warnings, measured.audit).encode()
    files[REPORT] = report.report_page(manifest, drawn, warnings, measured.audit).encode()
    return manifest, files


def _calibration(taxonomy: Taxonomy, choices: Choices) -> dict[str, Any]:
    stance = choices.stance.tempering if choices.stance else None
    return {
        "method": "Platt's sigmoid a topic; one temperature and a bias a stance; on out-of-fold scores, folded into "
        "the weights",
        "topics": {name: platt._asdict() for name, platt in zip(taxonomy.ids, choices.topic.platts, strict=True)},
        "stance": {"slope": stance.slope, "offset": stance.offset.tolist()} if stance else None,
    }


def _counts(examples: Sequence[Example], material: Material, kept: Sequence[Example]) -> dict[str, Any]:
    per_topic = {
        name: {
            "paragraphs": sum(name in example.topics for example in examples),
            **{stance: sum(example.topics.get(name) == stance for example in examples) for stance in STANCES},
        }
        for name in material.taxonomy.ids
    }
    fitted = len(material.examples)
    return {
        "examples": len(examples),
        "groups": len({example.group for example in examples}),
        "fitted": fitted,
        "held_out": len(kept),
        "left_out_as_near_duplicates": len(examples) - fitted - len(kept),
        "off_topic": sum(not example.topics for example in examples),
        "topics": per_topic,
    }


def _wordings(choices: Choices, material: Material) -> dict[str, Any]:
    """Say whether heads lean to the topics' wordings, where they can: with a frozen encoder."""
    if material.wordings is None:
        return {}
    return {
        "topics_lean_to_wordings": choices.topic.is_wide,
        "topic_c_if_they_lean": WIDE_TOPIC_GRID,
        "stances_lean_to_wordings": choices.stance is not None and choices.stance.is_wide,
        "stance_c_if_they_lean": WIDE_STANCE_GRID,
        "stances_lean_unless": "plain columns have a lower log loss by more than its standard error",
    }


def _warnings(material: Material, choices: Choices) -> list[str]:
    """Say what the examples are too few for, or too much alike."""
    pairs = material.pairs
    warnings = []
    for index, topic in enumerate(material.taxonomy.topics):
        count = int(material.labels[:, index].sum())
        if count and choices.rules.topics[topic.id].threshold >= 1.0:
            warnings.append(
                f"{topic.id}: models that had not seen its documents could not tell it apart, so it is never present; "
                "more paragraphs, of more documents, are needed."
            )
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
