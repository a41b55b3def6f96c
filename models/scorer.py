"""From a paragraph to its answer: scores, thresholds, the three non-answers, and the words that decided."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidParagraph
from models.examples import STANCES
from models.features import Row
from models.linear import FAMILY, LINK_PART, Contributions, FloatArray, LinearModel, sigmoid, softmax
from models.paragraphs import Paragraph, text_fault
from models.plain import Found, Label, heaviest, stretches
from models.results import Evidence, Result, StanceResult, TopicResult
from models.taxonomy import Taxonomy

if TYPE_CHECKING:
    from models.crossencoder import CrossEncoder

_NO_EVIDENCE = b"[]"
# By more than this no logit is away from that of its score, unless the score is closer to 0 or 1.
_ROUNDED = 1e-6

Decision = Literal["on_topic", "off_topic", "uncertain"]
TopicDecision = Literal["present", "absent", "uncertain"]
StanceLabel = Literal["favor", "against", "neutral"]
_STANCES = cast(Sequence[StanceLabel], STANCES)


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


# A topic and its score, and what else is known of it.
Scored = TypeVar("Scored", bound=tuple[Any, ...])


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
        self._ids = taxonomy.ids
        self._position = {name: index for index, name in enumerate(taxonomy.ids)}
        self._takes_stance = [bool(topic.proposition) and model.stance_weights is not None for topic in taxonomy.topics]
        chosen = [rules.topics[name] for name in taxonomy.ids]
        self._thresholds = [rule.threshold for rule in chosen]
        self._least = [min(rule.threshold, rule.uncertain_from) for rule in chosen]
        self._floors = _floors(np.array(self._least))

    @property
    def is_quick(self) -> bool:
        """Whether a paragraph takes microseconds: no encoder has a part in it, and it is labelled by compiled code."""
        return self.pairs is None and self.model.is_compiled

    @property
    def families(self) -> tuple[str, ...]:
        """The families that can be fitted with what is here, without a checkpoint: what was fine-tuned is carried on,
        and heads are fitted beside an encoder as it is, unless it has been fine-tuned on labels."""
        encoder = self.model.features.encoder
        beside = () if encoder is None else ("encoder",) if encoder.spec.tuned is None else ("tuned",)
        return (FAMILY, *beside, *(("crossencoder",) if self.pairs is not None else ()))

    def topic_scores(self, texts: Iterable[str]) -> FloatArray:
        """Return the probability of each topic, shape (n_texts, n_topics), in [0, 1]."""
        texts = list(texts)
        logits = self.model.topic_logits(texts)
        if self.pairs is not None:
            for text, of_text in zip(texts, logits, strict=True):
                for topic in np.flatnonzero(self._in_reach(self.pairs, of_text)).tolist():
                    of_text[topic] = self.pairs.topic_logit(text, topic, float(of_text[topic]))
        return sigmoid(logits)

    def stance_scores(self, pairs: Iterable[tuple[str, str]]) -> FloatArray:
        """Return the stance probabilities of (text, topic id) pairs, shape (n_pairs, 3), rows summing to 1."""
        read = self.model.features.read
        rows = [softmax(self._stance_logits(read(text), self._position[topic])) for text, topic in pairs]
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
        (result,) = self.classify_all((text,), ids=(id,), topics=topics, explain=explain)
        return result

    def classify_all(
        self,
        texts: Sequence[str],
        *,
        ids: Sequence[str],
        topics: Collection[str] = (),
        explain: bool = False,
        encoded: bool = False,
    ) -> list[Result]:
        """Label paragraphs as :meth:`classify` does, which says what it raises; other threads may run meanwhile.

        Parameters
        ----------
        texts, ids : sequence of str, length n
        topics : collection of str
        explain : bool
        encoded : bool
            Whether the results are for nothing but to be encoded by msgspec as JSON: their evidence may be JSON then,
            which takes less time.
        """
        for text in texts:
            if fault := text_fault(text):
                raise InvalidParagraph("text", fault)
        self.check_topics(topics)
        named = [self._position[name] for name in topics]
        # From one pass over the text, unless more is asked for than that gives.
        if self.pairs is None and not explain:
            labelled = zip(ids, self._labels(texts, named, encoded), strict=True)
            return [self._from_labels(id, labels, named) for id, labels in labelled]
        return [self._from_scores(text, id, named, explain) for text, id in zip(texts, ids, strict=True)]

    def classify_article(
        self,
        paragraphs: Sequence[Paragraph],
        *,
        topics: Collection[str] = (),
        explain: bool = False,
        encoded: bool = False,
    ) -> list[Result]:
        """Label the paragraphs of one article; each result carries its text and its place in the article."""
        ids = [f"p{number}" for number in range(1, len(paragraphs) + 1)]
        texts = [each.text for each in paragraphs]
        found = self.classify_all(texts, ids=ids, topics=topics, explain=explain, encoded=encoded)
        return [
            msgspec.structs.replace(result, text=paragraph.text, start=paragraph.start, end=paragraph.end)
            for result, paragraph in zip(found, paragraphs, strict=True)
        ]

    def takes_stance(self, topic: str) -> bool:
        """Tell whether the model answers for the stance toward a topic."""
        return self._takes_stance[self._position[topic]]

    def check_topics(self, topics: Collection[str]) -> None:
        """Raise InvalidParagraph when a named topic is not in the taxonomy."""
        for position, name in enumerate(topics):
            if name not in self._position:
                raise InvalidParagraph(f"topics[{position}]", f"no such topic; allowed are {', '.join(self._position)}")

    def _from_labels(self, id: str, labels: Sequence[Label], named: Collection[int]) -> Result:
        if not labels:
            return Result(id, "off_topic", [], [])
        decision, chosen = self._choose(labels, named)
        return Result(id, decision, [self._labelled(*each) for each in chosen], [])

    def _from_scores(self, text: str, id: str, named: Collection[int], explain: bool) -> Result:
        (found,) = self.topic_scores((text,)).tolist()
        decision, chosen = self._choose(enumerate(found), named)
        if not chosen:
            # Most of what comes in is about none of the topics, and no evidence is looked for in it.
            return Result(id, decision, [], [])
        row = self.model.features.read(text)
        return Result(id, decision, [self._topic(row, *each, explain) for each in chosen], [])

    def _choose(
        self, scored: Iterable[Scored], named: Collection[int]
    ) -> tuple[Decision, list[tuple[Scored, TopicDecision]]]:
        """Decide by the scores of topics; return the decision of the whole, and the topics to answer for with theirs,
        the likeliest first: those present, or else all candidates, and those named."""
        thresholds, least = self._thresholds, self._least
        present: list[tuple[Scored, TopicDecision]] = []
        candidates: list[tuple[Scored, TopicDecision]] = []
        others: list[tuple[Scored, TopicDecision]] = []
        for each in scored:
            topic, score = each[0], each[1]
            if score >= thresholds[topic]:
                present.append((each, "present"))
            elif score >= least[topic]:
                candidates.append((each, "uncertain"))
            elif topic in named:
                others.append((each, "absent"))
        decision: Decision = "off_topic"
        if present:
            decision, others = "on_topic", [*others, *(each for each in candidates if each[0][0] in named)]
        elif candidates:
            decision = "uncertain"
        chosen = [*(present or candidates), *others]
        if len(chosen) > 1:
            chosen.sort(key=lambda each: each[0][1], reverse=True)
        return decision, chosen

    def _labels(self, texts: Sequence[str], named: list[int], encoded: bool) -> list[list[Label]]:
        """Return what the model says of the topics that may be candidates, and of those that are named."""
        floors = self._floors
        if named:
            floors = floors.copy()
            floors[named] = -np.inf
        return self.model.label(texts, floors, encoded)

    def _labelled(self, label: Label, decision: TopicDecision) -> TopicResult:
        topic, score, found, stance = label
        answer = None
        if stance is not None and self._takes_stance[topic]:
            best, probabilities, decisive = stance
            answer = self._stance_result(best, probabilities, _evidence(decisive))
        return TopicResult(self._ids[topic], score, decision, answer, _evidence(found))

    def _in_reach(self, pairs: CrossEncoder, logits: FloatArray) -> NDArray[np.bool_]:
        return pairs.reads if self.exact else pairs.in_reach(sigmoid(logits))

    def _stance_logits(self, row: Row, topic: int) -> FloatArray:
        logits = self.model.stance_logits(row, topic)
        return logits if self.pairs is None else self.pairs.stance_logits(row.text, topic, logits)

    def _explain_topic(self, row: Row, topic: int) -> Contributions:
        parts = self.model.explain_topic(row, topic)
        return self.pairs.explain_topic(row.text, topic, parts) if self.pairs and self._is_read(row, topic) else parts

    def _explain_stance(self, row: Row, topic: int, stance: int) -> Contributions:
        parts = self.model.explain_stance(row, topic, stance)
        return parts if self.pairs is None else self.pairs.explain_stance(row.text, topic, stance, parts)

    def _is_read(self, row: Row, topic: int) -> bool:
        """Tell whether a pair model has a part in the topic's score."""
        return self.pairs is not None and bool(
            self._in_reach(self.pairs, self.model.topic_logits((row.text,))[0])[topic]
        )

    def _topic(self, row: Row, scored: tuple[int, float], decision: TopicDecision, explain: bool) -> TopicResult:
        topic, score = scored
        parts = self._explain_topic(row, topic)
        return TopicResult(
            topic=self._ids[topic],
            score=score,
            decision=decision,
            stance=self._stance(row, topic, explain) if self._takes_stance[topic] else None,
            evidence=_chunks(row.text, parts) if explain else _stretches(row.text, parts),
            bias=parts.bias if explain else None,
            zero_shot=self.pairs is not None and bool(self.pairs.zero_shot[topic]),
        )

    def _stance(self, row: Row, topic: int, explain: bool) -> StanceResult:
        probabilities = softmax(self._stance_logits(row, topic)).tolist()
        best = probabilities.index(max(probabilities))
        parts = self._explain_stance(row, topic, best)
        evidence = _chunks(row.text, parts) if explain else _stretches(row.text, parts)
        return self._stance_result(best, probabilities, evidence, parts.bias if explain else None)

    def _stance_result(
        self, best: int, probabilities: Sequence[float], evidence: list[Evidence], bias: float | None = None
    ) -> StanceResult:
        favor, against, neutral = probabilities
        label = _STANCES[best]
        return StanceResult(
            label,
            favor,
            against,
            neutral,
            favor - against,
            label if probabilities[best] >= self.rules.stance_certain_from else "uncertain",
            evidence,
            bias,
        )


def _floors(scores: FloatArray) -> FloatArray:
    """Return logits just below those whose scores are these: what is at least a score is above its floor."""
    sure = np.clip(scores, _ROUNDED, 1.0 - _ROUNDED)
    return np.where(scores < _ROUNDED, -np.inf, np.log(sure / (1.0 - sure)) - _ROUNDED)


def _evidence(found: Found) -> list[Evidence]:
    """Return evidence, or what takes its place in a result that is encoded; none is left out of that."""
    if not isinstance(found, bytes):
        return found
    return cast(list[Evidence], msgspec.Raw(found)) if found != _NO_EVIDENCE else []


def _chunks(text: str, parts: Contributions) -> list[Evidence]:
    """Return every chunk that carries weight."""
    weighed = zip(parts.spans, parts.weights.tolist(), strict=True)
    return [Evidence(start, end, text[start:end], weight) for (start, end), weight in weighed if weight]


def _stretches(text: str, parts: Contributions) -> list[Evidence]:
    return heaviest(stretches(text, parts.spans, parts.weights, LINK_PART))
