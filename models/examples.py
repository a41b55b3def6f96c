"""The examples file: paragraphs with their gold topics and stances, one JSON object a line."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from unicodedata import combining

import msgspec

from models.errors import InvalidData, shorten
from models.paragraphs import text_fault
from models.taxonomy import Taxonomy

STANCES = ("favor", "against", "neutral")
_ALIASES = {
    **{name: name for name in STANCES},
    **dict.fromkeys(("pro", "support", "supports", "for", "favour"), "favor"),
    **dict.fromkeys(("con", "oppose", "opposes", "anti", "deny"), "against"),
    **dict.fromkeys(("none", "neither", "comment"), "neutral"),
    "за": "favor", "против": "against", **dict.fromkeys(("нейтрально", "нейтральная", "нейтральное"), "neutral"),
    # VAST (Allaway and McKeown 2020): 0 con, 1 pro, 2 neutral.
    "0": "against", "1": "favor", "2": "neutral",
}  # fmt: skip
_FIELDS = {
    "id": (str,),
    "text": (str,),
    "topics": (dict, list),
    "speaker": (str, type(None)),
    "document_id": (str, type(None)),
    "language": (str, type(None)),
    "source": (str, type(None)),
}
# No combining mark is a letter or ASCII; what this finds is rare, and looked at.
_MOST_MARKS = 30
_NO_LETTERS = re.compile(rf"[^\w\x00-\x7f]{{{_MOST_MARKS + 1},}}")
_NAMES = {str: "text", dict: "an object of topic: stance", list: "a list of topics", type(None): "null"}


class Example(msgspec.Struct, frozen=True):
    """A paragraph with its gold labels.

    ``topics`` maps a topic's id to its stance, or to None where the topic is labelled without a stance.
    An empty mapping says off topic.
    """

    id: str
    text: str
    topics: dict[str, str | None]
    speaker: str | None = None
    document_id: str | None = None
    language: str | None = None
    source: str | None = None

    @property
    def group(self) -> str:
        """What must stay on one side of a split: the document."""
        return self.document_id or "text:" + hashlib.sha256(self.text.encode()).hexdigest()


def within(example: Example, taxonomy: Taxonomy) -> Example | None:
    """Return the example with those of its labels that the taxonomy has; None where it has labels, and none of those.

    A paragraph whose every topic was given up is not off topic by that.
    """
    takes = {topic.id: bool(topic.proposition) for topic in taxonomy.topics}
    known = {name: stance if takes[name] else None for name, stance in example.topics.items() if name in takes}
    if example.topics and not known:
        return None
    return msgspec.structs.replace(example, topics=known)


def canonical_stance(value: object) -> str | None:
    """Return the stance that `value` names, an alias or a code, or None when it names none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return _ALIASES.get(str(value).strip().lower())


def read_examples(path: str | Path, taxonomy: Taxonomy) -> list[Example]:
    """Read and check a whole examples file.

    Returns
    -------
    list of Example
        In file order, stances canonical.

    Raises
    ------
    InvalidData
        With every fault of every line, ``file:line: field: what is wrong and what is allowed``.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidData([f"{path}: cannot be read: {error.strerror}"]) from error
    faults: list[str] = []
    examples: list[Example] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        if not line.strip():
            continue
        row, found = _parse(line)
        if row is not None:
            example, more = check_example(row, f"line-{number}", taxonomy)
            found += more
            if example is not None and example.id in lines_of:
                found.append(f"id: {shorten(example.id)!r} stands on line {lines_of[example.id]} already")
            if example is not None:
                lines_of.setdefault(example.id, number)
                examples.append(example)
        faults += [f"{path}:{number}: {fault}" for fault in found]
    if not faults and not examples:
        faults.append(f"{path}: no example; one JSON object a line is needed")
    if faults:
        raise InvalidData(faults)
    return examples


def examples_hash(examples: Iterable[Example]) -> str:
    """SHA-256 (64 hex digits) of the examples in their order, whatever the file's layout was."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(msgspec.json.encode(example, order="sorted") + b"\n")
    return digest.hexdigest()


def _parse(line: bytes) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return None, [f"not a JSON object: {error}"]
    if not isinstance(row, dict):
        return None, [f"not a JSON object but {type(row).__name__}"]
    return row, []


def field_faults(row: dict[str, Any]) -> list[str]:
    """Say what is wrong with an example's fields, ``field: what is wrong and what is allowed``, but for its topics."""
    faults = []
    for field, value in row.items():
        if field not in _FIELDS:
            faults.append(f"{shorten(field)}: unknown field; allowed are {', '.join(_FIELDS)}")
        elif not isinstance(value, _FIELDS[field]):
            allowed = " or ".join(_NAMES[kind] for kind in _FIELDS[field])
            faults.append(f"{field}: must be {allowed}, not {type(value).__name__}")
    faults += [f"{field}: missing" for field in ("text", "topics") if field not in row]
    text = row.get("text")
    if isinstance(text, str) and (fault := labelled_text_fault(text)):
        faults.append(f"text: {fault}")
    return faults


def labelled_text_fault(text: str) -> str | None:
    """Say why `text` cannot be kept with labels, or return None.

    More combining marks in a row than any script has (Unicode Standard Annex 15, section 13) are refused: to normalise
    them, as whoever compares texts does, takes time that grows with the square of their number.
    """
    for run in _NO_LETTERS.finditer(text):
        marks = (len(list(each)) for is_mark, each in groupby(map(combining, run[0]), bool) if is_mark)
        if max(marks, default=0) > _MOST_MARKS:
            return f"has more than {_MOST_MARKS} combining marks in a row"
    return text_fault(text)


def check_example(row: dict[str, Any], id: str, taxonomy: Taxonomy) -> tuple[Example | None, list[str]]:
    """Return the example that `row` is, called `id` unless it has a name of its own, or every fault of it."""
    known = frozenset(taxonomy.ids)
    with_stance = frozenset(topic.id for topic in taxonomy.topics if topic.proposition)
    faults = field_faults(row)
    topics: dict[str, str | None] = {}
    for name, stance in _topic_items(row.get("topics")):
        if not isinstance(name, str) or name not in known:
            faults.append(f"topics: {shorten(repr(name))} is not one of {', '.join(sorted(known))}")
            continue
        label = canonical_stance(stance)
        if stance is not None and label is None:
            faults.append(f"topics.{name}: stance {shorten(repr(stance))} is not one of {', '.join(STANCES)}")
        elif label is not None and name not in with_stance:
            faults.append(f"topics.{name}: has a stance, but the taxonomy gives this topic no proposition")
        topics[name] = label
    if faults:
        return None, faults
    return Example(**{"id": id, **row, "topics": topics}), []


def _topic_items(value: object) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from ((name, None) for name in value)
