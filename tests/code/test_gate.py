"""The gate and the audit, on small real trainings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.bundle import read_holdout, read_manifest
from models.errors import BundleError
from models.taxonomy import read_taxonomy
from tests.conftest import write_small
from training.gate import difference_interval
from training.run import Options, Trained, run

Change = Callable[[str], str]


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("champion")
    write_small(folder)
    options = Options(holdout=0.3, jobs=1)
    return run(folder / "examples.jsonl", folder / "taxonomy.toml", folder / "bundle", options).directory


@pytest.fixture
def challenge(champion: Path, tmp_path: Path) -> Callable[[Change], Trained]:
    def make(change: Change) -> Trained:
        write_small(tmp_path)
        path = tmp_path / "examples.jsonl"
        path.write_text(change(path.read_text()))
        return run(
            path, tmp_path / "taxonomy.toml", tmp_path / "bundle", Options(holdout=0.3, jobs=1), champion=champion
        )

    return make


def swapped(text: str, one: str, other: str) -> str:
    return text.replace(one, "\0").replace(other, one).replace("\0", other)


def test_the_same_labels_pass(challenge: Callable[[Change], Trained], champion: Path) -> None:
    made = challenge(lambda text: text)
    assert made.gate is not None and made.gate.passed, made.gate
    assert made.gate.champion == made.gate.challenger == read_manifest(champion).version
    assert {check.rows for check in made.gate.checks} == {"held_out", "frozen", "fitted"}


def test_stances_turned_everywhere_are_rejected(challenge: Callable[[Change], Trained]) -> None:
    made = challenge(lambda text: swapped(text, '"favor"', '"against"'))
    assert made.gate is not None and not made.gate.passed
    failed = {(check.rows, check.metric) for check in made.gate.checks if check.passed is False}
    assert ("frozen", "stance macro-F1") in failed and ("held_out", "stance macro-F1") not in failed


def test_topics_swapped_everywhere_are_rejected(challenge: Callable[[Change], Trained]) -> None:
    made = challenge(lambda text: swapped(text, '"tea":', '"cats":'))
    assert made.gate is not None and not made.gate.passed
    assert any("topic macro-F1" in reason for reason in made.gate.reasons)


def test_rows_once_measured_on_are_not_fitted_on_under_another_name(
    challenge: Callable[[Change], Trained], champion: Path
) -> None:
    made = challenge(lambda text: text.replace('"document_id": "d', '"document_id": "moved-'))
    before = {example.text for example in read_holdout(champion)}
    assert before and before <= {example.text for example in read_holdout(made.directory)}


def test_an_audit_names_a_label_that_is_wrong(challenge: Callable[[Change], Trained]) -> None:
    wrong = (
        '"id": "tea-0", "text": "The kettle by the leaf in town 0 was splendid and fair.", "topics": {"tea": "favor"}'
    )
    made = challenge(lambda text: text.replace(wrong, wrong.replace("favor", "against")))
    listed = made.audit["likely_mislabels"]["listed"]
    if "tea-0" not in {example.id for example in read_holdout(made.directory)}:
        assert ("tea-0", "stance", "tea") in {(row["id"], row["kind"], row["topic"]) for row in listed}


def test_a_damaged_champion_is_refused(champion: Path, tmp_path: Path) -> None:
    write_small(tmp_path)
    with pytest.raises(BundleError):
        run(tmp_path / "examples.jsonl", tmp_path / "taxonomy.toml", tmp_path / "b", champion=tmp_path)
    assert read_taxonomy(champion / "taxonomy.json") == read_taxonomy(tmp_path / "taxonomy.toml")


def test_the_interval_of_a_difference_holds_the_difference() -> None:
    low, high = difference_interval((0.6, 100), (0.9, 100), 1.645)
    assert low < -0.3 < high < 0
