"""Fine-tune an encoder: a checkpoint that reads a paragraph alone, and tells its topics and the stance toward each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.examples import STANCES, Example
from models.taxonomy import Taxonomy
from training import linear
from training.finetuning import FineTuning, Net, Recipe, batches_in, batches_of, padded

# An embedding of norm 1 is multiplied by this before the head reads it.
_SCALE = 16.0
_DROPOUT = 0.1
# Rate of the head, which is new, in units of the top layer's.
_HEAD_RATE = 10.0
_UNTOLD = -100
# Epochs are as many as come nearest to so many batches, within these bounds.
_BATCHES = 800
_LEAST_EPOCHS, _MOST_EPOCHS = 2, 5
# What a net hangs on beside its recipe.
SETTINGS = (_SCALE, _DROPOUT, _HEAD_RATE)


def recipe_for(count: int, *, max_length: int, seed: int) -> Recipe:
    """Return how to fine-tune an encoder on so many paragraphs: of many the rate falls within fewer epochs, since in
    the third, at a rate that is still high, topics are learnt by heart."""
    epochs = round(_BATCHES / max(1, batches_in(count)))
    return Recipe(epochs=min(max(epochs, _LEAST_EPOCHS), _MOST_EPOCHS), max_length=max_length, seed=seed)


class Layer(NamedTuple):
    """What turns an embedding into logits, float64: of topics the weights, shape (d, n_topics), and the bias,
    (n_topics,); of stances the weights, (n_topics, d, 3), and the bias, (n_topics, 3)."""

    topic_weights: NDArray[np.float64]
    topic_bias: NDArray[np.float64]
    stance_weights: NDArray[np.float64]
    stance_bias: NDArray[np.float64]

    def logits(self, embeddings: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the logits of topics, (n, n_topics), and of stances, (n, n_topics, 3), for embeddings (n, d)."""
        stances = np.einsum("nd,tdk->ntk", embeddings, self.stance_weights) + self.stance_bias
        return embeddings @ self.topic_weights + self.topic_bias, stances


class TextNet(Net):
    """A transformer under a linear layer that reads the embedding, of norm 1, of a paragraph.

    Parameters
    ----------
    body : torch.nn.Module
        Of the checkpoint.
    pooling : "mean" or "cls"
        How the checkpoint makes an embedding of the tokens' states.
    n_topics : int
    """

    head: torch.nn.Linear

    def __init__(self, body: Any, pooling: Literal["mean", "cls"], n_topics: int) -> None:
        super().__init__()
        self.body, self.n_topics = body, n_topics
        # Of each topic its own logit, of the stances those of each topic, and of the stances what all topics share.
        self.head = torch.nn.Linear(body.config.hidden_size, n_topics * (1 + len(STANCES)) + len(STANCES))
        self._widths = [n_topics, n_topics * len(STANCES), len(STANCES)]
        self._is_mean = pooling == "mean"
        self._drop = torch.nn.Dropout(_DROPOUT)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of topics, shape (n, n_topics), and of stances, (n, n_topics, 3); ids and mask are int64 of
        shape (n, n_tokens)."""
        states = self.body(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        embedding = (states * mask.unsqueeze(-1)).sum(1) if self._is_mean else states[:, 0]
        logits = self.head(self._drop(_SCALE * torch.nn.functional.normalize(embedding, dim=1)))
        topics, own, shared = logits.split(self._widths, dim=1)
        return topics, own.view(-1, self.n_topics, len(STANCES)) + shared.unsqueeze(1)

    def layer(self) -> Layer:
        """Return the head, as what reads an embedding of norm 1."""
        borders = np.cumsum(self._widths[:2])
        weight, bias = (each.detach().cpu().double().numpy() for each in (self.head.weight, self.head.bias))
        topics, own, shared = np.split(_SCALE * weight, borders)
        topic_bias, own_bias, shared_bias = np.split(bias, borders)
        stances = own.reshape(self.n_topics, len(STANCES), -1) + shared
        return Layer(topics.T, topic_bias, stances.transpose(0, 2, 1), own_bias.reshape(-1, len(STANCES)) + shared_bias)


class TextTuning(FineTuning):
    """The fine-tuning of one encoder.

    Parameters
    ----------
    net : TextNet
    tokenizer : bytes
        A ``tokenizer.json``.
    taxonomy : Taxonomy
    fitted, held : sequence of Example
        What to fit on, and what to stop early by.
    recipe : Recipe
    """

    def __init__(
        self,
        net: TextNet,
        tokenizer: bytes,
        taxonomy: Taxonomy,
        fitted: Sequence[Example],
        held: Sequence[Example],
        recipe: Recipe,
    ) -> None:
        super().__init__(net, recipe, batches_in(len(fitted)), head_rate=_HEAD_RATE)
        opened = Tokenizer.from_buffer(tokenizer)
        opened.no_padding()
        opened.enable_truncation(recipe.max_length)
        self._sides = [
            (
                list(opened.encode_batch([example.text for example in side])),
                torch.from_numpy(linear.topic_labels(side, taxonomy.ids).reshape(len(side), len(taxonomy.ids))).float(),
                _stances(side, taxonomy),
            )
            for side in (fitted, held)
        ]

    def _fitted_batches(self, epoch: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        for rows in batches_of(self._sides[0][0], self._draw(epoch)):
            yield 0, rows

    def _held_batches(self) -> Iterator[tuple[tuple[int, NDArray[np.int64]], int]]:
        for rows in batches_of(self._sides[1][0], None):
            yield (1, rows), len(rows)

    def _loss(self, batch: tuple[int, NDArray[np.int64]]) -> torch.Tensor:
        """Return what the topics of a paragraph cost, all together, and what a stance costs, each in the mean over the
        batch: a batch of few stances counts each of them for more."""
        side, rows = batch
        tokens, labels, stances = self._sides[side]
        ids, _, mask = (each.to(self._device) for each in padded([tokens[row] for row in rows]))
        with self._autocast():
            topic, stance = self._net(ids, mask)
        asked = labels[rows].to(self._device)
        cost = torch.nn.functional.binary_cross_entropy_with_logits(topic.float(), asked, reduction="sum") / len(rows)
        told = stances[rows].to(self._device).flatten()
        likelihood = torch.nn.functional.cross_entropy(
            stance.float().flatten(0, 1), told, ignore_index=_UNTOLD, reduction="sum"
        )
        return cost + likelihood / (told != _UNTOLD).sum().clamp(min=1)


def _stances(examples: Sequence[Example], taxonomy: Taxonomy) -> torch.Tensor:
    """Return each paragraph's stance toward each topic, int64 of shape (n, n_topics)."""
    pairs = linear.stance_pairs(examples, taxonomy.ids)
    found = np.full((len(examples), len(taxonomy.ids)), _UNTOLD)
    found[pairs.row, pairs.topic] = pairs.stance
    return torch.from_numpy(found)
