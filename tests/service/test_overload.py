"""More requests than can be answered, and clients that dawdle: told so, and never at the cost of the others."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.bundle import load_bundle
from service.server import HEAD_SECONDS
from tests.conftest import Answer, Server, serving

TEXT = "The kettle by the cup in town {} was splendid and fair."


@pytest.fixture(scope="module")
def small_bundle(shared_small: Callable[..., Path]) -> Path:
    return shared_small()


@pytest.fixture(scope="module")
def narrow(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that has little room and little patience."""
    log = tmp_path_factory.mktemp("overload") / "log"
    with serving(small_bundle, log, "--max-waiting", "2", "--body-seconds", "1") as server:
        yield server


def test_what_does_not_fit_in_the_queue_is_told_to_come_back(narrow: Server) -> None:
    # Long enough to be scored in a thread, and to take a while there.
    body = json.dumps({"paragraphs": [TEXT.format(number) * 20 for number in range(1000)]}).encode()

    def ask(number: int) -> Answer:
        if number % 4 == 0:
            return narrow.request("/healthz")
        return narrow.request("/v1/classify", body, {"Content-Type": "application/json"})

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(64)))
    assert all(answer.status == 200 for answer in answers[::4])
    counted = Counter(answer.status for answer in answers)
    assert set(counted) == {200, 503}
    for answer in answers:
        if answer.status == 503:
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) > 0
        elif "results" in answer.json:
            assert len(answer.json["results"]) == 1000
    assert narrow.request("/v1/classify", body, {"Content-Type": "application/json"}).status == 200


def test_each_answer_belongs_to_its_request(narrow: Server, small_bundle: Path) -> None:
    scorer = load_bundle(small_bundle).scorer

    def ask(number: int) -> bool:
        text = TEXT.format(number)
        while (
            answer := narrow.post("/v1/classify", {"paragraphs": [{"id": f"n{number}", "text": text}]})
        ).status == 503:
            pass
        (result,) = answer.json["results"]
        expected = scorer.classify(text, topics=[topic["topic"] for topic in result["topics"]])
        assert result["id"] == f"n{number}" and result["decision"] == expected.decision
        for topic, wanted in zip(result["topics"], expected.topics, strict=True):
            assert topic["score"] == pytest.approx(wanted.score, abs=1e-9)
            assert all(text[span["start"] : span["end"]] == span["text"] for span in topic["evidence"])
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))


def opened(server: Server, head: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=HEAD_SECONDS + 10)
    connection.sendall(head)
    return connection


def test_slow_clients_are_given_up_and_the_others_are_answered(narrow: Server) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    starts = [b"", b"GET /hea", head, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HT"]
    dawdling = [opened(narrow, start) for start in starts for _ in range(50)]
    late = [opened(narrow, head + b'Content-Length: 100\r\n\r\n{"text": "cut') for _ in range(5)]
    began = time.monotonic()
    while time.monotonic() < began + 2:
        assert narrow.post("/v1/classify", {"text": TEXT.format(1)}).status == 200
    for connection in late:
        assert b" 408 " in connection.recv(65536)
        connection.close()
    for connection in dawdling:
        # Whatever was answered before, the end of the connection comes.
        while connection.recv(65536):
            pass
        connection.close()
    assert narrow.post("/v1/classify", {"text": TEXT.format(1)}).status == 200


def test_what_follows_a_body_is_bounded(narrow: Server) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    for endless in (b"X-More: 1\r\n" * 1000, b"X" * 10_000):
        connection, sent = opened(narrow, head + b"X-First: "), 0
        with pytest.raises(ConnectionError), connection:
            while sent < 20_000_000:
                connection.sendall(endless)
                sent += len(endless)
        assert 100_000 < sent < 20_000_000
    assert narrow.post("/v1/classify", {"text": TEXT.format(1)}).status == 200


def test_a_long_body_in_many_pieces_is_no_head(narrow: Server) -> None:
    body = json.dumps({"paragraphs": [TEXT.format(number) for number in range(12_000)]}).encode()
    assert len(body) > 600_000
    head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    connection = opened(narrow, f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode())
    for at in range(0, len(body), 10_000):
        connection.sendall(body[at : at + 10_000])
    answer = b""
    while piece := connection.recv(1 << 20):
        answer += piece
    connection.close()
    assert b" 200 " in answer[:20] or b" 422 " in answer[:20]
