"""Scores against scikit-learn's own, evidence that adds up, and the three non-answers."""

from __future__ import annotations

import math
import time
from pathlib import Path

import joblib
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bundle import Bundle
from models.errors import InvalidParagraph
from models.examples import STANCES, Example
from models.results import Result
from models.scorer import Scorer
from training.export import write_joblib

CRIMEA = (
    "The residents of Crimea made their choice in the 2014 referendum, and the peninsula is Russian territory for "
    "good, the deputy speaker said."
)


def test_exported_pipelines_give_the_same_probabilities(bundle: Bundle, seeds: list[Example], tmp_path: Path) -> None:
    write_joblib(bundle, tmp_path / "model.joblib")
    pipelines = joblib.load(tmp_path / "model.joblib")
    texts = [example.text for example in seeds[::60]] + ["x", "Крым наш", "no known n-gram: ☃☃☃"]
    scores = bundle.scorer.topic_scores(texts)
    for index, name in enumerate(bundle.taxonomy.ids):
        topic, stance = pipelines["topics"][name], pipelines["stances"][name]
        np.testing.assert_allclose(scores[:, index], topic.predict_proba(texts)[:, 1], atol=1e-6)
        ours = bundle.scorer.stance_scores((text, name) for text in texts)
        theirs = stance.predict_proba(texts)[:, [list(stance.classes_).index(label) for label in STANCES]]
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def check_sums(result: Result, text: str) -> None:
    for topic in result.topics:
        assert topic.bias is not None
        logit = topic.bias + sum(span.weight for span in topic.evidence)
        assert math.isclose(1 / (1 + math.exp(-logit)), topic.score, abs_tol=1e-9)
        assert all(text[span.start : span.end] == span.text for span in topic.evidence)
        stance = topic.stance
        assert stance is not None and stance.bias is not None
        logit = stance.bias + sum(span.weight for span in stance.evidence)
        three = np.log([stance.favor, stance.against, stance.neutral])
        assert math.isclose(logit, (three - three.mean())[STANCES.index(stance.label)], abs_tol=1e-6)


def test_explained_contributions_add_up_to_the_score(bundle: Bundle) -> None:
    check_sums(bundle.scorer.classify(CRIMEA, topics=bundle.taxonomy.ids, explain=True), CRIMEA)


@settings(deadline=None, max_examples=150)
@given(text=st.text(alphabet=st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=200))
def test_contributions_add_up_and_scores_are_sound_on_any_text(bundle: Bundle, text: str) -> None:
    if not text.strip():
        with pytest.raises(InvalidParagraph):
            bundle.scorer.classify(text)
        return
    result = bundle.scorer.classify(text, topics=["crimea"], explain=True)
    check_sums(result, text)
    for topic in result.topics:
        assert 0 <= topic.score <= 1
        assert topic.stance is not None
        assert math.isclose(topic.stance.favor + topic.stance.against + topic.stance.neutral, 1, abs_tol=1e-9)
        assert math.isclose(topic.stance.score, topic.stance.favor - topic.stance.against, abs_tol=1e-12)


def test_shown_evidence_is_in_the_text_and_heaviest_first(bundle: Bundle) -> None:
    result = bundle.scorer.classify(CRIMEA)
    topic = next(topic for topic in result.topics if topic.topic == "crimea")
    assert any("Crimea" in span.text for span in topic.evidence)
    weights = [span.weight for span in topic.evidence]
    assert weights == sorted(weights, reverse=True) and weights[-1] > 0
    assert all(CRIMEA[span.start : span.end] == span.text for span in topic.evidence)


def test_results_that_are_encoded_are_the_same(bundle: Bundle, seeds: list[Example]) -> None:
    texts = [each.text for each in seeds[::50]] + ["Zzyzx", '\u201cSanctions\u201d, he said,\nare "war" \U0001f600']
    ids = [f"p{number}" for number in range(len(texts))]
    # All topics are answered for, some with nothing that speaks for them.
    plain, encoded = (
        bundle.scorer.classify_all(texts, ids=ids, topics=bundle.taxonomy.ids, encoded=each) for each in (False, True)
    )
    assert any(not topic.evidence for result in plain for topic in result.topics)
    encode, decode = msgspec.json.encode, msgspec.json.decode
    assert decode(encode(encoded)) == decode(encode(plain))


def test_removing_the_evidence_lowers_the_score_more_than_removing_other_words(
    bundle: Bundle, seeds: list[Example]
) -> None:
    drops, others = [], []
    random = np.random.default_rng(0)
    for example in seeds[::25]:
        for topic in bundle.scorer.classify(example.text).topics:
            if topic.decision != "present" or not topic.evidence:
                continue
            index = bundle.taxonomy.ids.index(topic.topic)
            span = topic.evidence[0]
            size = span.end - span.start
            start = int(random.integers(0, max(1, len(example.text) - size)))
            for found, (a, b) in ((drops, (span.start, span.end)), (others, (start, start + size))):
                rest = example.text[:a] + " " + example.text[b:]
                if rest.strip():
                    found.append(topic.score - bundle.scorer.topic_scores([rest])[0, index])
    assert len(drops) > 50
    assert np.mean(drops) > 3 * abs(np.mean(others))


def test_runs_of_punctuation_cost_no_more_than_other_text(bundle: Bundle) -> None:
    text = "Crimea" + "!" * 19_000 + "Crimea is Russian"
    start = time.process_time()
    bundle.scorer.classify(text)
    # Seconds when trimming was quadratic, milliseconds since.
    assert time.process_time() - start < 1


def test_named_topics_are_answered_whether_present_or_not(bundle: Bundle) -> None:
    text = "The museum of porcelain reopens in May with a show of teapots."
    result = bundle.scorer.classify(text, topics=["sanctions", "energy"])
    assert result.decision == "off_topic"
    assert {topic.topic for topic in result.topics} == {"sanctions", "energy"}
    assert all(topic.decision == "absent" and topic.stance is not None for topic in result.topics)
    assert bundle.scorer.classify(text).topics == []
    with pytest.raises(InvalidParagraph, match=r"topics\[1\]: no such topic; allowed are crimea"):
        bundle.scorer.classify(text, topics=["energy", "teapots"])


def test_off_topic_neutral_and_uncertain_are_kept_apart(bundle: Bundle, seeds: list[Example]) -> None:
    results = [bundle.scorer.classify(example.text) for example in seeds[::3]]
    assert {result.decision for result in results} == {"on_topic", "off_topic", "uncertain"}
    for result in results:
        decisions = {topic.decision for topic in result.topics}
        assert decisions <= {"on_topic": {"present"}, "uncertain": {"uncertain"}, "off_topic": set()}[result.decision]
        for topic in result.topics:
            rule = bundle.manifest.rules.topics[topic.topic]
            assert (topic.score >= rule.threshold) == (topic.decision == "present")


def test_a_stance_is_uncertain_below_its_border_and_keeps_its_label(bundle: Bundle, seeds: list[Example]) -> None:
    strict = msgspec.structs.replace(bundle.manifest.rules, stance_certain_from=0.9)
    scorer = Scorer(bundle.taxonomy, strict, bundle.scorer.model)
    stances = [topic.stance for example in seeds[::5] for topic in scorer.classify(example.text).topics]
    decisions = set()
    for stance in stances:
        assert stance is not None
        best = max(stance.favor, stance.against, stance.neutral)
        assert stance.decision == (stance.label if best >= 0.9 else "uncertain")
        assert getattr(stance, stance.label) == best
        decisions.add(stance.decision)
    assert decisions == {"favor", "against", "neutral", "uncertain"}
