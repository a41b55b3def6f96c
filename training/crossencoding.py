"""Fit the crossencoder family: fine-tune the pair model, and blend it with the heads on paragraphs neither has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.crossencoder import ABSENT, Blend, CrossEncoder, CrossEncoderSpec, presence, wording
from models.encoder import EncoderSpec
from models.errors import InvalidData
from models.examples import examples_hash
from models.linear import sigmoid
from training import blending, splits
from training.calibration import threshold_of
from training.fitting import Choices, Material

FloatArray = NDArray[np.float64]
# Part of the topics of all paragraphs that may lie out of the heads' reach.
_MISSED = 0.05
_AS_IT_IS = Blend(0.0, 1.0, [0.0])


class FittedPairs(NamedTuple):
    """A pair model, and the files that its fine-tuning could be gone on from, which whoever has written the model down
    deletes."""

    pairs: CrossEncoder
    states: list[Path]


def fit_pairs(
    material: Material,
    choices: Choices,
    near: splits.Near,
    folder: Path,
    encoder: EncoderSpec,
    tokenizer: bytes,
    *,
    seed: int,
    cache: Path | None,
    step: Callable[[float], None],
) -> FittedPairs:
    """Fine-tune a checkpoint on the material, and blend it with the heads.

    Parameters
    ----------
    material : Material
    choices : Choices
        Their out-of-fold scores stand for the heads on the paragraphs that the blend is fitted on.
    near : Near
        Copies and near-duplicates among the rows.
    folder : Path
        The checkpoint, checked.
    encoder : EncoderSpec
        What is known of it.
    tokenizer : bytes
    seed : int
    cache : path, optional
        A folder to keep the state of the fine-tuning in, so that it can be gone on with.
    step : callable
        Called now and then with the part that is done, in [0, 1].
    """
    import torch

    from training import finetuning
    from training.checkpoint import exported, load_body, positions
    from training.pairs import PairNet, PairRecipe, PairTuning

    if not material.labels.any():
        raise InvalidData(["no paragraph has a topic: there is nothing that a pair model could be tuned on"])
    body = load_body(folder)
    recipe = PairRecipe(seed=seed, max_length=min(PairRecipe().max_length, positions(body.config.to_dict())))
    ((fitted, held),) = blending.parted(material, near, seed, 1)
    torch.manual_seed(seed)
    net = PairNet(body)
    examples = material.examples
    reach = _reach(choices.topic.scores, material.labels)
    possible = choices.topic.scores >= reach
    tuning = PairTuning(
        net,
        tokenizer,
        material.taxonomy,
        [examples[row] for row in fitted],
        [examples[row] for row in held],
        (possible[fitted], possible[held]),
        recipe,
    )
    seen = hashlib.sha256(np.packbits(possible).tobytes() + held.tobytes() + tokenizer).hexdigest()
    asked = [recipe, encoder.digests, examples_hash(examples), material.taxonomy.hash, seen]
    state = finetuning.state_file(cache, "pairs", asked)
    tuning.run(step, state)
    spec = CrossEncoderSpec(
        source=encoder.source,
        revision=encoder.revision,
        architecture=encoder.architecture,
        max_length=recipe.max_length,
        digests=encoder.digests,
        reach_from=reach,
        topic=_AS_IT_IS,
        stance=_AS_IT_IS,
        alone_topic=_AS_IT_IS,
        alone_stance=_AS_IT_IS,
        known={
            topic.id: wording(topic)
            for topic, labels in zip(material.taxonomy.topics, material.labels.T, strict=True)
            if labels.any()
        },
        zero_shot=_without_labels(material),
    )
    graph = exported(net, ("ids", "segments"))
    spec = _blended(spec, graph, tokenizer, material, choices, held)
    spec = _blended_alone(spec, tuning.strangers, tuning.first_sight, material, held)
    return FittedPairs(CrossEncoder(graph, tokenizer, spec, material.taxonomy), [state] if state is not None else [])


def carried(pairs: CrossEncoder, tokenizer: bytes, material: Material) -> CrossEncoder:
    """Take an earlier pair model as it is, with its blend: none can be fitted on rows that it may have seen.

    Topics that it was not tuned on, or whose wording is another now, are left to their heads once they have labels.
    """
    spec = msgspec.structs.replace(pairs.spec, zero_shot=_without_labels(material))
    return CrossEncoder(pairs.graph, tokenizer, spec, material.taxonomy)


def _without_labels(material: Material) -> list[str]:
    topics = zip(material.taxonomy.topics, material.labels.T, strict=True)
    return [topic.id for topic, labels in topics if topic.proposition and not labels.any()]


def _blended(
    spec: CrossEncoderSpec,
    graph: bytes,
    tokenizer: bytes,
    material: Material,
    choices: Choices,
    held: NDArray[np.int64],
) -> CrossEncoderSpec:
    """Fit the blends of labelled topics on the held rows, by the graph that is served: what quantising changed is
    counted in."""
    reader = CrossEncoder(graph, tokenizer, spec, material.taxonomy)
    scores, labels = choices.topic.scores[held], material.labels[held]
    reached = reader.in_reach(scores) & ~reader.zero_shot
    inside, row, stance = blending.stances_of(material, held)
    column = material.pairs.topic[inside]
    asked = reached.copy()
    asked[row, column] = True
    logits = np.zeros((*labels.shape, ABSENT + 1))
    for place, topic in np.argwhere(asked).tolist():
        logits[place, topic] = reader.read(material.examples[held[place]].text, topic).logits
    found = np.apply_along_axis(presence, 2, logits)
    of_topic = blending.fit_topic(blending.log_odds(scores)[reached], found[reached], labels[reached], blending.HEADS)
    calibrated = blending.log_likelihoods(choices.stance_scores[inside])
    blend = blending.fit_stance(calibrated, logits[row, column, :ABSENT], stance, blending.HEADS)
    return msgspec.structs.replace(spec, topic=of_topic, stance=blend)


def _blended_alone(
    spec: CrossEncoderSpec,
    strangers: NDArray[np.int64],
    logits: FloatArray,
    material: Material,
    held: NDArray[np.int64],
) -> CrossEncoderSpec:
    """Fit the blends of topics without labels, on topics that the pair model had not been tuned on.

    Parameters
    ----------
    spec : CrossEncoderSpec
    strangers : ndarray of int64, shape (n_strangers,)
        Those topics.
    logits : ndarray of float64, shape (n_held, n_strangers, 4)
        What the pair model found then.
    material : Material
    held : ndarray of int64, shape (n_held,)
    """
    assert material.wordings is not None
    known = material.labels.copy()
    known[:, strangers] = False
    slope, offset = material.wordings.zero_shot(material.matrix, known)
    heads = slope * material.wordings.likeness(material.matrix[held])[:, strangers] + offset
    found = np.apply_along_axis(presence, 2, logits) if logits.size else heads
    inside, row, stance = blending.stances_of(material, held)
    strange = np.isin(material.pairs.topic[inside], strangers)
    column = np.searchsorted(strangers, material.pairs.topic[inside][strange])
    stances = logits[row[strange], column, :ABSENT]
    labels = material.labels[held][:, strangers].ravel()
    topic = blending.fit_topic(heads.ravel(), found.ravel(), labels, blending.BOTH)
    scores = sigmoid(topic.head * heads.ravel() + topic.pair * found.ravel() + topic.offset[0])
    return msgspec.structs.replace(
        spec,
        alone_topic=topic,
        # The rule for labelled topics, by the F1 that these reach; where it tells nothing, what is likelier than not.
        alone_from=threshold_of(scores, labels, spec.alone_from),
        alone_stance=_alone(blending.fit_stance(np.zeros_like(stances), stances, stance[strange], blending.BOTH)),
    )


def _reach(scores: FloatArray, labels: NDArray[np.bool_]) -> float:
    return float(np.quantile(scores[labels], _MISSED))


def _alone(blend: Blend) -> Blend:
    return msgspec.structs.replace(blend, head=0.0)
