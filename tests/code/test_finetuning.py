"""The loop that fine-tunes, on a net of a few weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from models.errors import InvalidData
from training.finetuning import FineTuning, Net, Recipe


class _Small(Net):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.ModuleDict({"layer": torch.nn.ModuleList([torch.nn.Linear(2, 2)])})
        self.head = torch.nn.Linear(2, 1)


class _Tuning(FineTuning):
    """Its losses on what is held are those given, one an epoch."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__(_Small(), Recipe(epochs=len(losses)), 1)
        self._told = iter(losses)
        self.heads: list[torch.Tensor] = []

    def _fitted_batches(self, _: int) -> Iterator[Any]:
        yield torch.ones(1, 2)

    def _held_batches(self) -> Iterator[tuple[Any, int]]:
        yield None, 1

    def _loss(self, batch: Any) -> torch.Tensor:
        if batch is None:
            self.heads.append(self._net.head.weight.detach().clone())
            return torch.tensor(next(self._told))
        return self._net.head(self._net.body["layer"][0](batch)).sum()

    @property
    def head(self) -> torch.Tensor:
        return self._net.head.weight.detach()


def test_what_diverges_at_once_ends_and_leaves_no_state(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="diverged"):
        _Tuning([math.nan, 1.0]).run(lambda _: None, tmp_path / "state.pt")
    assert not any(tmp_path.iterdir())


def test_an_epoch_that_diverges_is_worse_than_the_one_before(tmp_path: Path) -> None:
    tuning = _Tuning([2.0, math.nan, 1.0])
    assert tuning.run(lambda _: None, tmp_path / "state.pt") == [2.0, math.inf]
    assert torch.equal(tuning.head, tuning.heads[0]) and not torch.equal(tuning.head, tuning.heads[1])


def test_the_best_epoch_is_kept() -> None:
    tuning = _Tuning([2.0, 1.0, 1.5])
    assert tuning.run(lambda _: None) == [2.0, 1.0, 1.5]
    assert torch.equal(tuning.head, tuning.heads[1])
