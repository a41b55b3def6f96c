"""Fine-tune the pair model: a checkpoint that reads a topic's wording and a paragraph together.

One softmax over where the paragraph stands and whether the topic is absent. Since the wording is read, not numbered, a
topic that has no labels can be scored too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from models.crossencoder import ABSENT, open_tokenizer, wording
from models.examples import STANCES, Example
from models.taxonomy import Taxonomy

# The class of a pair whose topic is present and whose stance nobody told.
PRESENT = ABSENT + 1
_BATCH = 32
_WARM = 0.1


class Recipe(msgspec.Struct, frozen=True):
    """How to fine-tune.

    ``rate`` is the top layer's peak learning rate; each layer below has ``decay`` of the one above it (Howard and
    Ruder 2018, section 3.1). The embeddings stay as they are: words that the labels lack keep their place beside those
    they have. Of the topics that a paragraph does not have it is shown with ``likely`` of those that the heads take for
    possible, and with ``absent`` of all, others in each epoch. One labelled topic in so many as ``strange`` says is
    kept from the first epoch, which shows how far a wording alone can be trusted.
    """

    epochs: int = 3
    strange: int = 4
    rate: float = 1e-4
    decay: float = 0.9
    absent: int = 1
    likely: int = 2
    max_length: int = 256
    seed: int = 0


class Pair(NamedTuple):
    """Places of a topic in the taxonomy, a paragraph among the examples, and a class: a stance's, ``ABSENT`` or
    ``PRESENT``."""

    topic: int
    row: int
    label: int


class PairNet(torch.nn.Module):
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
    recipe: Recipe,
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
    recipe : Recipe
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


class Tuning:
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
    recipe : Recipe

    Attributes
    ----------
    strangers : ndarray of int64, shape (n_strangers,)
        The topics that are kept from the first epoch, by their place in the taxonomy.
    first_sight : ndarray of float64, shape (n_held, n_strangers, 4)
        The net's logits for them after that epoch; none before.
    """

    def __init__(
        self,
        net: PairNet,
        tokenizer: bytes,
        taxonomy: Taxonomy,
        fitted: Sequence[Example],
        held: Sequence[Example],
        possible: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        recipe: Recipe,
    ) -> None:
        self._net, self._recipe = net, recipe
        self._position = labelled_topics(taxonomy, [*fitted, *held])
        self._fitted, self._held = (fitted, possible[0]), (held, possible[1])
        self._tokenizer = open_tokenizer(tokenizer, recipe.max_length)
        self._wordings = [wording(topic) for topic in taxonomy.topics]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net.to(self._device)
        places = np.array(list(self._position.values()), dtype=np.int64)
        chosen = np.random.default_rng(recipe.seed).permutation(places)[: len(places) // recipe.strange]
        self.strangers: NDArray[np.int64] = np.sort(chosen)
        self.first_sight: NDArray[np.float64] = np.zeros((len(held), 0, ABSENT + 1))
        pairs, _ = self._pairs(self._fitted, 0)
        self._weights = _class_weights([pair.label for pair in pairs]).to(self._device)
        self._optimizer = torch.optim.AdamW(_groups(net, recipe), weight_decay=0.01)
        self._total = recipe.epochs * math.ceil(len(pairs) / _BATCH)
        self._losses: list[float] = []
        self._best: dict[str, torch.Tensor] = {}
        self._done = 0

    def run(self, step: Callable[[float], None], state: Path | None = None) -> list[float]:
        """Fine-tune the net in place, and leave it as it was after the epoch of the lowest loss on the held examples.

        Parameters
        ----------
        step : callable
            Called after each batch with the part that is done, in [0, 1].
        state : path, optional
            A file to keep the state of the last whole epoch in; what lies there already is gone on from.

        Returns
        -------
        list of float
            The loss on the held examples after each epoch, in nats a pair, weighted by class.
        """
        if state is not None and (held := self._read(state)) is not None:
            self._restore(held)
        while len(self._losses) < self._recipe.epochs and not self._is_past_best():
            self._epoch(len(self._losses), step)
            if not self._losses:
                self.first_sight = self._sight()
            self._losses.append(self._held_loss())
            if self._losses[-1] == min(self._losses):
                self._best = {name: value.detach().cpu().clone() for name, value in self._net.state_dict().items()}
            if state is not None:
                self._save(state)
        self._net.load_state_dict(self._best)
        self._net.cpu().eval()
        return self._losses

    def _is_past_best(self) -> bool:
        return len(self._losses) > 1 and self._losses[-1] > min(self._losses)

    def _epoch(self, epoch: int, step: Callable[[float], None]) -> None:
        # Each epoch draws for itself, so one that is gone on with after an interrupt draws the same.
        torch.manual_seed(self._recipe.seed * 1000 + epoch)
        rng = np.random.default_rng([self._recipe.seed, epoch])
        pairs, tokens = self._pairs(self._fitted, epoch)
        if epoch == 0:
            known = [place for place, pair in enumerate(pairs) if pair.topic not in self.strangers]
            pairs, tokens = [pairs[place] for place in known], [tokens[place] for place in known]
        parameters = [each for each in self._net.parameters() if each.requires_grad]
        self._net.train()
        for batch in _batches(tokens, rng):
            # Up in a line, then down in a line.
            rate = min((self._done + 1) / (_WARM * self._total), 1.0) * max(1 - self._done / self._total, 0.0)
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            loss = self._loss([tokens[place] for place in batch], [pairs[place].label for place in batch])
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # it has no types
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self._optimizer.step()
            self._done += 1
            step(min(1.0, self._done / self._total))

    def _held_loss(self) -> float:
        pairs, tokens = self._pairs(self._held, 0)
        self._net.eval()
        total = 0.0
        with torch.inference_mode():
            for batch in _batches(tokens, None):
                loss = self._loss([tokens[place] for place in batch], [pairs[place].label for place in batch])
                total += float(loss) * len(batch)
        return total / max(1, len(pairs))

    def _sight(self) -> NDArray[np.float64]:
        tokens = self._encoded((topic, example.text) for example in self._held[0] for topic in self.strangers.tolist())
        found = np.zeros((len(tokens), ABSENT + 1))
        self._net.eval()
        with torch.inference_mode():
            for batch in _batches(tokens, None):
                found[batch] = self._logits([tokens[place] for place in batch]).cpu().numpy()
        return found.reshape(len(self._held[0]), len(self.strangers), ABSENT + 1)

    def _loss(self, encodings: Sequence[Any], labels: Sequence[int]) -> torch.Tensor:
        """Return the mean over pairs, weighted by class, of what the right classes cost: any stance for ``PRESENT``."""
        target = torch.tensor(labels, device=self._device)
        likelihood = torch.log_softmax(self._logits(encodings), dim=1)
        likelihood = torch.cat([likelihood, likelihood[:, :ABSENT].logsumexp(1, keepdim=True)], dim=1)
        weights = self._weights[target]
        cost = -weights * likelihood.gather(1, target.unsqueeze(1)).squeeze(1)
        # Held pairs may be of classes alone that no fitted pair has, which weigh nothing.
        return cost.sum() / weights.sum().clamp(min=1e-9)

    def _logits(self, encodings: Sequence[Any]) -> torch.Tensor:
        inputs = (each.to(self._device) for each in _padded(encodings))
        with torch.autocast(self._device.type, torch.bfloat16):
            shares: torch.Tensor = self._net(*inputs)
        return shares.float().sum(1)

    def _pairs(self, side: tuple[Sequence[Example], NDArray[np.bool_]], epoch: int) -> tuple[list[Pair], list[Any]]:
        """Return the pairs of an epoch and their tokens."""
        examples, possible = side
        rng = np.random.default_rng([self._recipe.seed, epoch])
        pairs = labelled_pairs(examples, possible, self._position, self._recipe, rng)
        return pairs, self._encoded((pair.topic, examples[pair.row].text) for pair in pairs)

    def _encoded(self, pairs: Iterable[tuple[int, str]]) -> list[Any]:
        return list(self._tokenizer.encode_batch([(self._wordings[topic], text) for topic, text in pairs]))

    def _save(self, state: Path) -> None:
        held = {
            "net": self._net.state_dict(),
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
            "losses": self._losses,
            "done": self._done,
            "first_sight": torch.from_numpy(self.first_sight),
        }
        state.parent.mkdir(parents=True, exist_ok=True)
        part = state.with_suffix(f".{os.getpid()}.part")
        torch.save(held, part)
        part.replace(state)

    def _read(self, state: Path) -> dict[str, Any] | None:
        """Return what an interrupted run left; one that was cut short or damaged is as good as none."""
        with suppress(RuntimeError, OSError, EOFError, UnpicklingError):
            found: dict[str, Any] = torch.load(state, map_location=self._device, weights_only=True)
            return found
        return None

    def _restore(self, held: Mapping[str, Any]) -> None:
        self._net.load_state_dict(held["net"])
        self._optimizer.load_state_dict(held["optimizer"])
        self._best, self._losses, self._done = held["best"], held["losses"], held["done"]
        self.first_sight = held["first_sight"].cpu().numpy()


def _padded(encodings: Sequence[Any]) -> torch.Tensor:
    """Return ids, segments and mask, shape (3, n, n_tokens), padded to the longest."""
    found = torch.zeros(3, len(encodings), max(len(each.ids) for each in encodings), dtype=torch.long)
    for row, each in enumerate(encodings):
        found[:, row, : len(each.ids)] = torch.tensor([each.ids, each.type_ids, [1] * len(each.ids)])
    return found


def _batches(tokens: Sequence[Any], rng: np.random.Generator | None) -> Iterator[NDArray[np.int64]]:
    """Deal pairs of like length into batches; in random order, and of random company, where `rng` is given."""
    lengths = np.array([len(each.ids) for each in tokens], dtype=float)
    if rng is not None:
        lengths *= rng.uniform(0.9, 1.1, len(lengths))
    order = np.argsort(lengths, kind="stable")
    starts = np.arange(0, len(order), _BATCH)
    for start in starts if rng is None else rng.permutation(starts):
        yield order[start : start + _BATCH]


def _class_weights(labels: Sequence[int]) -> torch.Tensor:
    """Return a weight for each class: the inverse root of how often it occurs, 0 where it does not, their mean over the
    pairs 1."""
    counts = np.bincount(labels, minlength=PRESENT + 1).astype(float)
    weights = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0.0)
    return torch.tensor(weights * counts.sum() / (weights @ counts), dtype=torch.float32)


def _groups(net: PairNet, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups, the head and each layer by its own peak rate."""
    layers = next(each for name, each in net.body.named_modules() if name.rpartition(".")[2] in ("layer", "layers"))
    for parameter in net.body.parameters():
        parameter.requires_grad_(False)
    groups = [{"params": list(net.head.parameters()), "peak": recipe.rate}]
    for below, layer in enumerate(reversed(layers)):
        for parameter in layer.parameters():
            parameter.requires_grad_(True)
        groups.append({"params": list(layer.parameters()), "peak": recipe.rate * recipe.decay**below})
    return groups
