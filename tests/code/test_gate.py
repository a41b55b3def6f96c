"""The gate and the audit, on small real trainings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.bundle import read_holdout, read_manifest
from models.errors import BundleError
from models.examples import Example
from models.scorer import Scorer, TopicRule
from models.taxonomy import read_taxonomy
from tests.conftest import write_small
from training import gate
from training.gate import FEW, MARGINS, check, difference_interval, judge, load_champion
from training.run import Options, Trained, run
from training.splits import holdout

Change = Callable[[str], str]


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("champion")
    write_small(folder)
    options = Options(holdout=0.5, jobs=1)
    return run(folder / "examples.jsonl", folder / "taxonomy.toml", folder / "bundle", options).directory


@pytest.fixture
def challenge(champion: Path, tmp_path: Path) -> Callable[[Change], Trained]:
    def make(change: Change) -> Trained:
        write_small(tmp_path)
        path = tmp_path / "examples.jsonl"
        path.write_text(change(path.read_text()))
        return run(
            path, tmp_path / "taxonomy.toml", tmp_path / "bundle", Options(holdout=0.5, jobs=1), champion=champion
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


def test_rows_that_are_carried_on_keep_names_of_their_own(challenge: Callable[[Change], Trained]) -> None:
    made = challenge(lambda text: text.replace(" in town ", " in the city "))
    rows = read_holdout(made.directory)
    assert len({row.id for row in rows}) == len(rows)
    assert {" in town " in row.text for row in rows if row.topics} == {True, False}


def test_an_audit_names_a_label_that_is_wrong(challenge: Callable[[Change], Trained]) -> None:
    # Every third row is in favour; the first of them that is fitted on.
    number = next(number for number in range(0, 40, 3) if not holdout([f"d{number}"], 0.5)[0])
    row = f'"id": "tea-{number}", "text": "The .*?", "topics": {{"tea": "favor"}}'
    made = challenge(lambda text: re.sub(row, lambda found: found[0].replace("favor", "against"), text))
    listed = made.audit["likely_mislabels"]["listed"]
    assert (f"tea-{number}", "stance", "tea") in {(row["id"], row["kind"], row["topic"]) for row in listed}


def test_a_damaged_champion_is_refused(champion: Path, tmp_path: Path) -> None:
    write_small(tmp_path)
    with pytest.raises(BundleError):
        run(tmp_path / "examples.jsonl", tmp_path / "taxonomy.toml", tmp_path / "b", champion=tmp_path)
    assert read_taxonomy(champion / "taxonomy.json") == read_taxonomy(tmp_path / "taxonomy.toml")


def test_of_many_topics_chance_alone_rejects_none(champion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fall of three standard errors, which of a hundred topics one has by chance now and then."""
    fall = np.concatenate([[-0.12], np.linspace(-0.19, -0.05, 999)])
    of_topics = {("topic recall", f"t{number}"): (40, np.full(1000, 0.9)) for number in range(100)}
    figures = [of_topics, of_topics | {("topic recall", "t7"): (40, 0.9 + fall)}]
    monkeypatch.setattr(gate, "_figures", lambda *_: figures.pop(0))
    topics = {f"t{topic}": None for topic in range(100)}
    rows = [Example(str(number), "text", topics, document_id=f"d{number}") for number in range(40)]
    scorer = load_champion(champion).bundle.scorer
    found = gate._table("held_out", scorer, scorer, rows, list(topics), 0)
    (fallen,) = [check for check in found if check.topic == "t7"]
    assert fallen.difference == -0.12 and fallen.passed
    assert fallen.interval is not None and fallen.interval[1] > 0
    assert all(check.passed for check in found)


def test_the_interval_of_a_difference_holds_the_difference() -> None:
    low, high = difference_interval((0.6, 100), (0.9, 100), 1.645)
    assert low < -0.3 < high < 0


@pytest.mark.parametrize(
    ("topic", "challenger", "interval", "passed"),
    [
        (None, 0.79, (-0.02, 0.00), True),
        (None, 0.77, (-0.06, 0.01), True),
        (None, 0.77, (-0.06, -0.01), False),
        (None, 0.73, (-0.15, 0.02), False),
        (None, 0.90, (0.05, 0.15), True),
        (None, 0.50, None, None),
        ("tea", 0.73, (-0.15, 0.02), True),
        ("tea", 0.73, (-0.15, -0.01), False),
    ],
)
def test_a_figure_may_fall_by_its_margin_and_by_chance(
    topic: str | None, challenger: float, interval: tuple[float, float] | None, passed: bool | None
) -> None:
    assert MARGINS["stance macro-F1"] == 0.02
    made = check("held_out", "stance macro-F1", topic, 40, 0.80, challenger, interval)
    assert made.passed is passed


def test_what_is_claimed_of_a_topic_that_no_row_has_counts(champion: Path) -> None:
    beaten, manifest = load_champion(champion), read_manifest(champion)
    scorer = beaten.bundle.scorer
    rows = [example for example in beaten.rows if "cats" not in example.topics]
    everywhere = {name: TopicRule(0.0, 0.0) if name == "cats" else rule for name, rule in scorer.rules.topics.items()}
    flooded = Scorer(scorer.taxonomy, msgspec.structs.replace(scorer.rules, topics=everywhere), scorer.model)
    gate = judge(beaten._replace(rows=rows), flooded, manifest, rows)
    failed = {(made.rows, made.metric) for made in gate.checks if made.passed is False}
    assert {("frozen", "topic micro-F1"), ("held_out", "topic micro-F1")} <= failed, gate.checks
    assert not any(metric == "topic macro-F1" for _, metric in failed)


def test_rows_that_the_champion_may_have_been_fitted_on_judge_nobody(champion: Path) -> None:
    beaten, manifest = load_champion(champion), read_manifest(champion)
    fewer = msgspec.structs.replace(beaten.bundle.manifest, settings=manifest.settings | {"holdout": 0.2})
    shy = beaten._replace(bundle=beaten.bundle._replace(manifest=fewer), rows=beaten.rows[:1])
    gate = judge(shy, beaten.bundle.scorer, manifest, beaten.rows)
    kept = holdout([example.group for example in beaten.rows], 0.2)
    kept[0] = True
    assert 1 < kept.sum() < len(kept) and gate.rows["held_out"] == kept.sum()
    assert any(note.startswith(f"{(~kept).sum()} of the rows held out now are left out") for note in gate.notes)


def test_few_labels_are_not_judged(champion: Path) -> None:
    beaten, manifest = load_champion(champion), read_manifest(champion)
    few = [example for example in beaten.rows if "tea" in example.topics][: FEW - 1]
    gate = judge(beaten, beaten.bundle.scorer, manifest, few)
    assert not any(made.passed is not None for made in gate.checks if made.rows == "held_out")
    nothing = judge(beaten._replace(rows=[]), beaten.bundle.scorer, manifest, few)
    assert not nothing.passed and "nothing to judge by" in nothing.reasons[0]
