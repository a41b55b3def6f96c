"""The crossencoder family: a pair model reads a topic's proposition and the paragraph together, beside the heads.

The heads are cheap and see every topic; the pair model reads only the topics in their reach, and those that have no
labels, which the heads cannot know. Its logits are means over the tokens, so what each word adds can be read off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.examples import STANCES
from models.features import add_by_chunk
from models.linear import Contributions, FloatArray, softmax
from models.taxonomy import Taxonomy, Topic

ABSENT = len(STANCES)
_REMEMBERED = 64


class Blend(msgspec.Struct, frozen=True):
    """How two logits become one: ``head * heads + pair * pairs + offset``, the offset one for each outcome."""

    head: float
    pair: float
    offset: list[float]


class CrossEncoderSpec(msgspec.Struct, frozen=True):
    """What a pair model is and how it is used.

    ``topic`` and ``stance`` blend its logits with the heads'. ``alone_topic`` and ``alone_stance`` are for the topics
    of ``zero_shot``, which had no labels, and are present from ``alone_from`` on: that was fitted on other topics, and
    nobody has checked it on these. A topic is in reach from the heads' score ``reach_from`` on. ``known`` has the
    wordings of the topics that it was tuned on, by their ids: a topic that has labels and is none of these is left to
    the heads, since the blend is that of topics that the pair model knows.
    """

    source: str
    revision: str | None
    architecture: str
    max_length: int
    digests: dict[str, str]
    reach_from: float
    topic: Blend
    stance: Blend
    alone_topic: Blend
    alone_stance: Blend
    known: dict[str, str]
    zero_shot: list[str] = []
    alone_from: float = 0.5


class Reading(NamedTuple):
    """What the pair model found: its logits, shape (4,), over ``STANCES`` and absence, and what they are the sum of:
    a row of ``tokens``, (n, 4), for each of ``spans``, and ``rest``, (4,)."""

    logits: FloatArray
    spans: list[tuple[int, int]]
    tokens: FloatArray
    rest: FloatArray


def wording(topic: Topic) -> str:
    """Return what the pair model reads of a topic."""
    return f"{topic.title}: {topic.proposition or topic.description or ''}".rstrip(": ")


def open_tokenizer(tokenizer: bytes, max_length: int) -> Tokenizer:
    """Open a ``tokenizer.json`` for (wording, paragraph) pairs; the longer is cut where both are too long."""
    found = Tokenizer.from_buffer(tokenizer)
    found.no_padding()
    found.enable_truncation(max_length, strategy="longest_first")
    return found


class CrossEncoder:
    """A pair model, and how it is blended with the heads.

    Parameters
    ----------
    graph : bytes
        ONNX: ids and, if it knows them, segments of shape (1, n_tokens) in, shares of the logits of shape
        (1, n_tokens, 4) out.
    tokenizer : bytes
        A ``tokenizer.json``.
    spec : CrossEncoderSpec
    taxonomy : Taxonomy
    """

    def __init__(self, graph: bytes, tokenizer: bytes, spec: CrossEncoderSpec, taxonomy: Taxonomy) -> None:
        self.graph, self.spec = graph, spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # Its warnings are about the machine it runs on.
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        wordings = [wording(topic) for topic in taxonomy.topics]
        self.zero_shot = np.array([name in spec.zero_shot for name in taxonomy.ids], dtype=bool)
        known = [spec.known.get(name) == text for name, text in zip(taxonomy.ids, wordings, strict=True)]
        # Of the topics, which it has a say in.
        self.reads: NDArray[np.bool_] = self.zero_shot | np.array(known, dtype=bool)
        # No method: cached by the object that it belongs to, it would keep a bundle that another took over from.
        self.read: Callable[[str, int], Reading] = lru_cache(maxsize=_REMEMBERED)(
            partial(_read, session, open_tokenizer(tokenizer, spec.max_length), wordings)
        )

    def in_reach(self, scores: FloatArray) -> NDArray[np.bool_]:
        """Tell which topics the pair model is asked for, given the heads' scores of shape (n_topics,)."""
        return self.zero_shot | (self.reads & (scores >= self.spec.reach_from))

    def topic_logit(self, text: str, topic: int, head: float) -> float:
        """Return the blended log-odds of a topic, given the heads'."""
        blend = self._topic_blend(topic)
        return blend.head * head + blend.pair * presence(self.read(text, topic).logits) + blend.offset[0]

    def stance_logits(self, text: str, topic: int, heads: FloatArray) -> FloatArray:
        """Return the blended stance logits, shape (3,), their mean 0, given the heads'."""
        if not self.reads[topic]:
            return heads
        blend = self._stance_blend(topic)
        found = blend.head * heads + blend.pair * self.read(text, topic).logits[:ABSENT] + np.array(blend.offset)
        return np.asarray(found - found.mean())

    def explain_topic(self, text: str, topic: int, head: Contributions) -> Contributions:
        """Take the blended log-odds of a topic apart: to first order in the pair model's, what is over is bias."""
        blend, reading = self._topic_blend(topic), self.read(text, topic)
        direction = np.append(softmax(reading.logits[:ABSENT]), -1.0)
        curved = presence(reading.logits) - float(reading.logits @ direction)
        return _blended(blend, head, reading, direction, blend.offset[0] + blend.pair * curved)

    def explain_stance(self, text: str, topic: int, stance: int, head: Contributions) -> Contributions:
        """Take one stance's blended logit apart."""
        if not self.reads[topic]:
            return head
        blend = self._stance_blend(topic)
        direction = np.append(np.eye(ABSENT)[stance] - 1 / ABSENT, 0.0)
        offset = blend.offset[stance] - sum(blend.offset) / ABSENT
        return _blended(blend, head, self.read(text, topic), direction, offset)

    def _topic_blend(self, topic: int) -> Blend:
        return self.spec.alone_topic if self.zero_shot[topic] else self.spec.topic

    def _stance_blend(self, topic: int) -> Blend:
        return self.spec.alone_stance if self.zero_shot[topic] else self.spec.stance


def _read(
    session: onnxruntime.InferenceSession, tokenizer: Tokenizer, wordings: Sequence[str], text: str, topic: int
) -> Reading:
    encoding = tokenizer.encode(wordings[topic], text)
    inputs = {"ids": encoding.ids, "segments": encoding.type_ids}
    # A transformer that knows no segments has no such input.
    given = {each.name: np.array([inputs[each.name]], dtype=np.int64) for each in session.get_inputs()}
    tokens: NDArray[Any] = session.run(None, given)[0][0].astype(np.float64)
    own = np.array([sequence == 1 for sequence in encoding.sequence_ids], dtype=bool)
    spans = [span for span, is_own in zip(encoding.offsets, own, strict=True) if is_own]
    return Reading(tokens.sum(axis=0), spans, tokens[own], tokens[~own].sum(axis=0))


def presence(logits: FloatArray) -> float:
    """Return the log-odds of any stance against absence, from logits of shape (4,)."""
    return float(np.logaddexp.reduce(logits[:ABSENT]) - logits[ABSENT])


def _blended(
    blend: Blend, head: Contributions, reading: Reading, direction: FloatArray, offset: float
) -> Contributions:
    weights = blend.head * head.weights
    shares = blend.pair * (reading.tokens @ direction)
    rest = add_by_chunk([start for start, _ in head.spans], reading.spans, shares, weights)
    bias = blend.head * head.bias + blend.pair * float(reading.rest @ direction) + rest + offset
    return Contributions(bias, head.spans, weights)
