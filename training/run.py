"""One training: examples in, a bundle out, with its progress told on the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from models.bundle import FAMILIES, MANIFEST, Manifest, load_bundle, write_bundle
from models.errors import BundleError, InvalidData
from models.examples import Example, read_examples
from models.linear import FAMILY
from models.scorer import Scorer
from models.taxonomy import Taxonomy, read_taxonomy
from training import calibration, fitting, splits
from training.audit import OutOfFold, audit
from training.describe import Corpus, Measured, seal
from training.evaluation import measure, score_examples
from training.gate import Champion, Gate, fits, judge, load_champion
from training.progress import Progress, Teller

if TYPE_CHECKING:
    from models.crossencoder import CrossEncoder
    from models.encoder import EncoderSpec
    from training import crossencoding
    from training.embeddings import Embeddings
    from training.tuning import TunedEncoder

TUNED_FAMILY, CROSS_FAMILY = "tuned", "crossencoder"
# Whose heads have a checkpoint's embeddings among their columns.
_FROZEN = ("encoder", CROSS_FAMILY)
# Of which a part is fine-tuned on labels.
_TUNED = (TUNED_FAMILY, CROSS_FAMILY)
# What fine-tuning takes, in units of all else that a training does, on processors: forty to a hundred and more.
_LONG = 60


@dataclass(frozen=True)
class Options:
    """How to train. ``holdout`` is the part of the groups that is only measured on; ``jobs`` processes fit heads.

    The encoder family takes its ``encoder`` from a checkpoint, a folder or ``owner/name@revision`` which is fetched if
    ``online``, or where none is named from the champion. The tuned family fine-tunes it; the crossencoder family has it
    as it is, and a pair model fine-tuned from the same checkpoint. What was fine-tuned is taken from the champion where
    no checkpoint is named. What is made of each text alone, counts of its n-grams and its embedding, is kept in the
    folder ``cache``, and a fine-tuning that was interrupted goes on from what lies there.
    """

    family: str = FAMILY
    holdout: float = 0.1
    folds: int = 5
    seed: int = 0
    jobs: int = os.cpu_count() or 1
    encoder: str | None = None
    online: bool = False
    cache: Path | None = None


class Trained(NamedTuple):
    """What a training made: the bundle's folder and version, what its labels look like (:mod:`training.audit`), and
    whether it may take the champion's place, None where there was no champion."""

    directory: Path
    version: str
    audit: dict[str, Any]
    gate: Gate | None


def train(
    examples_path: str | Path,
    taxonomy_path: str | Path,
    output: Path | Callable[[str], Path],
    options: Options | None = None,
    tell: Callable[[Progress], None] = lambda _: None,
    champion: str | Path | None = None,
) -> Path:
    """Do what :func:`run` does, and return the bundle's folder alone."""
    return run(examples_path, taxonomy_path, output, options, tell, champion).directory


def run(
    examples_path: str | Path,
    taxonomy_path: str | Path,
    output: Path | Callable[[str], Path],
    options: Options | None = None,
    tell: Callable[[Progress], None] = lambda _: None,
    champion: str | Path | None = None,
) -> Trained:
    """Fit a classifier, write it as a bundle, and judge it.

    Parameters
    ----------
    examples_path, taxonomy_path : path
    output : Path, or a function of the new version's name
        The bundle's folder. It must not hold anything yet.
    options : Options, optional
    tell : callable
        Receives a Progress now and then.
    champion : path, optional
        The bundle to beat. No row that it was measured on is fitted on.

    Raises
    ------
    InvalidData
        With every fault of the taxonomy or of the examples; nothing was fitted then.
    BundleError
        If the output folder is in use, or the champion is missing or damaged.
    """
    options = options or Options()
    if options.family not in FAMILIES:
        raise InvalidData([f"family: {options.family!r} is not one of {', '.join(FAMILIES)}"])
    if options.family == FAMILY and options.encoder is not None:
        raise InvalidData([f"encoder: the {FAMILY} family has none; name another family, or no checkpoint"])
    if isinstance(output, Path) and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise BundleError(f"{output}: exists already, and a bundle is never changed once written; name a new folder")
    taxonomy = read_taxonomy(taxonomy_path)
    examples = read_examples(examples_path, taxonomy)
    beaten = load_champion(champion) if champion is not None else None
    if options.encoder is None:
        _check_champion(options.family, beaten)
    # Beside the fits there are splitting and features.
    is_tuned = options.family in _TUNED
    steps = fitting.steps(
        len(taxonomy.topics), options.folds, has_encoder=options.family in _FROZEN, has_curve=not is_tuned
    )
    teller = Teller(tell, total=2 + steps, long=_LONG * steps if is_tuned and options.encoder else 0)

    teller.phase("split", f"{len(examples):,} examples: splitting by document, looking for near-duplicates")
    frozen = beaten.rows if beaten else []
    groups = [example.group for example in examples]
    texts = [example.text for example in examples]
    split = splits.split(texts, groups, options.holdout, [example.text for example in frozen])
    kept = list(compress(examples, split.held))
    teller.step()
    embeddings = _embeddings(options, beaten, teller) if options.family in _FROZEN else None
    checkpoint = _checkpoint(options, teller) if options.family == TUNED_FAMILY and options.encoder else None
    fitted = list(compress(examples, split.fitted))
    if len({example.group for example in fitted}) < 2:
        counts = f"{len(kept):,} are held out, and {len(examples) - len(kept) - len(fitted):,} repeat one of those"
        raise InvalidData([f"{examples_path}: fewer than two documents to fit on, which calibration needs; {counts}"])
    material = _material(fitted, taxonomy, embeddings, options, teller)

    choices, found = _choose(material, examples, split, options, teller)
    pairs, tuned = None, None
    states: list[Path] = []
    if options.family == TUNED_FAMILY:
        tuned, states = _tuned_encoder(material, choices, split, options, checkpoint, beaten, teller)
    if options.family == CROSS_FAMILY:
        pairs, states = _pair_model(material, choices, split, options, beaten, teller)
        choices = choices._replace(
            rules=calibration.rules_with_zero_shot(choices.rules, pairs.spec.zero_shot, pairs.spec.alone_from)
        )
    if is_tuned:
        teller.whole()
    scorer, measured = _fit(material, choices, kept, found, pairs, tuned, options, teller)
    teller.phase("write", "drawing the report and writing the bundle")
    manifest, files = seal(
        options.family,
        material,
        choices,
        scorer,
        Corpus(examples, kept, _carried(frozen, examples, taxonomy)),
        measured,
        asked={"holdout": options.holdout, "seed": options.seed},
        parent=beaten.bundle.manifest.version if beaten else None,
        is_carried=options.encoder is None and is_tuned,
    )
    directory = _write(manifest, files, output)
    for state in states:
        state.unlink(missing_ok=True)
    gate = None
    if beaten is not None:
        teller.phase("gate", f"judging against {beaten.bundle.manifest.version}")
        # The champion may have been fitted on what a row that is held out now repeats.
        repeating = splits.shadows(split.near, ~split.held)[split.held]
        gate = judge(beaten, scorer, manifest, list(compress(kept, ~repeating)), seed=options.seed)
    verdict = "" if gate is None else ", passed the gate" if gate.passed else ", rejected by the gate"
    teller.done(
        f"{manifest.version}{verdict}",
        version=manifest.version,
        bundle=str(directory),
        gate=msgspec.to_builtins(gate),
    )
    return Trained(directory, manifest.version, found, gate)


def _check_champion(family: str, champion: Champion | None) -> None:
    """Raise InvalidData where a family needs a checkpoint, and the champion has none that would do."""
    allowed = (FAMILY,) if champion is None else champion.bundle.scorer.families
    if family not in allowed:
        beside = "" if champion is None else f" from {champion.bundle.manifest.version}"
        told = f"without one can be fitted{beside}: {', '.join(allowed)}"
        raise InvalidData([f"encoder: to fit the {family} family, name a checkpoint; {told}"])


def _carried(frozen: Sequence[Example], examples: Sequence[Example], taxonomy: Taxonomy) -> list[Example]:
    """Return the rows that an earlier model was measured on and that are not among the examples any more."""
    present = {splits.folded(example.text) for example in examples}
    taken = {example.id for example in examples}
    gone = [example for example in frozen if splits.folded(example.text) not in present and fits(example, taxonomy)]
    # By now another text may be called so.
    return [
        msgspec.structs.replace(example, id=f"{example.id}-{hashlib.sha256(example.text.encode()).hexdigest()[:16]}")
        if example.id in taken
        else example
        for example in gone
    ]


def _embeddings(options: Options, champion: Champion | None, teller: Teller) -> Embeddings:
    from training.embeddings import Embeddings

    teller.phase("encoder", f"bringing in {options.encoder}" if options.encoder else "taking the champion's encoder")
    if options.encoder is not None:
        from training.checkpoint import load_encoder

        encoder = load_encoder(options.encoder, online=options.online, threads=options.jobs)
    else:
        assert champion is not None and champion.bundle.scorer.model.features.encoder is not None
        encoder = champion.bundle.scorer.model.features.encoder
    return Embeddings(encoder, options.cache)


def _checkpoint(options: Options, teller: Teller) -> tuple[Path, EncoderSpec]:
    """Look at the checkpoint, before hours are spent on what comes before its fine-tuning."""
    from training.checkpoint import described, require

    assert options.encoder is not None
    teller.phase("encoder", f"bringing in {options.encoder}")
    require()
    return described(options.encoder, online=options.online)


def _pair_model(
    material: fitting.Material,
    choices: fitting.Choices,
    split: splits.Split,
    options: Options,
    champion: Champion | None,
    teller: Teller,
) -> crossencoding.FittedPairs:
    # Only here: the linear family is fitted without the runtime.
    from training import crossencoding
    from training.checkpoint import folder_of

    encoder = material.features.encoder
    assert encoder is not None
    if options.encoder is None:
        assert champion is not None and champion.bundle.scorer.pairs is not None
        teller.phase("tune", "taking the champion's pair model")
        return crossencoding.FittedPairs(
            crossencoding.carried(champion.bundle.scorer.pairs, encoder.tokenizer, material), []
        )
    folder, _ = folder_of(options.encoder, options.online)
    teller.phase("tune", f"fine-tuning {folder.name} on pairs of propositions and paragraphs")
    return crossencoding.fit_pairs(
        material,
        choices,
        split.near.among(split.fitted),
        folder,
        encoder.spec,
        encoder.tokenizer,
        seed=options.seed,
        cache=options.cache,
        step=teller.part,
    )


def _tuned_encoder(
    material: fitting.Material,
    choices: fitting.Choices,
    split: splits.Split,
    options: Options,
    checkpoint: tuple[Path, EncoderSpec] | None,
    champion: Champion | None,
    teller: Teller,
) -> tuple[TunedEncoder, list[Path]]:
    from training import tuning

    if checkpoint is None:
        assert champion is not None
        teller.phase("tune", "taking the champion's fine-tuned encoder")
        old = champion.bundle
        return tuning.carried(old.scorer.model, old.taxonomy, material), []
    folder, spec = checkpoint
    teller.phase("tune", f"fine-tuning {folder.name} on paragraphs")
    return tuning.fit_encoder(
        material,
        choices,
        split.near.among(split.fitted),
        folder,
        spec,
        seed=options.seed,
        cache=options.cache,
        threads=options.jobs,
        step=teller.part,
    )


def _material(
    fitted: list[Example],
    taxonomy: Taxonomy,
    embeddings: Embeddings | None,
    options: Options,
    teller: Teller,
) -> fitting.Material:
    beside = " and embedding them" if embeddings is not None else ""
    teller.phase("features", f"counting n-grams of {len(fitted):,} paragraphs{beside}")
    material = fitting.prepare(fitted, taxonomy, embeddings, options.cache)
    teller.step()
    return material


def _choose(
    material: fitting.Material, examples: list[Example], split: splits.Split, options: Options, teller: Teller
) -> tuple[fitting.Choices, dict[str, Any]]:
    """Make the choices on out-of-fold scores, and look the labels through by the same scores."""
    teller.phase("calibrate", "scoring each paragraph by models that have not seen it")
    near = split.near.among(split.fitted)
    choices = fitting.choose(
        material, near, folds=options.folds, seed=options.seed, jobs=options.jobs, step=teller.step
    )
    topics = material.taxonomy.ids
    thresholds = np.array([choices.rules.topics[name].threshold for name in topics])
    seen = OutOfFold(
        material.examples, choices.topic.scores, material.labels, thresholds, material.pairs, choices.stance_scores
    )
    found = audit(examples, split.near, seen, topics)
    counts = (found[part]["count"] for part in ("likely_mislabels", "conflicts", "near_duplicates"))
    message = "{:,} likely mislabels, {:,} texts labelled twice and differently, {:,} near-duplicates that are"
    teller.phase("audit", message.format(*counts), audit=found)
    return choices, found


def _fit(
    material: fitting.Material,
    choices: fitting.Choices,
    kept: list[Example],
    found: dict[str, Any],
    pairs: CrossEncoder | None,
    tuned: TunedEncoder | None,
    options: Options,
    teller: Teller,
) -> tuple[Scorer, Measured]:
    """Fit the model that is shipped, and measure it."""
    taxonomy = material.taxonomy
    fit = partial(fitting.fit, material, choices, jobs=options.jobs, step=teller.step)
    paragraphs = f"{len(material.examples):,} paragraphs"
    teller.phase("fit", f"fitting {len(taxonomy.topics)} topics and their stances on {paragraphs}")
    scorer = fit(pairs=pairs, tuned=tuned)
    if not kept:
        return scorer, Measured(found, None, {}, [])
    scores = score_examples(scorer, kept)
    metrics = measure(scores, taxonomy.ids, [example.group for example in kept], seed=options.seed)
    if pairs is not None or tuned is not None:
        # A point of the curve would take a fine-tuning of its own.
        return scorer, Measured(found, scores, metrics, [])
    teller.phase("curve", "fitting on parts of the examples for the learning curve")
    return scorer, Measured(found, scores, metrics, fitting.learning_curve(fit, material, kept, metrics))


def _write(manifest: Manifest, files: dict[str, bytes], output: Path | Callable[[str], Path]) -> Path:
    if isinstance(output, Path):
        write_bundle(output, manifest, files)
        return output
    directory = output(manifest.version)
    if directory.exists():
        # The version is the digest of what was fitted and of what it was fitted on, so it is there already; it becomes
        # the newest.
        load_bundle(directory)
        os.utime(directory / MANIFEST)
    else:
        write_bundle(directory, manifest, files)
    return directory
