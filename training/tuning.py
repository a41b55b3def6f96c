"""Fit the tuned family: fine-tune an encoder, and put it beside the heads over n-grams.

The encoder is the mean of the weights of several that were fine-tuned from one start, each with other rows held back
and in another order (Wortsman et al. 2022, "Model soups", section 3). What each says of the rows that it has not seen
fits the blend.

A topic's logit is a blend of the heads' and of what the fine-tuned encoder says. Either is linear in its columns, so
the blend is one linear model over the n-grams and the embedding, and is served as the encoder family is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.crossencoder import Blend
from models.encoder import Encoder, EncoderFeatures, EncoderSpec, HeadBlend
from models.errors import InvalidData
from models.examples import STANCES, examples_hash
from models.features import NgramFeatures
from models.linear import LinearModel
from models.taxonomy import Taxonomy
from training import blending, splits
from training.embeddings import Embeddings
from training.fitting import Choices, Material

if TYPE_CHECKING:
    from training.texts import Layer

FloatArray = NDArray[np.float64]
# A fourth lowered the loss by a twentieth of what three did, and each takes another fine-tuning.
MEMBERS = 3
_ALONE = Blend(1.0, 0.0, [0.0])
_HEADS_ALONE = HeadBlend(1.0, 0.0, 1.0, [0.0] * len(STANCES))


class _Unseen(NamedTuple):
    """What fine-tuned encoders say of rows that they have not seen.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        None of them twice.
    topics : ndarray of float64, shape (n, n_topics)
        Logits.
    stances : ndarray of float64, shape (n, n_topics, 3)
        Logits.
    """

    rows: NDArray[np.int64]
    topics: FloatArray
    stances: FloatArray


class TunedEncoder(NamedTuple):
    """A fine-tuned encoder, whose specification says what is to be made of the heads, and what the blend takes of it.

    Attributes
    ----------
    encoder : Encoder
    embed : callable
        Embeds a text with it.
    topic_weights : ndarray of float64, shape (d, n_topics)
    stance_weights : ndarray of float64, shape (n_topics, d, 3)
    """

    encoder: Encoder
    embed: Callable[[str], FloatArray]
    topic_weights: FloatArray
    stance_weights: FloatArray

    def beside(self, heads: LinearModel, topics: tuple[str, ...]) -> LinearModel:
        """Return one model of `heads`, over n-grams alone, and of the encoder."""
        ngrams, blends = heads.features.ngrams, self.encoder.spec.tuned
        assert isinstance(ngrams, NgramFeatures) and blends is not None
        chosen = [blends[topic] for topic in topics]
        slope, offset = (np.array([getattr(blend, name) for blend in chosen]) for name in ("head", "offset"))
        stance_weights, stance_bias = None, None
        if heads.stance_weights is not None and heads.stance_bias is not None:
            stance_slope = np.array([blend.stance_head for blend in chosen])
            stance_bias = heads.stance_bias * stance_slope[:, np.newaxis] + [blend.stance_offset for blend in chosen]
            stance_weights = np.zeros((1 + len(topics), ngrams.size + self.encoder.spec.dimension, len(STANCES)), "f4")
            # What the topics share has one slope, and each topic's own weights make up for another.
            shared = heads.stance_weights[0] * stance_slope.max()
            stance_weights[0, : ngrams.size] = shared
            for topic, each in enumerate(stance_slope):
                whole = (heads.stance_weights[0] + heads.stance_weights[1 + topic]) * each
                stance_weights[1 + topic, : ngrams.size] = whole - shared
            stance_weights[1:, ngrams.size :] = self.stance_weights
        return LinearModel(
            EncoderFeatures(ngrams, self.encoder, self.embed),
            np.ascontiguousarray(np.concatenate([heads.topic_weights * slope, self.topic_weights]), dtype=np.float32),
            heads.topic_bias * slope + offset,
            stance_weights,
            stance_bias,
        )


def fit_encoder(
    material: Material,
    choices: Choices,
    near: splits.Near,
    folder: Path,
    spec: EncoderSpec,
    *,
    seed: int,
    cache: Path | None,
    threads: int,
    step: Callable[[float], None],
) -> tuple[TunedEncoder, list[Path]]:
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
    spec : EncoderSpec
        What is known of it.
    seed : int
    cache : path, optional
        A folder to keep the states of the fine-tunings in, so that they can be gone on with.
    threads : int
        Threads that embed a paragraph.
    step : callable
        Called now and then with the part that is done, in [0, 1].

    Returns
    -------
    TunedEncoder
    list of Path
        The files that the fine-tunings could be gone on from; whoever has written the model down deletes them.
    """
    import torch

    from training import finetuning
    from training.checkpoint import graph_of, load_body, tokenizer_of
    from training.texts import SETTINGS, TextNet, TextTuning, recipe_for

    tokenizer, texts = tokenizer_of(folder), [example.text for example in material.examples]
    if not material.labels.any():
        raise InvalidData(["no paragraph has a topic: there is nothing that an encoder could be tuned on"])

    def encoder_of(net: TextNet) -> Encoder:
        # Blended by graphs as they are served: what quantising changed is counted in.
        return Encoder(graph_of(net.body), tokenizer, spec, threads=threads)

    total: dict[str, torch.Tensor] = {}
    unseen, states = [], []
    ways = blending.parted(material, near, seed, MEMBERS)
    for number, (fitted, held) in enumerate(ways):
        recipe = recipe_for(len(fitted), max_length=spec.max_length, seed=MEMBERS * seed + number)
        # From another start a member would lie in another valley, and the mean on the ridge between.
        body = load_body(folder)
        torch.manual_seed(seed)
        net = TextNet(body, spec.pooling, len(material.taxonomy.ids))
        asked = [recipe, SETTINGS, spec, examples_hash(material.examples), material.taxonomy.hash, held.tolist()]
        state = finetuning.state_file(cache, "encoder", asked)
        shown, kept = ([material.examples[row] for row in rows] for rows in (fitted, held))
        tuning = TextTuning(net, tokenizer, material.taxonomy, shown, kept, recipe)
        tuning.run(partial(_part_of, step, number, len(ways)), state)
        member, layer = encoder_of(net), net.layer()
        unseen.append(_Unseen(held, *layer.logits(np.array([member.embed(texts[row]) for row in held]))))
        for name, value in net.state_dict().items():
            total[name] = total[name] + value if name in total else value.clone()
        states += [state] if state is not None else []
    net.load_state_dict({name: value / len(ways) for name, value in total.items()})
    together = _Unseen(*(np.concatenate(part) for part in zip(*unseen, strict=True)))
    return _blended(encoder_of(net), net.layer(), material, choices, together), states


def _part_of(step: Callable[[float], None], done: int, count: int, part: float) -> None:
    """Tell how far all of `count` are, where so many are done and a part of the next."""
    step((done + part) / count)


def _blended(encoder: Encoder, layer: Layer, material: Material, choices: Choices, unseen: _Unseen) -> TunedEncoder:
    """Fit one blend for all topics that have labels, and one for the stances toward them, on the unseen rows."""
    known, told = _labelled(material)
    held, logits, stances = unseen
    heads, labels = blending.log_odds(choices.topic.scores[held]), material.labels[held]
    topic = _ALONE
    # An absent topic tells little, and there are many.
    if labels.sum() >= blending.HEADS.least:
        topic = blending.fit_topic(
            heads[:, known].ravel(), logits[:, known].ravel(), labels[:, known].ravel(), blending.HEADS
        )
    inside, row, gold = blending.stances_of(material, held)
    calibrated = blending.log_likelihoods(choices.stance_scores[inside])
    # Of stances a net of few labels says next to nothing, and chance takes the slopes of both to 0.
    prior = blending.HEADS._replace(least=MEMBERS * blending.HEADS.least)
    stance = blending.fit_stance(calibrated, stances[row, material.pairs.topic[inside]], gold, prior)
    blends = {
        name: HeadBlend(
            topic.head,
            float(topic.pair * layer.topic_bias[place] + topic.offset[0]),
            stance.head,
            (stance.pair * layer.stance_bias[place] + stance.offset).tolist(),
        )
        for place, name in enumerate(material.taxonomy.ids)
    }
    weights = topic.pair * layer.topic_weights, stance.pair * layer.stance_weights
    return _made(encoder, blends, weights, known, told, material)


def carried(model: LinearModel, old: Taxonomy, material: Material) -> TunedEncoder:
    """Take an earlier model's encoder as it is, with its blend: none can be fitted on rows that it may have seen.

    Topics that it does not know, or that have no labels any more, are left to their heads, and so are stances, those
    toward a proposition that is another now too.
    """
    encoder, n_ngrams, ids = model.features.encoder, model.features.ngrams.size, material.taxonomy.ids
    assert encoder is not None and encoder.spec.tuned is not None
    known, told = _labelled(material)
    propositions = [topic.proposition for topic in material.taxonomy.topics]
    topic_weights = np.zeros((encoder.spec.dimension, len(ids)))
    stance_weights = np.zeros((len(ids), encoder.spec.dimension, len(STANCES)))
    for place, name in enumerate(ids):
        if name not in old.ids:
            continue
        before = old.ids.index(name)
        topic_weights[:, place] = model.topic_weights[n_ngrams:, before]
        if model.stance_weights is None or old.topics[before].proposition != propositions[place]:
            told[place] = False
        else:
            stance_weights[place] = model.stance_weights[1 + before, n_ngrams:]
    blends = {name: encoder.spec.tuned.get(name, _HEADS_ALONE) for name in ids}
    return _made(encoder, blends, (topic_weights, stance_weights), known, told, material)


def _labelled(material: Material) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which topics have labels, and which of them stances, each of shape (n_topics,)."""
    n_topics = len(material.taxonomy.ids)
    return np.asarray(material.labels.any(axis=0)), np.isin(np.arange(n_topics), material.pairs.topic)


def _made(
    encoder: Encoder,
    blends: dict[str, HeadBlend],
    weights: tuple[FloatArray, FloatArray],
    known: NDArray[np.bool_],
    told: NDArray[np.bool_],
    material: Material,
) -> TunedEncoder:
    """Leave topics that are not known, and stances that were not told, to their heads."""
    kept = {}
    for name, is_known, is_told in zip(material.taxonomy.ids, known, told, strict=True):
        topic, stance = (blends[name] if each else _HEADS_ALONE for each in (is_known, is_told))
        kept[name] = HeadBlend(topic.head, topic.offset, stance.stance_head, stance.stance_offset)
    tuned = Encoder(
        encoder.graph,
        encoder.tokenizer,
        msgspec.structs.replace(encoder.spec, tuned=kept),
        threads=encoder.threads,
    )
    topic_weights, stance_weights = weights
    # No file of embeddings: the next fine-tuning makes another encoder.
    return TunedEncoder(
        tuned, Embeddings(tuned, None), topic_weights * known, stance_weights * told[:, np.newaxis, np.newaxis]
    )
