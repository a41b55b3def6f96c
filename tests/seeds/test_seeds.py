"""The seeds as data: their schema, their balance, and that no paragraph is another one again."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from models.examples import STANCES, Example
from models.taxonomy import Taxonomy
from tests.conftest import ROOT

NEAR_MISS = re.compile(
    r"\b(crimea|sevastopol|yalta|kerch|flights?|airlines?|embass\w+|consulates?|diplomats?|sanction\w*|embargo|treaty|"
    r"nuclear|missiles?|arms|weapons|gas|oil|pipelines?|uranium|prisoners?|hostages?|swap\w*|ukrain\w+|russia\w*|kremlin|"
    r"moscow|kyiv|kiev|nato|summit|talks)\b",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    found = words(text)
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def test_there_are_enough_of_every_kind(seeds: list[Example], taxonomy: Taxonomy) -> None:
    assert len(seeds) >= 1500
    assert len(taxonomy.topics) == 11
    for topic in taxonomy.ids:
        stances = Counter(example.topics[topic] for example in seeds if topic in example.topics)
        assert sum(stances.values()) >= 100, topic
        assert all(stances[stance] >= 25 for stance in STANCES), (topic, stances)
    off_topic = [example for example in seeds if not example.topics]
    assert len(off_topic) >= 400
    assert sum(bool(NEAR_MISS.search(example.text)) for example in off_topic) >= 150
    assert sum(len(example.topics) > 1 for example in seeds) >= 300


def test_every_paragraph_is_of_a_paragraphs_length(seeds: list[Example]) -> None:
    lengths = [len(example.text.split()) for example in seeds]
    assert min(lengths) >= 14 and max(lengths) <= 165
    assert np.percentile(lengths, 10) < 35 and np.percentile(lengths, 90) > 70


def test_every_row_says_where_it_comes_from(seeds: list[Example]) -> None:
    for example in seeds:
        assert example.document_id and example.source and example.language == "en"
        assert example.speaker is None or example.speaker in example.text, example.id
        assert None not in example.topics.values()
        assert example.text == " ".join(example.text.split())


def test_no_sentence_stands_twice(seeds: list[Example]) -> None:
    seen: dict[str, str] = {}
    for example in seeds:
        for sentence in re.split(r"(?<=[.!?…])[\"”’»')\]]*\s+", example.text):
            key = " ".join(words(sentence))
            if len(key.split()) >= 4:
                assert key not in seen, (sentence, example.id, seen[key])
                seen[key] = example.id


def test_no_two_paragraphs_share_a_quarter_of_their_5_grams(seeds: list[Example]) -> None:
    grams = [set(ngrams(example.text, 5)) for example in seeds]
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, own in enumerate(grams):
        shared = Counter(other for gram in own for other in holders[gram])
        for other, count in shared.items():
            share = count / min(len(own), len(grams[other]))
            assert share <= 0.25, (seeds[index].id, seeds[other].id, share)
        for gram in own:
            holders[gram].append(index)


def test_4_grams_are_as_distinct_as_in_real_news(seeds: list[Example]) -> None:
    grams = [gram for example in seeds for gram in ngrams(example.text, 4)]
    assert len(set(grams)) / len(grams) >= 0.93


def test_a_row_with_swapped_words_would_be_noticed(seeds: list[Example]) -> None:
    template = [
        Example(id="a", text=seeds[0].text, topics={}),
        Example(id="b", text=seeds[0].text.replace(" the ", " this ", 1), topics={}),
    ]
    with pytest.raises(AssertionError):
        test_no_two_paragraphs_share_a_quarter_of_their_5_grams(template)


def test_outlet_and_nation_do_not_give_the_stance_away(seeds: list[Example], taxonomy: Taxonomy) -> None:
    """Guessing the stance from topic and source alone, out of fold, stays far from reading the text."""
    rows = [(f"{topic} {example.source}", stance) for example in seeds for topic, stance in example.topics.items()]
    source, gold = [text for text, _ in rows], np.array([stance for _, stance in rows])
    features = CountVectorizer(ngram_range=(1, 2)).fit_transform(source)
    guess = cross_val_predict(LogisticRegression(max_iter=2000), features, gold, cv=5)
    assert (guess == gold).mean() < 0.6
    for nation in ("Russian", "American", "Ukrainian"):
        for topic in taxonomy.ids:
            found = {e.topics[topic] for e in seeds if topic in e.topics and nation in (e.source or "")}
            assert len(found) >= 2, (nation, topic, found)
            assert found == set(STANCES) or nation == "Ukrainian", (nation, topic, found)


@pytest.mark.skipif(
    not (ROOT.parent / "shared" / "seed-article.txt").exists(), reason="no real text to compare with beside the project"
)
def test_no_paragraph_is_copied_from_the_real_text_at_hand(seeds: list[Example]) -> None:
    folder: Path = ROOT.parent / "shared"
    real = (folder / "seed-article.txt").read_text() + (folder / "benchmarks/real-dev/test.jsonl").read_text()
    known = set(ngrams(real, 10))
    assert known
    for example in seeds:
        assert not known & set(ngrams(example.text, 10)), example.id
