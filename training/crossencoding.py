"""Fit the crossencoder family: fine-tune the pair model, and blend it with the heads on paragraphs neither has seen."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.crossencoder import ABSENT, Blend, CrossEncoder, CrossEncoderSpec, presence
from models.encoder import EncoderSpec
from models.errors import InvalidData
from models.examples import examples_hash
from models.linear import sigmoid, softmax
from training import linear, splits
from training.calibration import best_f1
from training.fitting import Choices, Material

FloatArray = NDArray[np.float64]
# One paragraph in so many stops the fine-tuning and fits the blend: whole documents, unless there are so few that those
# would be one or two voices, standing for all.
_HELD = 10
_FEW_DOCUMENTS = 50
# Part of the topics of all paragraphs that may lie out of the heads' reach.
_MISSED = 0.05
_AS_IT_IS = Blend(0.0, 1.0, [0.0])


class _Prior(NamedTuple):
    """What the slopes of a blend are drawn to, the heads' and the pair model's, and are with fewer than ``least``
    observations."""

    head: float
    pair: float
    least: int


# Heads are calibrated, and stand until enough has been seen of what a pair model adds to them. Of a topic without
# labels neither knows more than the other.
_HEADS = _Prior(1.0, 0.0, least=50)
_BOTH = _Prior(0.5, 0.5, least=1)


class Tuned(NamedTuple):
    """A pair model, and the file that its fine-tuning could be gone on from; whoever has written the model down deletes
    it."""

    pairs: CrossEncoder
    state: Path | None


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
) -> Tuned:
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

    from training.checkpoint import exported, load_body, positions
    from training.pairs import PairNet, Recipe, Tuning

    if not material.labels.any():
        raise InvalidData(["no paragraph has a topic: there is nothing that a pair model could be tuned on"])
    body = load_body(folder)
    recipe = Recipe(seed=seed, max_length=min(Recipe().max_length, positions(body.config.to_dict())))
    dealt = linear.Folds(splits.folds(held_with(material.groups), _HELD, seed), near)
    held, fitted = np.flatnonzero(dealt.scored[0]), np.flatnonzero(dealt.fitted[0])
    torch.manual_seed(seed)
    net = PairNet(body)
    examples = material.examples
    reach = _reach(choices.topic.scores, material.labels)
    possible = choices.topic.scores >= reach
    tuning = Tuning(
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
    state = cache / f"tuning-{hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16]}.pt" if cache else None
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
        zero_shot=_without_labels(material),
    )
    graph = exported(net, ("ids", "segments"))
    spec = _blended(spec, graph, tokenizer, material, choices, held)
    spec = _blended_alone(spec, tuning.strangers, tuning.first_sight, material, held)
    return Tuned(CrossEncoder(graph, tokenizer, spec, material.taxonomy), state)


def held_with(groups: Sequence[str]) -> Sequence[str]:
    """Return the name of what each paragraph is held out with: its document, or itself where there are few, or where
    one of them would be more than what is held."""
    sizes = Counter(groups).values()
    is_varied = len(sizes) >= _FEW_DOCUMENTS and max(sizes) * _HELD <= len(groups)
    return groups if is_varied else [str(row) for row in range(len(groups))]


def carried(pairs: CrossEncoder, tokenizer: bytes, material: Material) -> CrossEncoder:
    """Take an earlier pair model as it is, with its blend: none can be fitted on rows that it may have seen."""
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
    known = [topic for topic in range(len(material.taxonomy.topics)) if not reader.zero_shot[topic]]
    texts = [material.examples[row].text for row in held]
    logits = np.array([[reader.read(text, topic).logits for topic in known] for text in texts])
    scores, labels = choices.topic.scores[held][:, known], material.labels[held][:, known]
    heads = np.log(np.clip(scores, 1e-9, 1)) - np.log(np.clip(1 - scores, 1e-9, 1))
    found = np.apply_along_axis(presence, 2, logits)
    reached = scores >= spec.reach_from
    topic = _fit_topic(heads[reached], found[reached], labels[reached], _HEADS)
    inside, row, stance = _stances_of(material, held)
    column = np.searchsorted(known, material.pairs.topic[inside])
    calibrated = np.log(np.clip(choices.stance_scores[inside], 1e-9, 1))
    blend = _fit_stance(calibrated, logits[row, column, :ABSENT], stance, _HEADS)
    return msgspec.structs.replace(spec, topic=topic, stance=blend)


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
    inside, row, stance = _stances_of(material, held)
    strange = np.isin(material.pairs.topic[inside], strangers)
    column = np.searchsorted(strangers, material.pairs.topic[inside][strange])
    stances = logits[row[strange], column, :ABSENT]
    labels = material.labels[held][:, strangers].ravel()
    topic = _fit_topic(heads.ravel(), found.ravel(), labels, _BOTH)
    scores = sigmoid(topic.head * heads.ravel() + topic.pair * found.ravel() + topic.offset[0])
    return msgspec.structs.replace(
        spec,
        alone_topic=topic,
        # The rule for topics with labels, by the F1 that these reach; where there are none, what is likelier than not.
        alone_from=best_f1(scores, labels) / 2 if labels.any() else spec.alone_from,
        alone_stance=_alone(_fit_stance(np.zeros_like(stances), stances, stance[strange], _BOTH)),
    )


def _stances_of(
    material: Material, held: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return which pairs with a stance are of held rows, their rows' places among those, and their stances."""
    place = np.full(len(material.examples), -1)
    place[held] = np.arange(len(held))
    inside = np.flatnonzero(place[material.pairs.row] >= 0)
    return inside, place[material.pairs.row[inside]], material.pairs.stance[inside]


def _reach(scores: FloatArray, labels: NDArray[np.bool_]) -> float:
    return float(np.quantile(scores[labels], _MISSED)) if labels.any() else 0.0


def _alone(blend: Blend) -> Blend:
    return msgspec.structs.replace(blend, head=0.0)


def _fit_topic(heads: FloatArray, pairs: FloatArray, labels: NDArray[np.bool_], prior: _Prior) -> Blend:
    """Fit ``sigmoid(head * heads + pair * pairs + offset)`` to labels, arrays of shape (n,)."""
    present = np.stack([heads, pairs], axis=1)
    columns = np.stack([np.zeros_like(present), present], axis=2)
    head, pair, offset = _fit(columns, labels.astype(np.int64), prior)
    return Blend(head, pair, [float(offset[1] - offset[0])])


def _fit_stance(heads: FloatArray, pairs: FloatArray, stance: NDArray[np.int64], prior: _Prior) -> Blend:
    """Fit ``softmax(head * heads + pair * pairs + offset)`` to stances; logits of shape (n, 3)."""
    head, pair, offset = _fit(np.stack([heads, pairs], axis=1), stance, prior)
    return Blend(head, pair, offset.tolist())


def _fit(logits: FloatArray, gold: NDArray[np.int64], prior: _Prior) -> tuple[float, float, FloatArray]:
    """Fit two slopes, neither below 0, and an offset for each outcome, by log loss.

    Parameters
    ----------
    logits : ndarray of float64, shape (n, 2, n_outcomes)
        The heads', then the pair model's.
    gold : ndarray of int64, shape (n,)
    prior : _Prior
        The offsets are drawn to 0.
    """
    n, _, n_outcomes = logits.shape
    hot = np.eye(n_outcomes)[gold]
    start = np.array([prior.head, prior.pair, *np.zeros(n_outcomes)])
    if n < prior.least:
        return prior.head, prior.pair, start[2:]

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        p = softmax(np.einsum("k,nko->no", parameters[:2], logits) + parameters[2:])
        error, off = p - hot, parameters - start
        nll = -np.sum(np.log(np.maximum((p * hot).sum(axis=1), 1e-300)))
        gradient = np.concatenate([np.einsum("no,nko->k", error, logits), error.sum(axis=0)])
        # A normal prior of precision 1 keeps the offsets finite.
        return float(nll + 0.5 * (off @ off)) / (n + 1), (gradient + off) / (n + 1)

    bounds: Sequence[tuple[float | None, None]] = [(0.0, None)] * 2 + [(None, None)] * n_outcomes
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return float(found.x[0]), float(found.x[1]), found.x[2:]
