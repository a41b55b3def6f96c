"""A service whose PostgreSQL stalls, is gone, or goes between a commit and its answer: all through a real proxy."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from benchmarks.drills.harness import wait_for
from benchmarks.drills.proxy import Mode, Proxy
from service.store.database import Database
from tests.conftest import Answer, Server, serving

TEXT = "The kettle by the cup in town 3 was splendid and fair."


class Reached(NamedTuple):
    """A service that reaches its database through a proxy, and the way that does not go by it."""

    server: Server
    proxy: Proxy
    url: str

    def write(self, text: str, key: str) -> Answer:
        body = json.dumps({"annotations": [{"text": text, "topics": {"tea": "favor"}}]}).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        return self.server.request("/v1/annotations", body, headers)

    def is_well(self) -> bool:
        return bool(self.server.request("/readyz").json["status"] == "ok")

    def stored(self, text: str) -> tuple[int, int]:
        """Return how many paragraphs and how many annotations there are of a text."""
        query = """SELECT count(DISTINCT p.number), count(a.number)
                   FROM paragraphs p LEFT JOIN annotations a ON a.paragraph = p.number WHERE p.text = %s"""
        with psycopg.connect(self.url) as connection:
            paragraphs, annotations = connection.execute(query, [text]).fetchone() or (0, 0)
            return paragraphs, annotations


@pytest.fixture(scope="module")
def reached(
    shared_small: Callable[..., Path], new_postgres: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reached]:
    url = new_postgres()
    proxy = Proxy(url)
    log = tmp_path_factory.mktemp("outages") / "log"
    try:
        with serving(shared_small(), log, "--database-url", proxy.url, "--workers", "2") as server:
            yield Reached(server, proxy, url)
    finally:
        proxy.close()


@pytest.fixture(autouse=True)
def well(reached: Reached) -> Iterator[None]:
    """Begin and end with a database that answers."""
    wait_for(reached.is_well, 10, "a service that is well")
    yield
    reached.proxy.set("pass")


def refused(reached: Reached, text: str, key: str) -> float:
    """See a write refused as it should be; return the seconds that took."""
    start = time.monotonic()
    answer = reached.write(text, key)
    assert answer.status == 503, answer
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == "application/problem+json"
    return time.monotonic() - start


def test_a_database_that_stalls_refuses_writes_in_time_and_no_paragraph(reached: Reached) -> None:
    before = reached.server.classify(TEXT)
    reached.proxy.set("stall")
    # The second finds connections thrown away, and waits for new ones.
    for turn in range(3):
        assert refused(reached, f"Stalled {turn}.", f"stalled-{turn}") < 2
        assert reached.server.classify(TEXT) == before

    # Each worker finds out by itself, when its next look at the store goes unanswered.
    def is_degraded() -> bool:
        health = reached.server.request("/readyz")
        assert health.status == 200
        return bool(health.json["status"] == "degraded")

    wait_for(is_degraded, 5, "a service that says that its store stalls")
    reached.proxy.set("pass")
    wait_for(reached.is_well, 5, "a service that is well again")
    wait_for(lambda: reached.write("Stalled 0.", "stalled-0").status == 201, 5, "a write accepted")
    assert reached.stored("Stalled 0.") == (1, 1)


def test_a_commit_whose_answer_was_lost_is_stored_once(reached: Reached) -> None:
    text, cuts = "The brew by the leaf in town 9 was on the agenda.", reached.proxy.cuts
    reached.proxy.set("cut_commit")
    refused(reached, text, "lost")
    assert reached.proxy.cuts > cuts
    assert reached.stored(text) == (1, 1)
    reached.proxy.set("pass")
    again = wait_for(lambda: (answer := reached.write(text, "lost")).status == 201 and answer, 5, "an answer")
    # What was answered is what was done the first time.
    assert (again.json["new"], again.json["duplicate"]) == (1, 0)
    assert reached.stored(text) == (1, 1)


def test_a_host_that_is_gone_without_a_word_is_noticed_soon(reached: Reached, tmp_path: Path) -> None:
    database = Database(reached.proxy.url, tmp_path)
    with database.reading() as connection:
        driver: Any = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(driver.fileno())) as copy:
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert [copy.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [10, 5, 3]
    database.close()


def test_a_store_without_its_tables_is_said_to_be_ill(reached: Reached) -> None:
    def rename(one: str, other: str) -> None:
        with psycopg.connect(reached.url) as connection:
            connection.execute(f"ALTER TABLE {one} RENAME TO {other}")

    rename("api_keys", "elsewhere")
    try:
        wait_for(lambda: not reached.is_well(), 10, "a service that is ill")
        assert "42P01" in reached.server.request("/readyz").json["reason"]
        reached.server.classify(TEXT)
    finally:
        rename("elsewhere", "api_keys")
    wait_for(reached.is_well, 10, "a service that is well again")


@pytest.mark.parametrize("mode", ["gone", "reset"])
def test_a_database_that_comes_back_is_used_again(reached: Reached, mode: Mode) -> None:
    text, key = f"The cup in town 11, {mode}.", f"key-{mode}"
    reached.proxy.set(mode)
    for _ in range(3):
        assert refused(reached, text, key) < 2
        reached.server.classify(text)
    assert reached.stored(text) == (0, 0)
    reached.proxy.set("pass")
    wait_for(lambda: reached.write(text, key).status == 201, 5, "a write accepted")
    wait_for(reached.is_well, 5, "a service that is well again")
    assert reached.stored(text) == (1, 1)
