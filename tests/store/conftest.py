"""The store's tests run over both databases, real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.store.database import Database
from service.store.migrate import upgrade


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """A fresh database of either kind; None is SQLite at home."""
    return request.getfixturevalue("new_postgres")() if request.param == "postgres" else None


@pytest.fixture
def connect(url: str | None, tmp_path: Path) -> Iterator[Callable[[], Database]]:
    """Connect to the same database once more, as another process would."""
    made: list[Database] = []

    def connected() -> Database:
        made.append(Database(url, tmp_path / "home"))
        return made[-1]

    yield connected
    for each in made:
        each.close()


@pytest.fixture
def database(connect: Callable[[], Database]) -> Database:
    database = connect()
    upgrade(database)
    return database
