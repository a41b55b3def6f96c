"""Splits that do not leak, calibration that is honest, and a fit that is the same twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from models.bundle import WEIGHTS, Bundle, load_bundle
from models.errors import BundleError, InvalidData
from models.linear import sigmoid, softmax
from tests.conftest import ROOT, write_small
from training import splits
from training.calibration import best_f1, fit_platt, fit_tempering, threshold_of
from training.linear import Folds, augment
from training.run import Options, Progress, train


def test_same_input_and_seed_same_weights(small: Callable[..., Path]) -> None:
    first, second = small(), small()
    assert (first / WEIGHTS).read_bytes() == (second / WEIGHTS).read_bytes()
    assert load_bundle(first).manifest.version == load_bundle(second).manifest.version


def test_the_number_of_workers_changes_no_weight(small: Callable[..., Path], tmp_path: Path) -> None:
    write_small(tmp_path)
    options = Options(holdout=0.2, jobs=2)
    path = train(tmp_path / "examples.jsonl", tmp_path / "taxonomy.toml", tmp_path / "bundle", options)
    assert (path / WEIGHTS).read_bytes() == (small() / WEIGHTS).read_bytes()


def test_labels_without_stance_or_a_taxonomy_without_propositions_make_a_topic_classifier(
    small: Callable[..., Path],
) -> None:
    for path in (small(stance=False), small(stance=False, propositions=False)):
        bundle = load_bundle(path)
        result = bundle.scorer.classify("The kettle by the cup in town 3 was on the agenda.", topics=["tea"])
        assert [topic.topic for topic in result.topics if topic.decision == "present"] == ["tea"]
        assert all(topic.stance is None for topic in result.topics)
        assert "stance" not in bundle.manifest.metrics


def test_another_domain_needs_no_line_of_code(shared_small: Callable[..., Path]) -> None:
    scorer = load_bundle(shared_small()).scorer
    for mood, stance in (("splendid and fair", "favor"), ("dreadful and wrong", "against")):
        result = scorer.classify(f"The whisker by the paw in town 9 was {mood}.")
        assert [(topic.topic, topic.stance and topic.stance.label) for topic in result.topics] == [("cats", stance)]


def test_a_topic_that_cannot_be_told_apart_is_present_nowhere(tmp_path: Path) -> None:
    write_small(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        # All that is labelled with it stands in one document, and says nothing of its own.
        row["topics"] = {"tea": "favor"} if number < 12 else {}
        row["document_id"] = "one" if number < 12 else f"d{number}"
        row["text"] = f"Rain fell on street {number * 7 % 120} and the bus was late again."
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = train(tmp_path / "examples.jsonl", tmp_path / "taxonomy.toml", tmp_path / "bundle", Options(jobs=1))
    bundle = load_bundle(path)
    found = [bundle.scorer.classify(f"Rain fell on street {number} again.") for number in range(20)]
    assert not any(topic.decision == "present" for result in found for topic in result.topics)
    assert "tea: models that had not seen its documents could not tell it apart" in bundle.card


def test_a_document_never_crosses_over() -> None:
    names = [f"doc-{number % 50}" for number in range(400)]
    held = splits.holdout(names, 0.3)
    assert len({names[i] for i in np.flatnonzero(held)} & {names[i] for i in np.flatnonzero(~held)}) == 0
    more = splits.holdout([*names, *(f"new-{number}" for number in range(100))], 0.3)
    np.testing.assert_array_equal(more[:400], held)
    fold = splits.folds(names, 5, 0)
    assert all(len({fold[i] for i in range(400) if names[i] == name}) == 1 for name in set(names))
    assert np.bincount(fold).min() >= 0.8 * np.bincount(fold).max()


def test_near_duplicates_are_found_and_kept_out_of_the_fit() -> None:
    text = (
        "The two sides agreed to meet again in the spring and to leave the hardest question for last, officials said."
    )
    other = "A quite different story about the price of bread in a northern town where nobody had expected any change."
    near = splits.near_duplicates([text, other, text + " More follows.", other.replace("bread", "milk")])
    assert near.pairs.tolist() == [[0, 2], [1, 3]]
    assert splits.shadows(near, np.array([True, False, False, False])).tolist() == [False, False, True, False]
    folds = Folds(np.array([0, 0, 1, 1]), near)
    assert folds.fitted[0].tolist() == [False, False, False, False]


def test_many_copies_of_one_text_are_all_near_duplicates() -> None:
    near = splits.near_duplicates(["The very same sentence stands in every one of these many paragraphs."] * 80)
    assert near.first.tolist() == [0] * 80
    assert splits.shadows(near, np.arange(80) == 41).sum() == 79


def test_a_form_filled_in_by_the_hundred_stands_on_one_side() -> None:
    filled = [
        f"The river stood at {n} centimetres at noon, the service said, and no flood is expected." for n in range(120)
    ]
    texts = [*filled, "A quite different story about the price of bread in a town where nobody expected any change."]
    near = splits.near_duplicates(texts)
    assert len(set(near.first.tolist())) == 121
    assert splits.shadows(near, np.arange(121) == 77).tolist() == [index not in (77, 120) for index in range(121)]
    split = splits.split(texts, [f"d{index}" for index in range(121)], 0.1)
    assert split.held.any() and not split.fitted[:120].any()


def test_a_form_whose_words_change_once_stands_on_one_side() -> None:
    form = (
        "In its bulletin of {} the water board wrote that the level at gauge {} had not changed since the week before."
    )
    texts = [form.format(year, gauge) for year in (2023, 2024) for gauge in range(120)]
    other = "A quite different story about the price of bread in a town where nobody expected any change."
    near = splits.near_duplicates([*texts, other])
    shadows = splits.shadows(near, np.arange(241) == 200)
    assert shadows.tolist() == [index not in (200, 240) for index in range(241)]


def test_half_of_a_tie_is_no_threshold() -> None:
    assert best_f1(np.array([0.5, 0.5]), np.array([True, False])) == pytest.approx(2 / 3)


def test_corrected_labels_are_not_answered_with_the_old_figures(tmp_path: Path) -> None:
    write_small(tmp_path)
    path, options = tmp_path / "examples.jsonl", Options(holdout=0.2, jobs=1)

    def fit() -> Bundle:
        home = tmp_path / "home"
        return load_bundle(train(path, tmp_path / "taxonomy.toml", lambda version: home / version, options))

    first = fit()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if "document_id" in row and splits.holdout([row["document_id"]], 0.2)[0]:
            row["topics"] = {}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    second = fit()
    assert second.manifest.version != first.manifest.version
    assert second.manifest.metrics["topics"] != first.manifest.metrics["topics"]


def test_augmentation_is_a_shared_copy_and_one_of_the_topic() -> None:
    matrix = sparse.random(3, 50, density=0.2, format="csr", random_state=0)
    topic = np.array([2, 0, 1])
    augmented = augment(matrix, topic, 3).toarray().reshape(3, 4, -1)
    for row in range(3):
        for block in range(4):
            expected = matrix[[row]].toarray()[0] * (block in (0, 1 + topic[row]))
            np.testing.assert_array_equal(augmented[row, block], expected)


def test_platt_and_tempering_recover_the_probabilities_that_made_the_labels() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 3, 20_000)
    platt = fit_platt(logits, random.random(20_000) < sigmoid(0.4 * logits - 1.5))
    assert platt == pytest.approx((0.4, -1.5), abs=0.05)
    three = random.normal(0, 2, (20_000, 3))
    true = softmax(0.5 * three + np.array([0.5, -0.5, 0.0]))
    drawn = (true.cumsum(axis=1) < random.random((20_000, 1))).sum(axis=1)
    tempering = fit_tempering(three, drawn)
    assert tempering.slope == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(tempering.offset - tempering.offset.mean(), [0.5, -0.5, 0.0], atol=0.06)


def test_half_the_best_f1_is_the_threshold_that_reaches_it() -> None:
    random = np.random.default_rng(2)
    scores = random.beta(0.5, 2, 50_000)
    present = random.random(50_000) < scores

    def f1(threshold: float) -> float:
        chosen = scores >= threshold
        return float(2 * (chosen & present).sum() / (chosen.sum() + present.sum()))

    assert f1(best_f1(scores, present) / 2) == pytest.approx(max(f1(t) for t in np.linspace(0, 1, 200)), abs=0.005)


def test_the_seed_bundle_is_calibrated_on_what_it_has_not_seen(bundle: Bundle) -> None:
    metrics = bundle.manifest.metrics
    assert metrics["topics"]["ece"]["value"] < 0.03
    assert metrics["stance"]["ece"]["value"] < 0.1


def test_bad_rows_stop_a_training_before_anything_is_fitted(tmp_path: Path) -> None:
    write_small(tmp_path)
    path = tmp_path / "examples.jsonl"
    path.write_text(path.read_text() + '{"text": "x", "topics": {"tea": "meh"}}\n{"text": "y"}\n')
    told: list[Progress] = []
    with pytest.raises(InvalidData) as caught:
        train(path, tmp_path / "taxonomy.toml", tmp_path / "bundle", tell=told.append)
    assert len(caught.value.faults) == 2
    assert told == []
    assert not (tmp_path / "bundle").exists()


def test_an_output_in_use_is_refused_before_anything_is_fitted(tmp_path: Path) -> None:
    write_small(tmp_path)
    with pytest.raises(BundleError, match="name a new folder"):
        train(tmp_path / "examples.jsonl", tmp_path / "taxonomy.toml", tmp_path)


def test_a_topic_without_examples_is_never_present_and_is_warned_of(tmp_path: Path) -> None:
    write_small(tmp_path)
    source = (tmp_path / "taxonomy.toml").read_text()
    (tmp_path / "taxonomy.toml").write_text(source + '\n[[topic]]\nid = "moon"\nproposition = "Ours."\n')
    path = train(
        tmp_path / "examples.jsonl", tmp_path / "taxonomy.toml", tmp_path / "bundle", Options(holdout=0, jobs=1)
    )
    bundle = load_bundle(path)
    moon = next(t for t in bundle.scorer.classify("The moon.", topics=["moon"]).topics if t.topic == "moon")
    assert moon.decision == "absent" and moon.score < 0.01
    assert "moon: 0 paragraphs to fit on" in bundle.card
    assert bundle.manifest.metrics == {}


def test_the_child_process_tells_its_progress_as_json_lines(tmp_path: Path) -> None:
    write_small(tmp_path)
    command = [sys.executable, "-m", "training", str(tmp_path / "examples.jsonl"), "--taxonomy"]
    command += [str(tmp_path / "taxonomy.toml"), "-o", str(tmp_path / "bundle")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    fractions = [line["fraction"] for line in lines]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert lines[-1]["phase"] == "done" and load_bundle(lines[-1]["bundle"])
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 1 and "never changed" in json.loads(again.stdout.splitlines()[-1])["errors"][0]


def test_scores_that_tell_nothing_apart_make_no_threshold() -> None:
    present = np.array([True, False, False, False])
    assert threshold_of(np.full(4, 0.25), present, 1.0) == 1.0
    assert threshold_of(np.array([0.9, 0.1, 0.1, 0.1]), present, 1.0) == 0.5
    assert threshold_of(np.empty(0), np.empty(0, dtype=bool), 0.5) == 0.5
    # Scores all about as high as a topic is rare, and one below them.
    hardly, rare = np.append(np.full(10_000, 0.002), 1e-4), np.zeros(10_001, dtype=bool)
    rare[:20] = True
    assert 1e-4 < best_f1(hardly, rare) / 2 < 0.002
    assert threshold_of(hardly, rare, 1.0) == 1.0


def test_a_family_that_has_no_encoder_takes_none(tmp_path: Path) -> None:
    write_small(tmp_path)
    with pytest.raises(InvalidData, match="encoder: the linear family has none"):
        train(tmp_path / "examples.jsonl", tmp_path / "taxonomy.toml", tmp_path / "b", Options(encoder="x"))


def test_the_report_stands_alone_and_shows_its_plots(bundle_path: Path) -> None:
    page = (bundle_path / "report.html").read_text()
    for title in ("Precision and recall", "Reliability", "Stance confusion", "Learning curve", "Strongest words"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg ") == 5
    assert "<script" not in page and "src=" not in page and "http://127" not in page


def test_the_bands_are_short_of_the_thresholds(bundle: Bundle) -> None:
    rules = bundle.manifest.rules
    assert all(0 < rule.uncertain_from <= rule.threshold < 1 for rule in rules.topics.values())
    assert 1 / 3 < rules.stance_certain_from < 1
