"""What the commands share: options that the environment can set, exit codes, the store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from service.settings import Settings

if TYPE_CHECKING:
    from service.store.database import Database

F = TypeVar("F", bound=Callable[..., Any])


def option(name: str, *short: str, **attributes: Any) -> Callable[[F], F]:
    """An option that the environment can set too: ``--max-body-bytes`` is ``STANCERY_MAX_BODY_BYTES``."""
    variable = "STANCERY_" + name.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    attributes.setdefault("show_default", True)
    return click.option(name, *short, envvar=variable, show_envvar=True, **attributes)


def home_option(command: F) -> F:
    return option(
        "--home",
        type=click.Path(path_type=Path),
        default=Settings.home,
        help="Where bundles live, and labels in SQLite.",
    )(command)


def database_option(command: F) -> F:
    return option(
        "--database-url",
        help="PostgreSQL to keep labels in: postgresql://USER:PASSWORD@HOST/NAME.  [default: SQLite at home]",
    )(command)


def store_options(command: F) -> F:
    return home_option(database_option(command))


@contextmanager
def opened(home: Path, database_url: str | None) -> Iterator[Database]:
    """Yield the store, at the newest schema.

    Raises
    ------
    StanceryError
        If it cannot be reached, or was written by a newer release.
    """
    from service.store.database import Database
    from service.store.migrate import upgrade

    database = Database(database_url, home)
    try:
        upgrade(database)
        yield database
    finally:
        database.close()


def bundle_at(home: Path, given: Path) -> Path:
    """Return the folder of a bundle: the one given, or that of the version at home that is named.

    Raises
    ------
    click.UsageError
        If there is neither.
    """
    for path in (given, home / "bundles" / given):
        if path.is_dir():
            return path
    raise click.UsageError(f"{given}: no such folder, and no such version in {home / 'bundles'}")


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` only once it is whole; ``-`` is standard output.

    Raises
    ------
    IsADirectoryError
    """
    from models import files

    if path == "-":
        yield sys.stdout.buffer
        return
    with files.replacing(Path(path)) as stream:
        yield stream


class Commands(click.Group):
    """A group whose commands end in exit code 2 when the input is at fault and 1 when something else is."""

    def invoke(self, ctx: click.Context) -> Any:
        from models.errors import InvalidCall, InvalidData, InvalidParagraph, StanceryError, missing_extra

        try:
            return super().invoke(ctx)
        except InvalidData as error:
            for fault in error.faults:
                click.echo(fault, err=True)
            ctx.exit(2)
        except StanceryError as error:
            click.echo(f"Error: {error.in_full}", err=True)
            ctx.exit(2 if isinstance(error, InvalidParagraph | InvalidCall) else 1)
        except ModuleNotFoundError as error:
            if (told := missing_extra(error)) is None:
                raise
            click.echo(f"Error: {told}", err=True)
            ctx.exit(1)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"Error: {where}{error.strerror or error}", err=True)
            ctx.exit(2 if isinstance(error, IsADirectoryError) else 1)
