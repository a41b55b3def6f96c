"""What the drills share: a service to start, kill and stop, PostgreSQL, an HTTP client, and the table in the end."""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.engine import make_url

ROOT = Path(__file__).resolve().parents[2]
SEEDS, TAXONOMY = ROOT / "seeds" / "paragraphs.jsonl", ROOT / "seeds" / "taxonomy.toml"
MB = 1e6
_PROC = Path("/proc")
_GROUP, _SESSION = 2, 3
# A connection that was idle for longer may have been closed by the server, which is no fault.
_IDLE = 3.0
_STARTED = "Application startup complete"
_WIDEST = 100


class Unanswered(Exception):
    """A request whose answer never came: whether it was done is not known."""


class Answer(NamedTuple):
    """A response over the socket; the names of headers in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One keep-alive connection, made again where it broke."""

    def __init__(self, port: int, timeout: float = 30) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._used = 0.0

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request and return its answer, whatever the status.

        Raises
        ------
        Unanswered
        """
        if time.monotonic() - self._used > _IDLE:
            self.close()
        try:
            self._connection.request(method, path, body, headers or {})
            response = self._connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unanswered(f"{method} {path}: {error!r}") from error
        self._used = time.monotonic()
        return answer

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, value: Any = None, **headers: str) -> Answer:
        """Send a value as JSON; ``Idempotency_Key=...`` becomes a header."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return self.request("POST", path, json.dumps(value).encode(), {"Content-Type": "application/json", **named})

    def close(self) -> None:
        self._connection.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(true: Callable[[], Any], seconds: float, what: str, every: float = 0.02) -> Any:
    """Return the first true value of a function.

    Raises
    ------
    TimeoutError
        If there was none in time; it says what was waited for.
    """
    end = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(every)
    return value


class Process(NamedTuple):
    """One line of the table of processes."""

    pid: int
    group: int
    command: str

    @property
    def is_trainer(self) -> bool:
        return "-m training" in self.command

    def resident(self) -> float:
        """Return its resident memory in megabytes, 0 once it is gone."""
        with suppress(OSError, IndexError):
            status = (_PROC / str(self.pid) / "status").read_text()
            return 1024 * int(status.split("VmRSS:")[1].split()[0]) / MB
        return 0.0


def session(leader: int) -> list[Process]:
    """Return the living processes of a session."""
    found = []
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[_SESSION]) == leader and fields[0] not in "ZX":
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(Process(int(entry.name), int(fields[_GROUP]), command))
    return found


class Service:
    """``stancery serve`` with a home, a database and a session of its own.

    Parameters
    ----------
    home : Path
    bundle : Path, optional
        What it begins with.
    database_url : str, optional
    workers : int
    options : sequence of str
        More of the command line.
    """

    def __init__(
        self,
        home: Path,
        bundle: Path | None = None,
        *,
        database_url: str | None = None,
        workers: int = 2,
        options: Sequence[str] = (),
    ) -> None:
        self.home, self.database_url, self.workers = home, database_url, workers
        self.port = free_port()
        self.log = home.parent / f"{home.name}.log"
        self.log.touch()
        self._options = [*(["--bundle", str(bundle)] if bundle else []), *options]
        self._process: subprocess.Popen[bytes] | None = None
        self._from = 0

    def start(self, seconds: float = 30) -> float:
        """Start it; return the seconds until it was ready.

        Raises
        ------
        RuntimeError
            If it ends instead.
        TimeoutError
        """
        command = [sys.executable, "-m", "stancery", "serve", "--home", str(self.home), "--port", str(self.port)]
        url = ["--database-url", self.database_url] if self.database_url else []
        self._from = self.log.stat().st_size
        start = time.monotonic()
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [*command, "--workers", str(self.workers), *url, *self._options],
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(self._ready, seconds, "/readyz 200")
        return time.monotonic() - start

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the service ended in {self._process.returncode}; its log is {self.log}")
        with suppress(Unanswered):
            return self.once("GET", "/readyz").status == 200
        return False

    def settle(self, seconds: float = 30) -> None:
        """Wait until every worker has started."""
        wait_for(lambda: self.said().count(_STARTED) >= self.workers, seconds, "every worker started", 0.1)

    def said(self) -> str:
        """Return the log since the last start."""
        with self.log.open("rb") as log:
            log.seek(self._from)
            return log.read().decode(errors="replace")

    def once(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Send one request over a connection of its own."""
        client = Client(self.port, timeout=10)
        try:
            return client.request(method, path, body, {"Content-Type": "application/json", "Connection": "close"})
        finally:
            client.close()

    def processes(self) -> list[Process]:
        return session(self._process.pid) if self._process else []

    def resident(self) -> float:
        """Return the resident megabytes of all workers together."""
        return sum(each.resident() for each in self.processes() if "spawn_main" in each.command)

    def kill(self, *, trainers: bool = True) -> None:
        """End it without a word: the supervisor and its workers at once, the trainers just after, or not at all."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for each in self.processes():
            if trainers or not each.is_trainer:
                with suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> None:
        """Ask it to stop, and see that nothing of it is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
        self.kill()


@contextmanager
def running(service: Service) -> Iterator[Service]:
    """Start a service with all its workers, and stop it in the end."""
    try:
        service.start()
        service.settle()
        yield service
    finally:
        service.stop()


class Postgres:
    """A PostgreSQL server of a drill's own, with as many empty databases as it asks for."""

    def __init__(self, folder: Path) -> None:
        runtime = folder / "runtime"
        runtime.mkdir(mode=0o700)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
        import pgserver

        self._server = pgserver.get_server(folder / "postgres", cleanup_mode="stop")
        self._numbers = itertools.count()

    def new(self) -> str:
        """Make a database; return its URL."""
        import psycopg

        name = f"drill_{next(self._numbers)}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return str(self._server.get_uri(name))

    def close(self) -> None:
        self._server.cleanup()


def address_of(url: str) -> str | tuple[str, int]:
    """Return where the server of a database URL listens: the path of its socket, or host and port."""
    parsed = make_url(url)
    host, port = str(parsed.query.get("host") or parsed.host or "127.0.0.1"), parsed.port or 5432
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def through(url: str, port: int) -> str:
    """Return a database URL that goes by a proxy on this machine."""
    parsed = make_url(url).set(host="127.0.0.1", port=port)
    return parsed.difference_update_query(["host"]).render_as_string(hide_password=False)


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which `part` of the values lie, NaN where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return "none"
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.3g}{unit}  ({low:.3g} to {high:.3g}, {len(values)})"


class Report:
    """What was demanded, and what was seen. A time is shown and never fails."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._rows: list[tuple[str, str, str, str]] = []
        self._failed = False

    def demand(self, what: str, wanted: object, seen: object, ok: bool | None = None) -> None:
        """Note a demand on correctness, which fails unless what was seen is what was wanted, or `ok`."""
        good = seen == wanted if ok is None else ok
        self._failed |= not good
        self._rows.append((what, str(wanted), _cut(str(seen)), "ok" if good else "FAILED"))

    def demand_none(self, found: Mapping[str, int], where: str = "") -> None:
        """Note faults that were counted, none of which should be there."""
        for what, count in found.items():
            self.demand(f"{where}{what}", 0, int(count))

    def show(self, what: str, seen: str, wanted: str = "") -> None:
        """Note what fails nothing: a time, a count."""
        self._rows.append((what, wanted, _cut(seen), ""))

    def end(self) -> int:
        """Print the table; return the exit code."""
        head = ("", "demanded", "seen", "")
        widths = [max(len(row[column]) for row in (head, *self._rows)) for column in range(3)]
        print(f"\n{self.title}")
        for row in (head, *self._rows):
            print("  ".join(text.ljust(width) for text, width in zip(row, (*widths, 0), strict=True)).rstrip())
        print("FAILED" if self._failed else "all demands met", flush=True)
        return int(self._failed)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…"


def arguments(description: str | None, add: Callable[[argparse.ArgumentParser], None] = lambda _: None) -> Any:
    """Read a drill's command line, which has ``--quick`` at least."""
    parser = argparse.ArgumentParser(description=re.sub(r"\s+", " ", description or ""))
    parser.add_argument("--quick", action="store_true", help="a few minutes at most, and looser figures")
    parser.add_argument("--keep", action="store_true", help="keep homes, databases and logs to look into")
    add(parser)
    return parser.parse_args()


@contextmanager
def workplace(keep: bool = False) -> Iterator[Path]:
    """Yield a folder that is gone in the end, or whose name is printed."""
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    try:
        yield folder
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
