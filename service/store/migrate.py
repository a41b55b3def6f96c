"""Bring a database to the newest schema, safely when several services start at once."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect, text

from models.errors import StanceryError
from service.store.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"
_PATIENCE = 60_000


def newest() -> str:
    """Return the revision that this release writes: the name of a migration is its revision."""
    return max(path.stem for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def upgrade(database: Database) -> None:
    """Run the migrations that are missing, in one transaction under the writers' lock.

    Raises
    ------
    StoreUnavailable
    StanceryError
        If the database was written by a newer release.
    """
    with database.reading() as connection:
        if inspect(connection).has_table("alembic_version"):
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            if found == newest():
                return
    # Imported where it is needed, since it costs a third of a second.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.writing(_PATIENCE) as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StanceryError(f"the database was written by a newer release of Stancery ({error})") from error
