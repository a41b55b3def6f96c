"""Topics and the propositions that stance is measured against."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from models.errors import InvalidData

TOPIC_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_KEYS = {"id", "title", "description", "proposition", "parent"}


class Topic(msgspec.Struct, frozen=True, omit_defaults=True):
    """One topic. Without a ``proposition`` it is found in text but takes no stance."""

    id: str
    title: str
    description: str = ""
    proposition: str | None = None
    parent: str | None = None


class Taxonomy(msgspec.Struct, frozen=True):
    """An ordered set of topics."""

    topics: tuple[Topic, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(topic.id for topic in self.topics)

    @property
    def hash(self) -> str:
        """SHA-256 (64 hex digits) of the topics in their order; file layout and comments do not count."""
        return hashlib.sha256(msgspec.json.encode(self.topics, order="sorted")).hexdigest()


def read_taxonomy(path: str | Path) -> Taxonomy:
    """Read a TOML file of ``[[topic]]`` tables, or a bundle's ``taxonomy.json``.

    Raises
    ------
    InvalidData
        With every fault of the file, each as ``file:line: where: what``.
    """
    path = Path(path)
    tables, lines, faults = _json_tables(path) if path.suffix == ".json" else _toml_tables(path)
    ids = [table.get("id") for table in tables if isinstance(table, dict)]
    topics = []
    for position, table in enumerate(tables):
        where = f"{path}:{lines[position]}" if len(lines) == len(tables) else f"{path}: topic {position + 1}"
        found = _faults(table, ids, ids[:position])
        faults += [f"{where}: {fault}" for fault in found]
        if not found:
            topics.append(
                Topic(title=table.get("title", table["id"]), **{k: v for k, v in table.items() if k != "title"})
            )
    if faults:
        raise InvalidData(faults)
    return Taxonomy(tuple(topics))


def _toml_tables(path: Path) -> tuple[list[Any], list[int], list[str]]:
    """Return the topics' tables, the lines they begin on, and the file's faults."""
    try:
        source = path.read_text(encoding="utf-8")
        document = tomllib.loads(source)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidData([f"{path}: cannot be read as TOML: {error}"]) from error
    lines = [n for n, line in enumerate(source.splitlines(), 1) if re.match(r"\s*\[\[\s*topic\s*\]\]", line)]
    faults = [f"{path}: {key}: unknown table; only [[topic]] is allowed" for key in document if key != "topic"]
    tables = document.get("topic")
    if not isinstance(tables, list) or not tables:
        raise InvalidData([*faults, f"{path}: no topic; at least one [[topic]] table is needed"])
    return tables, lines, faults


def _json_tables(path: Path) -> tuple[list[Any], list[int], list[str]]:
    try:
        document = msgspec.json.decode(path.read_bytes())
    except (OSError, UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise InvalidData([f"{path}: cannot be read as JSON: {error}"]) from error
    tables = document.get("topics") if isinstance(document, dict) else None
    if not isinstance(tables, list) or not tables:
        raise InvalidData([f'{path}: no topic; {{"topics": [...]}} with at least one topic is needed'])
    return tables, [], [f"{path}: {key}: unknown key; only topics is allowed" for key in document if key != "topics"]


def _faults(table: object, ids: list[str | None], before: list[str | None]) -> list[str]:
    if not isinstance(table, dict):
        return ["not a table"]
    faults = [f"{key}: unknown key; allowed are {', '.join(sorted(_KEYS))}" for key in table if key not in _KEYS]
    faults += [
        f"{key}: must be text that is not blank"
        for key in sorted(_KEYS & table.keys())
        if not isinstance(table[key], str) or not table[key].strip()
    ]
    name = table.get("id")
    if name is None:
        faults.append("id: missing")
    elif isinstance(name, str) and not TOPIC_ID.fullmatch(name):
        faults.append(f"id: {name!r} is not a name of 1 to 64 lower-case letters, digits, '_', '-' or '.'")
    elif name in before:
        faults.append(f"id: {name!r} stands twice")
    parent = table.get("parent")
    if isinstance(parent, str) and (parent not in ids or parent == name):
        faults.append(f"parent: {parent!r} is not another topic of this file")
    return faults
