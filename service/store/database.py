"""Connections and transactions: SQLite or PostgreSQL, with a limit on how long anything waits for either."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio.to_thread import run_sync
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool

from models.errors import StanceryError, to_install

T = TypeVar("T")
FILE = "stancery.db"
# Whoever asks has an answer within two seconds, even while the database says nothing at all.
DEADLINE = 1.6
_BUSY = 1_200
_CONNECT = 2
# A host that is gone without a word is noticed within half a minute, not after the two hours that systems wait.
_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
# Until a connection is told how long it may wait for others it waits no longer.
_SQLITE = {"check_same_thread": False, "timeout": _BUSY / 1000}
# One name for the lock under which writers of labels, trainings and versions take turns; any number would do.
_WRITERS = 0x57A9CE
_SQLITE_FULL, _POSTGRES_FULL = 13, "53100"
# Tables, columns or the schema are gone, or no longer ours to use: the database's fault, not the statement's.
_POSTGRES_GONE = {"42P01", "42703", "3F000", "42501"}


class StoreUnavailable(StanceryError):
    """The database does not answer, or cannot be written to. Nothing was acknowledged."""


class StoreSilent(StoreUnavailable):
    """The database did not answer in time. Whether it stored what it was given is not known."""


class StoreFull(StoreUnavailable):
    """There is no room left where the database lies. Nothing was acknowledged."""


class _Operation:
    """One use of a connection by a thread, which another thread may cut short."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._driver: Any = None

    @contextmanager
    def using(self, connection: Connection) -> Iterator[None]:
        with self._lock:
            self._driver = connection.connection.driver_connection
        try:
            yield
        finally:
            with self._lock:
                self._driver = None

    def cut(self) -> None:
        """Shut the socket, which wakes a thread that waits for PostgreSQL; SQLite has none and its own time limit."""
        with self._lock, suppress(OSError, AttributeError):
            if not getattr(self._driver, "closed", True):
                with socket.socket(fileno=os.dup(self._driver.fileno())) as copy:
                    copy.shutdown(socket.SHUT_RDWR)


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Tell whether a SQLite library carries the fix of the WAL-reset bug.

    Before it, two connections that checkpoint and write at the same moment can leave a WAL whose committed frames are
    lost (https://sqlite.org/wal.html#walresetbug). Fixed in 3.51.3, and in 3.50.7 and 3.44.6 for older branches.
    """
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


class Database:
    """The store's database.

    Parameters
    ----------
    url : str, optional
        Of PostgreSQL; without it, SQLite in `home`.
    home : Path

    Raises
    ------
    StanceryError
        If the URL is not one of PostgreSQL or SQLite, or its driver is missing.
    """

    def __init__(self, url: str | None, home: Path) -> None:
        self._home = home
        self.url = _url(url, home)
        self.is_postgres = self.url.get_backend_name() == "postgresql"
        self.engine = self._engine()

    def _engine(self) -> Engine:
        # SQLite opens a file that cannot be written to for reading, and such a connection stays so for good. To open
        # one for each transaction costs a fraction of a commit, and a disk that takes writes again is noticed.
        options: dict[str, Any] = {"poolclass": NullPool, "connect_args": _SQLITE}
        if self.is_postgres:
            options = {"pool_size": 4, "max_overflow": 4, "pool_timeout": 1, "pool_use_lifo": True}
            options["connect_args"] = {"connect_timeout": _CONNECT, **_ALIVE}
        try:
            # Parameters are text of paragraphs, which the log must not hold.
            engine = create_engine(self.url, hide_parameters=True, **options)
        except ModuleNotFoundError as error:
            raise StanceryError(f"PostgreSQL needs one more package: {to_install('postgres')} ({error})") from None
        if not self.is_postgres:
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        return engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection to read from.

        Raises
        ------
        StoreUnavailable
        """
        with self._transaction(_Operation(), writing=False) as connection:
            yield connection

    @contextmanager
    def writing(self, patience: int | None = None) -> Iterator[Connection]:
        """Yield a connection in a transaction that is committed, and on disk, once the block is left.

        Writers take turns, so what is read in such a transaction still holds when it is written on.

        Parameters
        ----------
        patience : int, optional
            Milliseconds to wait for one's turn, if not as long as a request may.

        Raises
        ------
        StoreUnavailable
            StoreFull where there is no room. The transaction has then not been acknowledged.
        """
        with self._transaction(_Operation(), writing=True, patience=patience) as connection:
            yield connection

    async def read(self, work: Callable[[Connection], T], *, seconds: float = DEADLINE) -> T:
        """Run `work` in a thread, as :meth:`reading` does, for at most `seconds`."""
        return await self._run(work, writing=False, seconds=seconds)

    async def write(self, work: Callable[[Connection], T], *, seconds: float = DEADLINE) -> T:
        """Run `work` in a thread, as :meth:`writing` does, for at most `seconds`."""
        return await self._run(work, writing=True, seconds=seconds)

    async def _run(self, work: Callable[[Connection], T], *, writing: bool, seconds: float) -> T:
        operation = _Operation()

        def inside() -> T:
            with self._transaction(operation, writing=writing) as connection:
                return work(connection)

        try:
            with anyio.fail_after(seconds):
                return await run_sync(inside, abandon_on_cancel=True)
        except TimeoutError:
            # The thread may be at the socket still: it is woken there, and its connection thrown away.
            operation.cut()
            kind = StoreSilent if writing else StoreUnavailable
            raise kind(f"the database did not answer within {seconds:.1f} s") from None

    @contextmanager
    def _transaction(
        self, operation: _Operation, *, writing: bool, patience: int | None = None
    ) -> Iterator[Connection]:
        is_worked = False
        try:
            if not self.is_postgres:
                self._home.mkdir(parents=True, exist_ok=True)
            with self.engine.connect() as plain:
                connection = plain.execution_options(writing=writing)
                if not self.is_postgres:
                    driver: Any = plain.connection.driver_connection
                    driver.execute(f"PRAGMA busy_timeout = {patience or _BUSY}")
                with operation.using(connection), connection.begin():
                    if writing and self.is_postgres:
                        connection.execute(text(f"SET LOCAL lock_timeout = {patience or _BUSY}"))
                        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _WRITERS})
                    yield connection
                    is_worked = True
        except (IntegrityError, DataError):
            raise
        except (DBAPIError, PoolTimeout) as error:
            if isinstance(error, ProgrammingError) and getattr(error.orig, "sqlstate", None) not in _POSTGRES_GONE:
                raise
            translated = _translated(error)
            if writing and is_worked and self.is_postgres and type(translated) is StoreUnavailable:
                # The connection broke while it was told to commit: nobody here knows whether it did.
                raise StoreSilent(str(translated)) from error
            raise translated from error
        except OSError as error:
            kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreUnavailable
            raise kind(f"{self._home}: {error.strerror}") from error

    def close(self) -> None:
        self.engine.dispose()


def _url(given: str | None, home: Path) -> URL:
    if not given:
        return URL.create("sqlite", database=str((home / FILE).absolute()))
    try:
        url = make_url(given)
        if url.drivername in ("postgres", "postgresql"):
            url = url.set(drivername="postgresql+psycopg")
        if url.drivername not in ("postgresql+psycopg", "sqlite"):
            raise ArgumentError
    except (ArgumentError, NoSuchModuleError, ValueError):
        # The URL itself is not told: it may hold a password.
        raise StanceryError(
            "database-url: must be postgresql://user:password@host:port/name or sqlite:////absolute/path"
        ) from None
    return url


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # Transactions are begun by _begin_sqlite: the driver's own way begins them late, and not for reading.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    # A commit is on disk before it is answered. A journal that is cut to nothing, rather than unlinked, is synced
    # itself, so that a power cut right after a commit cannot bring it back and undo the commit.
    connection.execute(f"PRAGMA journal_mode = {'WAL' if wal_is_safe(sqlite3.sqlite_version_info) else 'TRUNCATE'}")
    connection.execute("PRAGMA synchronous = FULL")
    # A transaction that outgrew the cache would be written on before its end, and lock out all who read until then.
    connection.execute("PRAGMA cache_spill = OFF")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its lock at once: to read first and lock later fails where two do so.
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _translated(error: DBAPIError | PoolTimeout) -> StanceryError:
    cause = error.orig if isinstance(error, DBAPIError) else None
    if getattr(cause, "sqlite_errorcode", None) == _SQLITE_FULL or getattr(cause, "sqlstate", None) == _POSTGRES_FULL:
        return StoreFull("no room is left where the database lies")
    # A driver's message may quote a statement's values; its kind says enough.
    kind = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or type(cause or error).__name__
    translated = StoreUnavailable(f"the database cannot be used ({kind})")
    if isinstance(error, DBAPIError) and error.statement is None and cause is not None:
        # It could not be connected to, and no value of anybody's is in that.
        translated.add_note(" ".join(str(cause).split()))
    return translated
