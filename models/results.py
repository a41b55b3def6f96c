"""What comes back for a paragraph: the one shape of an answer, over HTTP, from the command line and in Python.

Results hold nothing that could hold them, so the garbage collector need not look for cycles in them.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """A stretch of the paragraph, ``text == paragraph[start:end]`` in characters, and what it adds to a logit: to six
    places, unless every word is explained."""

    start: int
    end: int
    text: str
    weight: float


class StanceResult(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The stance toward one topic's proposition.

    ``favor + against + neutral`` is 1. ``score`` is ``favor - against``, in [-1, 1]. ``label`` is the likeliest of the
    three; ``decision`` repeats it, or is ``uncertain`` where its probability lies in the band in which the model was
    wrong too often on held-out data. ``evidence`` weighs on the centred logit of ``label``; with ``bias`` it adds up
    to it when explained in full.
    """

    label: Literal["favor", "against", "neutral"]
    favor: float
    against: float
    neutral: float
    score: float
    decision: Literal["favor", "against", "neutral", "uncertain"]
    evidence: list[Evidence] = []
    bias: float | None = None


class TopicResult(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One topic of a paragraph.

    ``score`` is the calibrated probability, in [0, 1], that the paragraph is about it. ``evidence`` weighs on its
    log-odds; with ``bias`` it adds up to them when explained in full. ``zero_shot`` marks a topic that no labelled
    paragraph has: it is scored by its wording alone, and its score is no tested probability.
    """

    topic: str
    score: float
    decision: Literal["present", "absent", "uncertain"]
    stance: StanceResult | None = None
    evidence: list[Evidence] = []
    bias: float | None = None
    zero_shot: bool = False


class Result(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One paragraph, labelled. ``text``, ``start`` and ``end`` say where in the article it stood, if one was sent."""

    id: str
    decision: Literal["on_topic", "off_topic", "uncertain"]
    topics: list[TopicResult]
    speakers: list[str]
    text: str | None = None
    start: int | None = None
    end: int | None = None
