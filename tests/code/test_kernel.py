"""The compiled feature function against the plain one, and against scikit-learn's estimators on the same weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from models.bundle import Bundle
from models.examples import Example
from models.features import IS_COMPILED, Labeller, NgramFeatures
from models.linear import LinearModel, sides_of
from models.plain import Label, Weights, sigmoid_of
from models.results import Evidence
from training.export import pipelines

# Where the letters, digits, signs and white space of scripts begin; 400 code points of each.
SCRIPTS = (
    0x21, 0xC0, 0x180, 0x300, 0x370, 0x410, 0x531, 0x5D0, 0x620, 0x905, 0xE01, 0x10A0, 0x1200, 0x1E00, 0x2000, 0x2150,
    0x2C00, 0x3041, 0x4E00, 0xAC00, 0xFB00, 0xFE70, 0x10400, 0x1D400, 0x1D7CE, 0x1F600, 0x20000,
)  # fmt: skip
Pair = tuple[NgramFeatures, NgramFeatures]


@pytest.fixture(scope="module")
def both(bundle: Bundle) -> Pair:
    """The features of the seeds, compiled and not."""
    ngrams = bundle.scorer.model.features.ngrams
    made = [NgramFeatures(ngrams.words, ngrams.chars, ngrams.idf, compiled=compiled) for compiled in (True, False)]
    return made[0], made[1]


@pytest.fixture(scope="module")
def texts(seeds: list[Example]) -> list[str]:
    """Ten thousand texts: the seeds' sentences mixed with words of many scripts."""
    drawn = random.Random(5)
    words = [word for example in seeds for word in example.text.split()]
    made = []
    for _ in range(10_000):
        parts = []
        for _ in range(drawn.randint(1, 40)):
            if drawn.random() < 0.7:
                parts.append(drawn.choice(words))
            else:
                parts.append(
                    "".join(chr(drawn.choice(SCRIPTS) + drawn.randrange(400)) for _ in range(drawn.randint(1, 30)))
                )
        made.append(drawn.choice((" ", "  ", "\n", " ")).join(parts))
    return made


@pytest.fixture(scope="module")
def labellers(both: Pair, bundle: Bundle) -> tuple[Labeller, Labeller]:
    """What labels by the weights of the seeds, compiled and not."""
    model = bundle.scorer.model
    assert model.stance_weights is not None
    sides = sides_of(model.topic_weights, model.stance_weights)
    weights = Weights(model.topic_weights, model.topic_bias, sides, model.stance_bias)
    compiled, plain = (features.labeller(weights, 0.1) for features in both)
    assert type(compiled) is not type(plain)
    return compiled, plain


@pytest.fixture(scope="module")
def check_equal(both: Pair, labellers: tuple[Labeller, Labeller], bundle: Bundle) -> Callable[[str], None]:
    """What sees that the compiled features and labels of a text are the plain ones."""
    model = bundle.scorer.model
    assert model.stance_weights is not None
    matrices = (
        (model.topic_weights, tuple(np.eye(model.topic_weights.shape[1])[1])),
        (model.topic_weights[:, 3:4], (1.0,)),
        (model.stance_weights[4], (2 / 3, -1 / 3, -1 / 3)),
    )

    def check(text: str) -> None:
        compiled, plain = (features.read(text) for features in both)
        np.testing.assert_array_equal(compiled.columns(), plain.columns())
        # To the last bit.
        assert compiled.values().tobytes() == plain.values().tobytes()
        for matrix, direction in matrices:
            np.testing.assert_allclose(compiled.dot(matrix), plain.dot(matrix), atol=1e-12)
            ours, theirs = (row.shares(matrix, direction) for row in (compiled, plain))
            assert ours.spans == theirs.spans
            np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-12)
        check_labels(*labellers, text)

    return check


def check_labels(compiled: Labeller, plain: Labeller, text: str) -> None:
    # Every other topic is asked for.
    logits = np.frombuffer(compiled.logits((text,)))
    floors = np.where(np.arange(len(logits)) % 2, -np.inf, np.inf)
    ours, theirs = compiled.label((text,), floors)[0], plain.label((text,), floors)[0]
    assert [label[0] for label in ours] == [label[0] for label in theirs] == list(range(1, len(logits), 2))
    np.testing.assert_allclose(logits, np.frombuffer(plain.logits((text,))), atol=1e-9)
    for labeller, found in ((compiled, ours), (plain, theirs)):
        assert decoded(labeller.label((text,), floors, True)[0]) == found
    for one, other in zip(ours, theirs, strict=True):
        assert one[1] == pytest.approx(sigmoid_of(logits[one[0]]), rel=1e-12)
        check_evidence(one[2], other[2])
        if one[3] is None or other[3] is None:
            assert one[3] is other[3]
            continue
        assert one[3][0] == other[3][0]
        np.testing.assert_allclose(one[3][1], other[3][1], atol=1e-9)
        check_evidence(one[3][2], other[3][2])


def decoded(labels: list[Label]) -> list[Label]:
    """Return encoded labels as they are where they are not."""

    def evidence(found: list[Evidence] | bytes) -> list[Evidence]:
        assert isinstance(found, bytes)
        return msgspec.json.decode(found, type=list[Evidence])

    return [
        (topic, score, evidence(found), stance and (stance[0], stance[1], evidence(stance[2])))
        for topic, score, found, stance in labels
    ]


def check_evidence(ours: list[Evidence], theirs: list[Evidence]) -> None:
    # Rounded to six places.
    np.testing.assert_allclose([each.weight for each in ours], [each.weight for each in theirs], atol=1.1e-6)
    one, other = ({(each.start, each.end, each.text): each.weight for each in found} for found in (ours, theirs))
    for span in one.keys() & other.keys():
        assert one[span] == pytest.approx(other[span], rel=1e-7, abs=1.1e-6)
    # Where the last ones weigh the same but for rounding, either may be left out.
    for span in one.keys() ^ other.keys():
        assert {**one, **other}[span] == pytest.approx(ours[-1].weight, rel=1e-7, abs=1.1e-6)


def test_it_is_compiled_here() -> None:
    assert IS_COMPILED


def test_it_is_equal_on_the_seeds_and_on_many_scripts(
    check_equal: Callable[[str], None], seeds: list[Example], texts: list[str]
) -> None:
    for text in [example.text for example in seeds[::40]] + texts[::25]:
        check_equal(text)


@settings(deadline=None, max_examples=250)
@given(text=st.text(max_size=300))
def test_it_is_equal_on_any_text(check_equal: Callable[[str], None], text: str) -> None:
    check_equal(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a", "İİ Σας ΑΣ Σ", "x" * 100_000, "ab " * 30_000, "a b " * 999, "\u2028".join("abc"),
        "one_two __ 1 22",
        # Chunks that push one another out of the cache before the end of the text.
        " ".join(f"treaty{number}" for number in range(20_000)),
        # What JSON escapes, and letters of one to four bytes.
        'They said:\t"sanctions\\are\x01\x1f war",\nэто санкции\u007f naïve 制裁 \U0001f600 sanctions',
        "the " + "harbours" * 5 + " the " + "harbours" * 5 + " the harbour",
    ],
)  # fmt: skip
def test_it_is_equal_at_the_edges(check_equal: Callable[[str], None], text: str) -> None:
    check_equal(text)


def test_scores_are_those_of_scikit_learns_estimators_on_ten_thousand_texts(bundle: Bundle, texts: list[str]) -> None:
    scores = bundle.scorer.topic_scores(texts)
    # The estimators are given scikit-learn's own matrix of its own vectorisers.
    made = pipelines(bundle)["topics"]
    matrix = next(iter(made.values()))[:-1].transform(texts)
    for index, name in enumerate(bundle.taxonomy.ids):
        head = made[name][-1]
        assert isinstance(head, LogisticRegression)
        np.testing.assert_allclose(scores[:, index], expit(matrix @ head.coef_[0] + head.intercept_[0]), atol=1e-6)


def test_threads_share_one_vocabulary(labellers: tuple[Labeller, Labeller], texts: list[str]) -> None:
    compiled, _ = labellers
    some, floors = texts[:2_000], np.full(11, 0.0)
    logits, labels = compiled.logits(some), [compiled.label((text,), floors)[0] for text in some]
    assert sum(map(len, labels)) > 100
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: compiled.logits(some), range(16)):
            assert found == logits
        for found in pool.map(lambda _: compiled.label(some, floors), range(16)):
            assert found == labels


@pytest.mark.parametrize("n_topics", [1, 17, 63, 64])
@pytest.mark.parametrize("has_stances", [True, False])
def test_any_number_of_topics_is_labelled_alike(both: Pair, texts: list[str], n_topics: int, has_stances: bool) -> None:
    drawn = np.random.default_rng(n_topics)
    size = both[0].size
    topics, stances = (drawn.normal(size=shape).astype(np.float32) for shape in ((n_topics, size), (4, size, 3)))
    stances = stances[[0, *(1 + np.arange(n_topics) % 3)]]
    weights = Weights(
        topics.T,
        drawn.normal(size=n_topics),
        sides_of(topics.T, stances) if has_stances else [],
        drawn.normal(size=(n_topics, 3)) if has_stances else None,
    )
    compiled, plain = (features.labeller(weights, 0.1) for features in both)
    model = LinearModel(both[0], topics.T, weights.topic_bias)
    assert model.is_compiled == (n_topics < 64)
    for text in texts[:10]:
        check_labels(compiled, plain, text)
    assert np.frombuffer(compiled.logits(texts[:3])).shape == (3 * n_topics,)


def test_a_text_of_another_kind_is_lowered_as_any_text_is(labellers: tuple[Labeller, Labeller]) -> None:
    class Short(str):
        def lower(self) -> str:
            return "aa"

    compiled, _ = labellers
    text, floors = "Sanctions " * 5_000, np.full(11, -np.inf)
    assert compiled.label([Short(text)], floors) == compiled.label([text], floors)


def test_rows_outlive_one_another_and_their_features(bundle: Bundle, seeds: list[Example]) -> None:
    ngrams = bundle.scorer.model.features.ngrams
    made = NgramFeatures(ngrams.words, ngrams.chars, ngrams.idf)
    some = [example.text for example in seeds[:50]]
    rows = [made.read(text) for text in some]
    kept = [row.values().copy() for row in rows]
    del made
    for row, values, text in zip(rows, kept, some, strict=True):
        assert row.text == text
        np.testing.assert_array_equal(row.values(), values)


def test_what_does_not_fit_is_refused(both: Pair) -> None:
    row, size = both[0].read("some text"), both[0].size
    for wrong in (np.zeros((size - 1, 2), np.float32), np.zeros((size, 2)), np.zeros(size, np.float32)):
        with pytest.raises(ValueError, match=f"float32 matrix of at least {size} rows"):
            row.dot(wrong)
    good = np.zeros((size, 2), np.float32)
    with pytest.raises(ValueError, match="direction of 2"):
        row.shares(good, (1.0,))
    weights = Weights(good, np.zeros(2), [np.zeros((size, 4), np.float32)] * 2, np.zeros((2, 3)))
    for wrongly, message in (
        (weights._replace(topic_bias=np.zeros(3)), "float64 numbers"),
        (weights._replace(topic_bias=np.zeros(2, np.float32)), "float64 numbers"),
        (weights._replace(sides=weights.sides[:1]), "sides of 2 topics"),
        (weights._replace(sides=[good, good]), "of 4 for a topic's sides"),
        (weights._replace(stance_bias=np.zeros((3, 2))), "float64 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            both[0].labeller(wrongly, 0.1)
    labeller = both[0].labeller(weights, 0.1)
    with pytest.raises(ValueError, match="float64 numbers"):
        labeller.label(["some text"], np.zeros(1))
    with pytest.raises(TypeError, match="text"):
        labeller.label([3], np.zeros(2))  # type: ignore[list-item]  # what untyped callers give
    with pytest.raises(TypeError, match="text"):
        both[0].read(b"bytes")  # type: ignore[arg-type]  # what untyped callers give
    with pytest.raises(TypeError, match="text"):
        both[0].dot(["text", 3], good)  # type: ignore[list-item]  # the same
