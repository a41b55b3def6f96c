"""From a paragraph to its answer: scores, thresholds, the three non-answers, and the words that decided."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidParagraph
from models.examples import STANCES
from models.features import Encoded
from models.linear import Contributions, FloatArray, LinearModel, sigmoid, softmax
from models.paragraphs import Paragraph, text_fault
from models.results import Evidence, Result, StanceResult, TopicResult
from models.taxonomy import Taxonomy

if TYPE_CHECKING:
    from models.crossencoder import CrossEncoder

_SHOWN_SPANS = 5
# A span is worth showing when it carries at least this part of what the heaviest one does.
_SHOWN_PART = 0.25
_LINK_PART = 0.1
_LETTER = re.compile(r"[^\W_]")

TopicDecision = Literal["present", "absent", "uncertain"]
StanceLabel = Literal["favor", "against", "neutral"]


class TopicRule(msgspec.Struct, frozen=True):
    """When a topic is present (``score >= threshold``) and when its absence is uncertain (``>= uncertain_from``)."""

    threshold: float
    uncertain_from: float


class Rules(msgspec.Struct, frozen=True):
    """The decisions of a bundle, made on out-of-fold scores.

    ``topics`` maps each topic's id to its rule; below ``stance_certain_from`` the likeliest stance is uncertain.
    """

    topics: dict[str, TopicRule]
    stance_certain_from: float


class Scorer:
    """Label paragraphs with one fitted model.

    Parameters
    ----------
    taxonomy : Taxonomy
    rules : Rules
    model : LinearModel
    pairs : CrossEncoder, optional
        Asked for the topics in reach of the model's heads, and for those that had no labels.

    Attributes
    ----------
    exact : bool
        Whether the pair model is asked for every topic; false at first.
    """

    def __init__(self, taxonomy: Taxonomy, rules: Rules, model: LinearModel, pairs: CrossEncoder | None = None) -> None:
        self.taxonomy = taxonomy
        self.rules = rules
        self.model = model
        self.pairs = pairs
        self.exact = False
        self._position = {name: index for index, name in enumerate(taxonomy.ids)}
        self._takes_stance = [bool(topic.proposition) and model.stance_weights is not None for topic in taxonomy.topics]
        self._thresholds = np.array([rules.topics[name].threshold for name in taxonomy.ids])
        self._uncertain_from = np.array([rules.topics[name].uncertain_from for name in taxonomy.ids])

    def topic_scores(self, texts: Iterable[str]) -> FloatArray:
        """Return the probability of each topic, shape (n_texts, n_topics), in [0, 1]."""
        rows = [self._topic_scores(self.model.features.encode(text)) for text in texts]
        return np.array(rows).reshape(len(rows), len(self._position))

    def stance_scores(self, pairs: Iterable[tuple[str, str]]) -> FloatArray:
        """Return the stance probabilities of (text, topic id) pairs, shape (n_pairs, 3), rows summing to 1."""
        encode = self.model.features.encode
        rows = [softmax(self._stance_logits(encode(text), self._position[topic])) for text, topic in pairs]
        return np.array(rows).reshape(len(rows), len(STANCES))

    def classify(self, text: str, *, id: str = "p1", topics: Collection[str] = (), explain: bool = False) -> Result:
        """Label one paragraph.

        Parameters
        ----------
        text : str
        id : str
            Given back with the result.
        topics : collection of str
            Topics to answer for whether or not they are present.
        explain : bool
            Give every chunk that carries weight and the bias, so that they add up to the logit, instead of the
            weightiest few.

        Raises
        ------
        InvalidParagraph
            If the text cannot be scored or a named topic does not exist.
        """
        if fault := text_fault(text):
            raise InvalidParagraph("text", fault)
        self.check_topics(topics)
        row = self.model.features.encode(text)
        scores = self._topic_scores(row)
        present = scores >= self._thresholds
        uncertain = ~present & (scores >= self._uncertain_from)
        shown = present if present.any() else uncertain
        wanted = {*np.flatnonzero(shown).tolist(), *(self._position[name] for name in topics)}
        return Result(
            id=id,
            decision="on_topic" if present.any() else "uncertain" if uncertain.any() else "off_topic",
            topics=[
                self._topic(
                    row,
                    index,
                    float(scores[index]),
                    "present" if present[index] else "uncertain" if uncertain[index] else "absent",
                    explain,
                )
                for index in sorted(wanted, key=lambda index: -scores[index])
            ],
            speakers=[],
        )

    def classify_article(
        self, paragraphs: Sequence[Paragraph], *, topics: Collection[str] = (), explain: bool = False
    ) -> list[Result]:
        """Label the paragraphs of one article; each result carries its text and its place in the article."""
        return [
            msgspec.structs.replace(
                self.classify(paragraph.text, id=f"p{number}", topics=topics, explain=explain),
                text=paragraph.text,
                start=paragraph.start,
                end=paragraph.end,
            )
            for number, paragraph in enumerate(paragraphs, 1)
        ]

    def takes_stance(self, topic: str) -> bool:
        """Tell whether the model answers for the stance toward a topic."""
        return self._takes_stance[self._position[topic]]

    def check_topics(self, topics: Collection[str]) -> None:
        """Raise InvalidParagraph when a named topic is not in the taxonomy."""
        for position, name in enumerate(topics):
            if name not in self._position:
                raise InvalidParagraph(f"topics[{position}]", f"no such topic; allowed are {', '.join(self._position)}")

    def _topic_scores(self, row: Encoded) -> FloatArray:
        logits = self.model.topic_logits(row)
        if self.pairs is not None:
            for topic in np.flatnonzero(self._in_reach(self.pairs, logits)).tolist():
                logits[topic] = self.pairs.topic_logit(row.text, topic, float(logits[topic]))
        return sigmoid(logits)

    def _in_reach(self, pairs: CrossEncoder, logits: FloatArray) -> NDArray[np.bool_]:
        return np.ones(len(logits), dtype=bool) if self.exact else pairs.in_reach(sigmoid(logits))

    def _stance_logits(self, row: Encoded, topic: int) -> FloatArray:
        logits = self.model.stance_logits(row, topic)
        return logits if self.pairs is None else self.pairs.stance_logits(row.text, topic, logits)

    def _explain_topic(self, row: Encoded, topic: int) -> Contributions:
        parts = self.model.explain_topic(row, topic)
        if self.pairs is None or not self._in_reach(self.pairs, self.model.topic_logits(row))[topic]:
            return parts
        return self.pairs.explain_topic(row.text, topic, parts)

    def _explain_stance(self, row: Encoded, topic: int, stance: int) -> Contributions:
        parts = self.model.explain_stance(row, topic, stance)
        return parts if self.pairs is None else self.pairs.explain_stance(row.text, topic, stance, parts)

    def _topic(self, row: Encoded, topic: int, score: float, decision: TopicDecision, explain: bool) -> TopicResult:
        evidence, bias = _evidence(row.text, self._explain_topic(row, topic), explain)
        return TopicResult(
            topic=self.taxonomy.topics[topic].id,
            score=score,
            decision=decision,
            stance=self._stance(row, topic, explain) if self._takes_stance[topic] else None,
            evidence=evidence,
            bias=bias,
            zero_shot=self.pairs is not None and bool(self.pairs.zero_shot[topic]),
        )

    def _stance(self, row: Encoded, topic: int, explain: bool) -> StanceResult:
        probabilities = softmax(self._stance_logits(row, topic))
        best = int(probabilities.argmax())
        favor, against, neutral = map(float, probabilities)
        label = cast(StanceLabel, STANCES[best])
        evidence, bias = _evidence(row.text, self._explain_stance(row, topic, best), explain)
        return StanceResult(
            label=label,
            favor=favor,
            against=against,
            neutral=neutral,
            score=favor - against,
            decision=label if probabilities[best] >= self.rules.stance_certain_from else "uncertain",
            evidence=evidence,
            bias=bias,
        )


def _evidence(text: str, parts: Contributions, explain: bool) -> tuple[list[Evidence], float | None]:
    """Turn contributions into evidence: every chunk and the bias, or the weightiest stretches in favour."""
    weights = parts.weights
    if explain:
        spans = [
            Evidence(start, end, text[start:end], float(weight))
            for (start, end), weight in zip(parts.spans, weights, strict=True)
            if weight
        ]
        return spans, parts.bias
    stretches = _stretches(weights)
    stretches.sort(key=lambda stretch: -weights[stretch].sum())
    shown: list[Evidence] = []
    for stretch in stretches[:_SHOWN_SPANS]:
        weight = float(weights[stretch].sum())
        if shown and weight < _SHOWN_PART * shown[0].weight:
            break
        start, end = parts.spans[stretch.start][0], parts.spans[stretch.stop - 1][1]
        if first := _LETTER.search(text, start, end):
            while not _LETTER.match(text[end - 1]):
                end -= 1
            shown.append(Evidence(first.start(), end, text[first.start() : end], weight))
    return shown, None


def _stretches(weights: FloatArray) -> list[slice]:
    """Find the runs of neighbouring chunks that each carry a notable part of the heaviest chunk's weight."""
    if not weights.size or weights.max() <= 0:
        return []
    strong = np.concatenate([[False], weights >= max(_LINK_PART * weights.max(), 1e-12), [False]])
    borders = np.flatnonzero(strong[1:] != strong[:-1])
    return [slice(int(a), int(b)) for a, b in zip(borders[::2], borders[1::2], strict=True)]
