"""Results as Parquet: one row a paragraph, its topics nested, one row group a stretch."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
import pyarrow as pa
from pyarrow import parquet

from models.results import Result

_EVIDENCE = pa.list_(
    pa.struct([("start", pa.int64()), ("end", pa.int64()), ("text", pa.string()), ("weight", pa.float64())])
)
_STANCE = pa.struct(
    [
        ("label", pa.string()),
        ("favor", pa.float64()),
        ("against", pa.float64()),
        ("neutral", pa.float64()),
        ("score", pa.float64()),
        ("decision", pa.string()),
        ("evidence", _EVIDENCE),
        ("bias", pa.float64()),
    ]
)
_TOPIC = pa.struct(
    [
        ("topic", pa.string()),
        ("score", pa.float64()),
        ("decision", pa.string()),
        ("stance", _STANCE),
        ("evidence", _EVIDENCE),
        ("bias", pa.float64()),
        ("zero_shot", pa.bool_()),
    ]
)
# Named here and not taken from the rows: a stretch without a topic has the columns of the others.
SCHEMA = pa.schema(
    [("id", pa.string()), ("decision", pa.string()), ("topics", pa.list_(_TOPIC)), ("speakers", pa.list_(pa.string()))]
)


def encode(results: Iterable[Result]) -> bytes:
    """Return a Parquet file of one row group."""
    table = pa.Table.from_pylist([msgspec.to_builtins(result) for result in results], SCHEMA)
    buffer = io.BytesIO()
    with parquet.ParquetWriter(buffer, SCHEMA) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
    return buffer.getvalue()


@contextmanager
def joined(stream: IO[bytes]) -> Iterator[Callable[[Path], None]]:
    """Yield what adds the row groups of a file that :func:`encode` made to the one file in `stream`."""
    with parquet.ParquetWriter(stream, SCHEMA) as writer:

        def add(part: Path) -> None:
            with parquet.ParquetFile(part) as file:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group))

        yield add
