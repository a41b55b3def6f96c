"""From a label as a tool's user wrote it to a topic, a stance or both; and the nearest names of one unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from models.examples import STANCES, canonical_stance
from models.taxonomy import Taxonomy, Topic

Kind = Literal["topic", "stance", "off_topic", "dropped", "unknown", "unknown_stance"]
# A label, and the stance that goes with it if it stands apart from it.
Mark = tuple[object, object]

_GAPS = " \t\r\n:/=|_–—-"
_SEPARATORS = re.compile(f"[{_GAPS}]+")
_OFF_TOPIC = frozenset((
    "off topic", "offtopic", "none", "none of these", "none of the above", "no topic", "irrelevant", "not relevant",
    "other", "others", "другое", "не по теме", "нет темы",
))  # fmt: skip
_PRESENT = frozenset(("1", "1.0", "x", "х", "+", "✓", "yes", "y", "true", "present", "mentioned", "да"))
_ABSENT = frozenset(("", "0", "0.0", "no", "n", "false", "absent", "not mentioned", "off topic", "nan", "нет"))
# No name is as long; a paragraph that stands where a label should is not worth keeping in mind.
_MAX_LABEL = 1000
_MIN_WORD = 4
_MIN_LIKENESS = 0.5
# A word of a title or a proposition says less than the whole of it.
_WORD_WEIGHT = 0.8


class Meaning(NamedTuple):
    """What a label says."""

    kind: Kind
    topic: str = ""
    stance: str | None = None


class Names:
    """The names of a taxonomy's topics, with the caller's own names beside them.

    Parameters
    ----------
    taxonomy : Taxonomy
        Topics answer to their id, title and proposition, in any case and with any of space, ``_`` and ``-``.
    renamed : mapping
        From a label as it stands in a file to a topic, or a stance, or ``""`` to drop it.
    """

    def __init__(self, taxonomy: Taxonomy, renamed: Mapping[str, str]) -> None:
        self._taxonomy = taxonomy
        self._renamed = renamed
        self._topics = _names(taxonomy)
        self._propositions = frozenset(topic.id for topic in taxonomy.topics if topic.proposition)
        self._meanings: dict[str, Meaning] = {}

    def meaning(self, label: str) -> Meaning:
        """Read a label: ``crimea``, ``crimea: favor``, ``favor``, ``off topic``."""
        label = label.strip()
        if len(label) > _MAX_LABEL:
            return Meaning("unknown")
        found = self._meanings.get(label)
        if found is None:
            found = self._meanings[label] = self._read(label)
        return found

    def topic(self, name: str) -> str | None:
        """Return the id of the topic that answers to `name`, if one does."""
        said = self._renamed.get(name.strip(), name).strip()
        return self._topics.get(said) or self._topics.get(_key(said))

    def stance(self, value: str | int) -> str | None:
        """Return the stance that `value` names, ``""`` if it is to be dropped, or None when it names none."""
        said = self._renamed.get(str(value).strip(), value)
        return "" if said == "" else canonical_stance(said)

    def takes_stance(self, topic: str) -> bool:
        return topic in self._propositions

    def control(self, name: str) -> str | None:
        """Return the topic that a control or a column is about: ``crimea``, ``stance_crimea``, ``crimea_stance``."""
        key = _key(name)
        return self.topic(name) or self._topics.get(key.removeprefix("stance ").removesuffix(" stance"))

    def nearest(self, label: str, *, stance: bool = False) -> list[str]:
        """Return up to three stances, or ids of topics, that are most like `label`, best first."""
        matcher = SequenceMatcher(autojunk=False)
        matcher.set_seq2(_key(label))
        if stance:
            last = _key(label).rpartition(" ")[2]
            return sorted(STANCES, key=lambda name: -SequenceMatcher(None, name, last).ratio())
        likeness = {topic.id: _likeness(matcher, topic) for topic in self._taxonomy.topics}
        best = sorted(likeness.items(), key=lambda pair: -pair[1])[:3]
        return [topic for topic, ratio in best if ratio >= _MIN_LIKENESS]

    def _read(self, label: str) -> Meaning:
        said = self._renamed.get(label, label).strip()
        if not said:
            return Meaning("dropped")
        if topic := self.topic(label):
            return Meaning("topic", topic)
        if _key(said) in _OFF_TOPIC:
            return Meaning("off_topic")
        stance = canonical_stance(said)
        if stance and not said.isdigit():
            return Meaning("stance", stance=stance)
        word = _SEPARATORS.split(said)[-1]
        head = said.removesuffix(word)
        if self._renamed.get(head.rstrip(_GAPS)) == "":
            return Meaning("dropped")
        named = self.topic(head.rstrip(_GAPS))
        if named and (stance := self.stance(word)) is not None:
            return Meaning("topic", named, stance or None)
        return Meaning("unknown_stance" if named and head.rstrip()[-1] in ":/=|" else "unknown")


def toward(topic: str, value: str) -> list[Mark]:
    """Read what stands under a topic's own column or control: a stance, or whether the topic is there at all."""
    key = _key(value)
    if key in _ABSENT:
        return []
    return [(topic, None if key in _PRESENT else value)]


def _key(name: str) -> str:
    return " ".join(part for part in _SEPARATORS.split(name.casefold()) if part).rstrip(".")


def _names(taxonomy: Taxonomy) -> dict[str, str]:
    """Map every name to its topic; an id comes before a title, and a name that two topics share is none."""
    names: dict[str, str] = {}
    for field in ("proposition", "title", "id"):
        owners: dict[str, set[str]] = {}
        for topic in taxonomy.topics:
            owners.setdefault(_key(getattr(topic, field) or ""), set()).add(topic.id)
        names.update({name: min(ids) for name, ids in owners.items() if name and len(ids) == 1})
    # Two ids may differ in nothing but "_" and "-".
    return {**names, **{topic.id: topic.id for topic in taxonomy.topics}}


def _likeness(matcher: SequenceMatcher[str], topic: Topic) -> float:
    """Return how like a topic's nearest name is: 1 if it is the same, 0 if it is not worth naming."""
    wholes = {_key(name) for name in (topic.id, topic.title, topic.proposition or "")}
    words = {word.strip(".,;!?()") for name in wholes for word in name.split() if len(word) >= _MIN_WORD}
    best = 0.0
    for name, weight in [*((name, 1.0) for name in wholes), *((word, _WORD_WEIGHT) for word in words)]:
        matcher.set_seq1(name)
        floor = max(best, _MIN_LIKENESS)
        if weight * matcher.real_quick_ratio() >= floor and weight * matcher.quick_ratio() >= floor:
            best = max(best, weight * matcher.ratio())
    return best
