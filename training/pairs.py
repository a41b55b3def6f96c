"""Fine-tune the pair model: a checkpoint that reads a topic's wording and a paragraph together.

One softmax over where the paragraph stands and whether the topic is absent. Since the wording is read, not numbered, a
topic that has no labels can be scored too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.crossencoder import ABSENT, open_tokenizer, wording
from models.examples import STANCES, Example
from models.taxonomy import Taxonomy
from training.finetuning import FineTuning, Net, Recipe, batches_in, batches_of, padded

# The class of a pair whose topic is present and whose stance nobody told.
PRESENT = ABSENT + 1


class PairRecipe(Recipe, frozen=True):
    """How to fine-tune a pair model.

    Of the topics that a paragraph does not have it is shown with ``likely`` of those that the heads take for possible,
    and with ``absent`` of all, others in each epoch. One labelled topic in so many as ``strange`` says is kept from the
    first epoch, which shows how far a wording alone can be trusted.
    """

    strange: int = 4
    absent: int = 1
    likely: int = 2


class Pair(NamedTuple):
    """Places of a topic in the taxonomy, a paragraph among the examples, and a class: a stance's, ``ABSENT`` or
    ``PRESENT``."""

    topic: int
    row: int
    label: int


class PairNet(Net):
    """A transformer under a linear layer; the logits are the sum of the shares that it gives the tokens.

    Parameters
    ----------
    body : torch.nn.Module
        Of the checkpoint.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.head = torch.nn.Linear(body.config.hidden_size, ABSENT + 1)
        self.knows_segments = getattr(body.config, "type_vocab_size", 0) > 1

    def forward(self, ids: torch.Tensor, segments: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return each token's share of the logits, shape (n, n_tokens, 4), for int64 inputs of shape (n, n_tokens)."""
        named = {"token_type_ids": segments} if self.knows_segments else {}
        states = self.body(input_ids=ids, attention_mask=mask, **named).last_hidden_state
        shares: torch.Tensor = self.head(states)
        if mask is None:
            return shares / ids.shape[1]
        weights = mask.unsqueeze(-1).to(shares.dtype)
        return shares * weights / weights.sum(1, keepdim=True)


def labelled_topics(taxonomy: Taxonomy, examples: Sequence[Example]) -> dict[str, int]:
    """Return the topics that some example has, by their place. One that nobody looked for is absent from nowhere."""
    labelled = {name for example in examples for name in example.topics}
    return {name: place for place, name in enumerate(taxonomy.ids) if name in labelled}


def labelled_pairs(
    examples: Sequence[Example],
    possible: NDArray[np.bool_],
    position: Mapping[str, int],
    recipe: PairRecipe,
    rng: np.random.Generator,
) -> list[Pair]:
    """Return a pair for each topic of a paragraph, and for some that it lacks, drawn by `rng`.

    Parameters
    ----------
    examples : sequence of Example, length n
    possible : ndarray of bool, shape (n, n_topics)
        Which topics the heads have in reach.
    position : mapping of str to int
        What :func:`labelled_topics` gives for all examples.
    recipe : PairRecipe
    rng : Generator
    """
    pairs = []
    for row, example in enumerate(examples):
        pairs += [
            Pair(position[topic], row, PRESENT if stance is None else STANCES.index(stance))
            for topic, stance in example.topics.items()
        ]
        without = np.array([place for name, place in position.items() if name not in example.topics], dtype=np.int64)
        likely = rng.permutation(without[possible[row, without]])[: recipe.likely]
        others = rng.permutation(np.setdiff1d(without, likely))[: recipe.absent]
        pairs += [Pair(int(place), row, ABSENT) for place in (*likely, *others)]
    return pairs


class PairTuning(FineTuning):
    """The fine-tuning of one pair model.

    Parameters
    ----------
    net : PairNet
    tokenizer : bytes
        A ``tokenizer.json``.
    taxonomy : Taxonomy
    fitted, held : sequence of Example
        What to fit on, and what to stop early by.
    possible : two ndarrays of bool, shape (n_fitted, n_topics) and (n_held, n_topics)
        Which topics the heads have in reach.
    recipe : PairRecipe

    Attributes
    ----------
    strangers : ndarray of int64, shape (n_strangers,)
        The topics that are kept from the first epoch, by their place in the taxonomy.
    """

    _recipe: PairRecipe

    def __init__(
        self,
        net: PairNet,
        tokenizer: bytes,
        taxonomy: Taxonomy,
        fitted: Sequence[Example],
        held: Sequence[Example],
        possible: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        recipe: PairRecipe,
    ) -> None:
        self._recipe = recipe
        self._position = labelled_topics(taxonomy, [*fitted, *held])
        self._fitted, self._held = (fitted, possible[0]), (held, possible[1])
        self._tokenizer = open_tokenizer(tokenizer, recipe.max_length)
        self._wordings = [wording(topic) for topic in taxonomy.topics]
        places = np.array(list(self._position.values()), dtype=np.int64)
        chosen = np.random.default_rng(recipe.seed).permutation(places)[: len(places) // recipe.strange]
        self.strangers: NDArray[np.int64] = np.sort(chosen)
        pairs, _ = self._pairs(self._fitted, self._draw(0))
        super().__init__(net, recipe, batches_in(len(pairs)))
        self._weights = _class_weights([pair.label for pair in pairs]).to(self._device)

    @property
    def first_sight(self) -> NDArray[np.float64]:
        """The net's logits for the strangers after the first epoch, shape (n_held, n_strangers, 4)."""
        return self._own["first_sight"].cpu().numpy()

    def _fitted_batches(self, epoch: int) -> Iterator[tuple[list[Any], list[int]]]:
        pairs, tokens = self._pairs(self._fitted, self._draw(epoch))
        if epoch == 0:
            known = [place for place, pair in enumerate(pairs) if pair.topic not in self.strangers]
            pairs, tokens = [pairs[place] for place in known], [tokens[place] for place in known]
        for batch in batches_of(tokens, self._draw(epoch)):
            yield [tokens[place] for place in batch], [pairs[place].label for place in batch]

    def _held_batches(self) -> Iterator[tuple[tuple[list[Any], list[int]], int]]:
        pairs, tokens = self._pairs(self._held, self._draw(0))
        for batch in batches_of(tokens, None):
            yield ([tokens[place] for place in batch], [pairs[place].label for place in batch]), len(batch)

    def _after_epoch(self, epoch: int) -> None:
        if epoch == 0:
            self._own["first_sight"] = torch.from_numpy(self._sight())

    def _sight(self) -> NDArray[np.float64]:
        tokens = self._encoded((topic, example.text) for example in self._held[0] for topic in self.strangers.tolist())
        found = np.zeros((len(tokens), ABSENT + 1))
        self._net.eval()
        with torch.inference_mode():
            for batch in batches_of(tokens, None):
                found[batch] = self._logits([tokens[place] for place in batch]).cpu().numpy()
        return found.reshape(len(self._held[0]), len(self.strangers), ABSENT + 1)

    def _loss(self, batch: tuple[Sequence[Any], Sequence[int]]) -> torch.Tensor:
        """Return the mean over pairs, weighted by class, of what the right classes cost: any stance for ``PRESENT``."""
        encodings, labels = batch
        target = torch.tensor(labels, device=self._device)
        likelihood = torch.log_softmax(self._logits(encodings), dim=1)
        likelihood = torch.cat([likelihood, likelihood[:, :ABSENT].logsumexp(1, keepdim=True)], dim=1)
        weights = self._weights[target]
        cost = -weights * likelihood.gather(1, target.unsqueeze(1)).squeeze(1)
        # Held pairs may be of classes alone that no fitted pair has, which weigh nothing.
        return cost.sum() / weights.sum().clamp(min=1e-9)

    def _logits(self, encodings: Sequence[Any]) -> torch.Tensor:
        inputs = (each.to(self._device) for each in padded(encodings))
        with self._autocast():
            shares: torch.Tensor = self._net(*inputs)
        return shares.float().sum(1)

    def _pairs(
        self, side: tuple[Sequence[Example], NDArray[np.bool_]], rng: np.random.Generator
    ) -> tuple[list[Pair], list[Any]]:
        """Return pairs, of which `rng` draws those of absent topics, and their tokens."""
        examples, possible = side
        pairs = labelled_pairs(examples, possible, self._position, self._recipe, rng)
        return pairs, self._encoded((pair.topic, examples[pair.row].text) for pair in pairs)

    def _encoded(self, pairs: Iterable[tuple[int, str]]) -> list[Any]:
        return list(self._tokenizer.encode_batch([(self._wordings[topic], text) for topic, text in pairs]))


def _class_weights(labels: Sequence[int]) -> torch.Tensor:
    """Return a weight for each class: the inverse root of how often it occurs, 0 where it does not, their mean over the
    pairs 1."""
    counts = np.bincount(labels, minlength=PRESENT + 1).astype(float)
    weights = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0.0)
    return torch.tensor(weights * counts.sum() / (weights @ counts), dtype=torch.float32)
