"""How what was fine-tuned is joined with the heads."""

from __future__ import annotations

import numpy as np

from models.crossencoder import Blend
from training import splits
from training.blending import HEADS, fit_stance, held_with


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


def test_the_heads_stand_alone_until_enough_has_been_seen_of_the_net() -> None:
    rng = np.random.default_rng(0)
    stance = rng.integers(3, size=400)
    heads = np.log(np.full((400, 3), 1 / 3)) + rng.normal(scale=0.1, size=(400, 3))
    pairs = np.eye(3)[stance] + rng.normal(scale=0.5, size=(400, 3))
    assert fit_stance(heads[:49], pairs[:49], stance[:49], HEADS) == Blend(1.0, 0.0, [0.0, 0.0, 0.0])
    for n in (50, 400):
        assert fit_stance(heads[:n], pairs[:n], stance[:n], HEADS).pair > 1.0
