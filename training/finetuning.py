"""Fine-tune a checkpoint's transformer under a layer of its own: the loop that is the same whatever it learns."""

from __future__ import annotations

import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import InvalidData
from models.files import replacing

BATCH = 32
_WARM = 0.1
_KEPT = {"net", "best", "optimizer", "losses", "done", "own"}
# How a step is made beside what its recipe says: another number is another fine-tuning.
_METHOD = 2
# A state that nobody went on from for so long is deleted.
_STALE_SECONDS = 14 * 24 * 3600


class Recipe(msgspec.Struct, frozen=True):
    """How to fine-tune.

    ``rate`` is the top layer's peak learning rate; each layer below has ``decay`` of the one above it (Howard and
    Ruder 2018, section 3.1). The embeddings of tokens stay as they are: words that the labels lack keep their place
    beside those they have. ``max_length`` in tokens.
    """

    epochs: int = 3
    rate: float = 1e-4
    decay: float = 0.9
    max_length: int = 256
    seed: int = 0


class Net(torch.nn.Module):
    """A transformer, ``body``, under a layer of its own, ``head``."""

    body: Any
    head: torch.nn.Module


class FineTuning(ABC):
    """The fine-tuning of one net, stopped early by what it was not fitted on.

    Parameters
    ----------
    net : Net
    recipe : Recipe
    batches : int
        Batches of an epoch.
    head_rate : float
        The head's peak learning rate, in units of the top layer's.
    """

    def __init__(self, net: Net, recipe: Recipe, batches: int, *, head_rate: float = 1.0) -> None:
        self._net, self._recipe = net, recipe
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net.to(self._device)
        self._optimizer = torch.optim.AdamW(_groups(net, recipe, head_rate), weight_decay=0.01)
        self._total = recipe.epochs * batches
        self._losses: list[float] = []
        self._best: dict[str, torch.Tensor] = {}
        self._done = 0
        # What of its own a fine-tuning needs to be gone on with.
        self._own: dict[str, torch.Tensor] = {}

    @abstractmethod
    def _fitted_batches(self, epoch: int) -> Iterator[Any]:
        """Yield what to fit on in an epoch, numbered from 0, a batch at a time."""

    @abstractmethod
    def _held_batches(self) -> Iterator[tuple[Any, int]]:
        """Yield what to stop early by, a batch at a time, with how much is in it."""

    @abstractmethod
    def _loss(self, batch: Any) -> torch.Tensor:
        """Return the mean loss over a batch."""

    def _autocast(self) -> torch.autocast:
        """Return a context of mixed precision on a GPU alone: processors took 1.6 times as long in it, those with
        AVX-512 BF16 too."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda")

    def _after_epoch(self, epoch: int) -> None:  # noqa: B027  nothing is to be done but where somebody wants it
        """Do what must be done between an epoch and the next."""

    def run(self, step: Callable[[float], None], state: Path | None = None) -> list[float]:
        """Fine-tune the net in place, and leave it as it was after the epoch of the lowest loss on what was held.

        Parameters
        ----------
        step : callable
            Called after each batch with the part that is done, in [0, 1].
        state : path, optional
            A file to keep the state of the last whole epoch in; what lies there already is gone on from.

        Returns
        -------
        list of float
            The loss on what was held after each epoch, in nats.

        Raises
        ------
        InvalidData
            If the first epoch leaves no finite loss. No state of it is kept.
        """
        if state is not None and (kept := self._read(state)) is not None:
            self._restore(kept)
        while len(self._losses) < self._recipe.epochs and not self._is_past_best():
            self._epoch(len(self._losses), step)
            self._after_epoch(len(self._losses))
            loss = self._held_loss()
            if not math.isfinite(loss) and not self._best:
                raise InvalidData(["the fine-tuning diverged: after its first epoch the loss is no finite number"])
            # An epoch that diverges is worse than any.
            self._losses.append(loss if math.isfinite(loss) else math.inf)
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
        parameters = [each for each in self._net.parameters() if each.requires_grad]
        self._net.train()
        for batch in self._fitted_batches(epoch):
            # Up in a line, then down in a line.
            rate = min((self._done + 1) / (_WARM * self._total), 1.0) * max(1 - self._done / self._total, 0.0)
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            loss = self._loss(batch)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # it has no types
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self._optimizer.step()
            self._done += 1
            step(min(1.0, self._done / self._total))

    def _held_loss(self) -> float:
        self._net.eval()
        total, count = 0.0, 0
        with torch.inference_mode():
            for batch, size in self._held_batches():
                total += float(self._loss(batch)) * size
                count += size
        return total / max(1, count)

    def _draw(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self._recipe.seed, epoch])

    def _save(self, state: Path) -> None:
        kept = {
            "net": self._net.state_dict(),
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
            "losses": self._losses,
            "done": self._done,
            "own": self._own,
        }
        # Without room for it the fine-tuning can still end: then there is nothing to go on from.
        with suppress(RuntimeError, OSError):
            state.parent.mkdir(parents=True, exist_ok=True)
            with replacing(state) as file:
                torch.save(kept, file)

    def _read(self, state: Path) -> dict[str, Any] | None:
        """Return what an interrupted run left; one that was cut short or damaged is as good as none."""
        with suppress(RuntimeError, OSError, EOFError, UnpicklingError):
            found: dict[str, Any] = torch.load(state, map_location=self._device, weights_only=True)
            if isinstance(found, dict) and found.keys() >= _KEPT:
                return found
        return None

    def _restore(self, kept: Mapping[str, Any]) -> None:
        self._net.load_state_dict(kept["net"])
        self._optimizer.load_state_dict(kept["optimizer"])
        self._best, self._losses, self._done = kept["best"], kept["losses"], kept["done"]
        self._own = kept["own"]


def state_file(cache: Path | None, kind: str, asked: object) -> Path | None:
    """Return where the state of a fine-tuning is kept that hangs on what is `asked`, and delete what others of its kind
    left behind long ago."""
    if cache is None:
        return None
    for left in cache.glob(f"{kind}-*.p*t"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - _STALE_SECONDS:
                left.unlink()
    named = hashlib.sha256(msgspec.json.encode([_METHOD, asked])).hexdigest()
    return cache / f"{kind}-{named[:16]}.pt"


def padded(encodings: Sequence[Any]) -> torch.Tensor:
    """Return ids, segments and mask, int64 of shape (3, n, n_tokens), padded to the longest of the encodings."""
    found = torch.zeros(3, len(encodings), max(len(each.ids) for each in encodings), dtype=torch.long)
    for row, each in enumerate(encodings):
        found[:, row, : len(each.ids)] = torch.tensor([each.ids, each.type_ids, [1] * len(each.ids)])
    return found


def batches_of(tokens: Sequence[Any], rng: np.random.Generator | None) -> Iterator[NDArray[np.int64]]:
    """Deal what is of like length into batches; in random order, and of random company, where `rng` is given."""
    lengths = np.array([len(each.ids) for each in tokens], dtype=float)
    if rng is not None:
        lengths *= rng.uniform(0.9, 1.1, len(lengths))
    order = np.argsort(lengths, kind="stable")
    starts = np.arange(0, len(order), BATCH)
    for start in starts if rng is None else rng.permutation(starts):
        yield order[start : start + BATCH]


def batches_in(count: int) -> int:
    return math.ceil(count / BATCH)


def _groups(net: Net, recipe: Recipe, head_rate: float) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups, the head and each layer by its own peak rate."""
    layers = next(each for name, each in net.body.named_modules() if name.rpartition(".")[2] in ("layer", "layers"))
    for parameter in net.body.parameters():
        parameter.requires_grad_(False)
    groups = [{"params": list(net.head.parameters()), "peak": head_rate * recipe.rate}]
    for below, layer in enumerate(reversed(layers)):
        for parameter in layer.parameters():
            parameter.requires_grad_(True)
        groups.append({"params": list(layer.parameters()), "peak": recipe.rate * recipe.decay**below})
    return groups
