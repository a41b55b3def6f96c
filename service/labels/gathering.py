"""Collects labels, faults, unknown labels and what is skipped, while a reader goes through a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from models.errors import shorten
from models.examples import STANCES, labelled_text_fault
from models.paragraphs import text_fault
from service.labels.names import Mark, Meaning, Names
from service.labels.records import ABOUT, Label, Reading, UnknownLabel

MAX_LISTED = 100
# A text with this many contradicting labels is compared with no more of them.
_MAX_VERSIONS = 8


class Gathering:
    """What was read so far.

    Parameters
    ----------
    names : Names
        What labels may say.
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        self.labels: list[Label] = []
        self._places: dict[tuple[str | None, ...], list[int]] = {}
        self._skipped: Counter[str] = Counter()
        self._faults: list[str] = []
        self._n_faults = 0
        self._unknown: Counter[tuple[str, bool]] = Counter()
        self._first: dict[tuple[str, bool], str] = {}

    def fault(self, where: str, message: str) -> None:
        """Note something wrong. `message` repeats no more of the input than `shorten` leaves."""
        self._n_faults += 1
        if self._n_faults <= MAX_LISTED:
            self._faults.append(f"{where}: {message}")

    def skip(self, why: str) -> None:
        """Count a paragraph that is not labelled, in one word: ``cancelled``, ``unlabelled``."""
        self._skipped[why] += 1

    def add(
        self, where: str, text: object, marks: Iterable[Mark], about: Mapping[str, str], *, partial: bool = False
    ) -> None:
        """Check a labelled paragraph, note all that is wrong with it, and keep it if nothing is.

        Parameters
        ----------
        partial : bool
            Whether other rows may say other topics of the same text: those that do not contradict each other are put
            together into one label.
        """
        faults = [f"{field}: {fault}" for field, value in about.items() if (fault := text_fault(value))]
        if text is None:
            faults.append("text: missing")
        elif not isinstance(text, str):
            faults.append(f"text: must be text, not {type(text).__name__}")
        elif fault := labelled_text_fault(text):
            faults.append(f"text: {fault}")
        for fault in faults:
            self.fault(where, fault)
        topics = self.topics(where, marks)
        if faults or topics is None or not isinstance(text, str):
            return
        label = Label(where, text, topics, **about)
        if not partial or not self._merge(label):
            self.labels.append(label)

    def topics(self, where: str, marks: Iterable[Mark]) -> dict[str, str | None] | None:
        """Return the topics and stances that `marks` say, or None if something is wrong or all of them are dropped."""
        topics: dict[str, str | None] = {}
        loose: set[str] = set()
        kinds: set[str] = set()
        whole = True
        for name, stance in marks:
            meaning = self._meaning(where, name, stance)
            if meaning is None:
                whole = False
                continue
            kinds.add(meaning.kind)
            if meaning.kind == "topic":
                whole &= self._put(where, topics, meaning.topic, meaning.stance)
            elif meaning.stance:
                loose.add(meaning.stance)
        if not whole:
            return None
        if "dropped" in kinds and "off_topic" not in kinds and not topics:
            self.skip("dropped")
            return None
        return topics if not loose or self._tie(where, topics, loose) else None

    def reading(self, format: str, encoding: str) -> Reading:
        """Return all that was gathered."""
        faults = list(self._faults)
        if self._n_faults > MAX_LISTED:
            faults.append(f"and {self._n_faults - MAX_LISTED:,} more")
        if len(self._unknown) > MAX_LISTED:
            faults.append(f"{len(self._unknown):,} labels are unknown; the {MAX_LISTED} commonest of them are listed")
        unknown = [
            UnknownLabel(name, count, self._first[name, stance], self.names.nearest(name, stance=stance))
            for (name, stance), count in self._unknown.most_common(MAX_LISTED)
        ]
        return Reading(format, encoding, self.labels, self._skipped.total(), dict(self._skipped), unknown, faults)

    def _merge(self, label: Label) -> bool:
        """Put a label to the first of the same text, by the same annotator, that it does not contradict."""
        known = self._places.setdefault((label.text, label.annotator, label.speaker, label.document_id), [])
        for number in known[:_MAX_VERSIONS]:
            before = self.labels[number].topics
            agrees = all(before.get(topic, stance) == stance for topic, stance in label.topics.items())
            if agrees and bool(before) == bool(label.topics):
                merged = {**before, **label.topics}
                self.labels[number] = msgspec.structs.replace(self.labels[number], topics=merged)
                return True
        known.append(len(self.labels))
        return False

    def _meaning(self, where: str, name: object, stance: object) -> Meaning | None:
        """Read a label and the stance beside it; None says that something is wrong, and that it is noted."""
        if not isinstance(name, str) or not name.strip():
            kind = "blank" if isinstance(name, str) else type(name).__name__
            self.fault(where, f"label: must be text that is not blank, not {kind}")
            return None
        meaning = self.names.meaning(name)
        apart = stance is not None and stance != ""
        if meaning.kind == "topic" and apart:
            return self._toward(where, meaning.topic, stance)
        if meaning.kind in ("unknown", "unknown_stance") or (meaning.kind == "stance" and apart):
            self._note(where, name, stance=meaning.kind == "unknown_stance")
            return None
        return meaning

    def _toward(self, where: str, topic: str, said: object) -> Meaning | None:
        if isinstance(said, bool) or not isinstance(said, str | int):
            kind = type(said).__name__
            self.fault(where, f"topics.{topic}: a stance must be one of {', '.join(STANCES)}, not {kind}")
            return None
        stance = self.names.stance(said)
        if stance is None:
            self._note(where, str(said), stance=True)
            return None
        return Meaning("topic", topic, stance or None)

    def _put(self, where: str, topics: dict[str, str | None], topic: str, stance: str | None) -> bool:
        before = topics.get(topic)
        if stance and not self.names.takes_stance(topic):
            self.fault(where, f"topics.{topic}: has a stance, but the taxonomy gives this topic no proposition")
            return False
        if stance and before and stance != before:
            self.fault(where, f"topics.{topic}: is said to be {before} and {stance}; only one can be")
            return False
        topics[topic] = stance or before
        return True

    def _tie(self, where: str, topics: dict[str, str | None], loose: set[str]) -> bool:
        """Give a stance that names no topic to the only topic there is."""
        if len(topics) == len(loose) == 1:
            return self._put(where, topics, *topics, *loose)
        self.fault(where, f"topics: {' and '.join(sorted(loose))}, but not toward one topic; {len(topics)} are named")
        return False

    def _note(self, where: str, label: str, *, stance: bool) -> None:
        key = (shorten(label.strip()), stance)
        self._unknown[key] += 1
        self._first.setdefault(key, where)


def about(row: Mapping[str, Any], *, numbered: bool = False) -> dict[str, str]:
    """Return where a paragraph came from, of what `row` and its ``meta`` say, leaving out what is blank.

    Parameters
    ----------
    numbered : bool
        Whether the tool itself numbers its rows: a number is no id then, as every file of the tool has the same ones.
    """
    found = {}
    meta = row.get("meta")
    row = {**meta, **row} if isinstance(meta, dict) else row
    for field in ABOUT:
        value = row.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and not (numbered and field == "id"):
            value = str(value)
        if isinstance(value, str) and value.strip():
            found[field] = value
    return found
