"""How what was fine-tuned is joined with the heads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np

from models.crossencoder import Blend
from training import splits
from training.blending import HEADS, fit_stance, held_with, parted
from training.fitting import Material


def test_few_documents_do_not_leave_one_voice_to_blend_by() -> None:
    many = [f"d{number // 2}" for number in range(200)]
    assert held_with(many) == many
    # One document in ten of eighteen would be a party's alone.
    few = [f"d{number % 18}" for number in range(200)]
    for long in (60, 20, 10):
        uneven = ["long"] * long + [f"d{number}" for number in range(200 - long)]
        assert held_with(uneven) != uneven
    held = splits.folds(held_with(few), 10, 0) == 0
    assert held.sum() == 20 and len({few[place] for place in np.flatnonzero(held)}) > 9


def test_each_way_holds_other_rows_and_what_repeats_them_is_on_neither_side() -> None:
    material = cast(Material, SimpleNamespace(groups=[f"d{number // 2}" for number in range(200)]))
    near = splits.near_duplicates([f"Text {number % 199} of many." for number in range(200)])
    ways = parted(material, near, 0, 3)
    held = np.concatenate([way.held for way in ways])
    assert len(ways) == 3 and len(held) == len({*held.tolist()}) == 60
    for fitted, kept in ways:
        assert not np.isin(kept, fitted).any()
        repeats = {0, 199} & {*kept.tolist()}
        assert len(fitted) == 200 - len(kept) - (len(repeats) == 1)
    few = cast(Material, SimpleNamespace(groups=["a", "b"]))
    assert [way.held.tolist() for way in parted(few, near.among(np.arange(200) < 2), 0, 3)] in ([[0], [1]], [[1], [0]])


def test_the_heads_stand_alone_until_enough_has_been_seen_of_the_net() -> None:
    rng = np.random.default_rng(0)
    stance = rng.integers(3, size=400)
    heads = np.log(np.full((400, 3), 1 / 3)) + rng.normal(scale=0.1, size=(400, 3))
    pairs = np.eye(3)[stance] + rng.normal(scale=0.5, size=(400, 3))
    assert fit_stance(heads[:49], pairs[:49], stance[:49], HEADS) == Blend(1.0, 0.0, [0.0, 0.0, 0.0])
    for n in (50, 400):
        assert fit_stance(heads[:n], pairs[:n], stance[:n], HEADS).pair > 1.0
