"""Paragraphs from files and answers to files: JSON Lines, CSV and Parquet in constant memory, plain text read whole."""

from __future__ import annotations

import codecs
import csv
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NamedTuple

import msgspec

from models.errors import InvalidData, to_install
from models.paragraphs import split_paragraphs, text_fault
from models.results import Result

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
OUTPUT_FORMATS = ("jsonl", "csv", "parquet")
CSV_COLUMNS = (
    "id", "decision", "topic", "topic_score", "topic_decision", "stance", "stance_decision", "favor", "against",
    "neutral", "stance_score", "evidence",
)  # fmt: skip
_TEXT_COLUMN = "text"
_PARQUET_BATCH = 1024


class Row(NamedTuple):
    """A paragraph of a file, and where it stands there."""

    id: str
    text: str
    where: str


def format_of(path: str, formats: Iterable[str] = FORMATS.values()) -> str:
    """Tell a file's format by its extension; ``-`` is plain text.

    Raises
    ------
    InvalidData
        If the extension is none that is known.
    """
    if path == "-":
        return "text"
    found = FORMATS.get(Path(path).suffix.lower())
    if found is None or found not in formats:
        known = ", ".join(suffix for suffix, name in FORMATS.items() if name in formats)
        raise InvalidData([f"{path}: extension not one of {known}"])
    return found


def read_rows(path: str, format: str) -> Iterator[Row]:
    """Read the paragraphs of a file one by one; ``-`` is standard input.

    JSON Lines hold strings or objects with ``text`` and maybe ``id``; CSV and Parquet a column ``text`` and maybe
    ``id``; plain text is one article.

    Raises
    ------
    InvalidData
        At the first row that cannot be scored: file, line, what is wrong and what is allowed.
    """
    if format == "parquet":
        yield from _read_parquet(path)
        return
    with _open(path) as stream:
        readers = {"jsonl": _read_jsonl, "csv": _read_csv, "text": _read_text}
        try:
            yield from readers[format](path, stream)
        except UnicodeDecodeError as error:
            raise InvalidData([f"{path}: not valid UTF-8: {error.reason}"]) from error


@contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(path).open("rb")  # noqa: SIM115 - closed below; the error of opening is told apart
    except OSError as error:
        raise InvalidData([f"{path}: cannot be read: {error.strerror}"]) from error
    with stream:
        yield stream


def _row(path: str, line: int, id: object, text: object) -> Row:
    where = f"{path}:{line}"
    if not isinstance(text, str):
        raise InvalidData([f"{where}: text: must be text, not {type(text).__name__}"])
    if fault := text_fault(text):
        raise InvalidData([f"{where}: text: {fault}"])
    # True and false are whole numbers to Python.
    if id is not None and (not isinstance(id, str | int) or isinstance(id, bool)):
        raise InvalidData([f"{where}: id: must be text or a whole number, not {type(id).__name__}"])
    return Row(f"p{line}" if id is None or id == "" else str(id), text, where)


def _read_jsonl(path: str, stream: IO[bytes]) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            item = msgspec.json.decode(line)
        except UnicodeDecodeError as error:
            raise InvalidData([f"{path}:{number}: not valid UTF-8: {error.reason}"]) from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidData([f"{path}:{number}: not JSON: {error}"]) from error
        item = {_TEXT_COLUMN: item} if isinstance(item, str) else item
        if not isinstance(item, dict) or _TEXT_COLUMN not in item:
            raise InvalidData([f"{path}:{number}: must be a string or an object with text"])
        yield _row(path, number, item.get("id"), item[_TEXT_COLUMN])


def _read_csv(path: str, stream: IO[bytes]) -> Iterator[Row]:
    # A cell may be as long as a paragraph may; the csv module's own limit is lower.
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
    try:
        names = reader.fieldnames or ()
        if _TEXT_COLUMN not in names:
            raise InvalidData([f"{path}:1: no column named text; there are {', '.join(names) or 'none'}"])
        for row in reader:
            if over := row.get(None):
                cells = f"{len(names) + len(over)} cells, but the header has {len(names)}"
                raise InvalidData([f"{path}:{reader.line_num}: {cells}; quote what holds a comma"])
            yield _row(path, reader.line_num, row.get("id"), row[_TEXT_COLUMN])
    except csv.Error as error:
        raise InvalidData([f"{path}:{reader.line_num}: not CSV: {error}; each quote needs its other one"]) from error
    except UnicodeDecodeError as error:
        raise InvalidData([f"{path}: after line {reader.line_num}: not valid UTF-8: {error.reason}"]) from error


def _read_text(path: str, stream: IO[bytes]) -> Iterator[Row]:
    article = stream.read().decode("utf-8-sig")
    line, counted = 1, 0
    for number, paragraph in enumerate(split_paragraphs(article), 1):
        line, counted = line + article.count("\n", counted, paragraph.start), paragraph.start
        if fault := text_fault(paragraph.text):
            raise InvalidData([f"{path}:{line}: {fault}"])
        yield Row(f"p{number}", paragraph.text, f"{path}:{line}")


def _read_parquet(path: str) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InvalidData([f"{path}: reading Parquet needs pyarrow: {to_install('parquet')}"]) from error
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InvalidData([f"{path}: cannot be read as Parquet: {error}"]) from error
    with file:
        names = file.schema_arrow.names
        if _TEXT_COLUMN not in names:
            raise InvalidData([f"{path}: no column named text; there are {', '.join(names)}"])
        columns = [name for name in ("id", _TEXT_COLUMN) if name in names]
        number = 0
        batches = file.iter_batches(_PARQUET_BATCH, columns=columns)
        while True:
            where = f"{path}: in the {_PARQUET_BATCH:,} rows from {number + 1:,} on"
            try:
                if (batch := next(batches, None)) is None:
                    return
                rows = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise InvalidData([f"{where}: not valid UTF-8: {error.reason}"]) from error
            except (OSError, ValueError) as error:
                raise InvalidData([f"{where}: damaged: {error}"]) from error
            for row in rows:
                number += 1
                yield _row(path, number, row.get("id"), row[_TEXT_COLUMN])


def head(format: str) -> bytes:
    """Return what the output begins with, before any result."""
    return _csv([CSV_COLUMNS]) if format == "csv" else b""


def check_writable(format: str) -> None:
    """Raise InvalidData where a format needs what is not installed."""
    if format == "parquet":
        _parquet_module()


def encode(results: Iterable[Result], format: str) -> bytes:
    """Encode results: one JSON object a line, CSV with one row a paragraph and topic, or a Parquet file of them."""
    if format == "parquet":
        return bytes(_parquet_module().encode(results))
    if format == "csv":
        return _csv(row for result in results for row in _csv_rows(result))
    return _lines(results)


@contextmanager
def joined(output: Path, format: str) -> Iterator[Callable[[Path], None]]:
    """Open a file on disk; yield what adds a file of what :func:`encode` made to its end."""
    with output.open("wb") as stream:
        if format == "parquet":
            with _parquet_module().joined(stream) as add:
                yield add
        else:
            stream.write(head(format))

            def add_bytes(part: Path) -> None:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, stream, 1 << 20)

            yield add_bytes
        stream.flush()
        os.fsync(stream.fileno())


_lines = msgspec.json.Encoder().encode_lines


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def _parquet_module() -> ModuleType:
    try:
        from models import parquet
    except ImportError as error:
        raise InvalidData([f"Parquet needs pyarrow: {to_install('parquet')}"]) from error
    return parquet


def _csv_rows(result: Result) -> list[list[Any]]:
    head = [result.id, result.decision]
    if not result.topics:
        return [head + [""] * (len(CSV_COLUMNS) - len(head))]
    rows = []
    for topic in result.topics:
        stance = topic.stance
        cells = (
            [stance.label, stance.decision, stance.favor, stance.against, stance.neutral, stance.score]
            if stance
            else [""] * 6
        )
        words = "; ".join(span.text for span in topic.evidence)
        rows.append([*head, topic.topic, topic.score, topic.decision, *cells, words])
    return rows
