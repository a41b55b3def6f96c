"""A request that offers another protocol is answered as if it did not (RFC 9110, section 7.8)."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Server, serving
from tests.service.test_express import Connection

OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
TEXT = "The kettle by the cup in town was splendid and fair."


@pytest.fixture(scope="module")
def server(shared_small: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(shared_small(), tmp_path_factory.mktemp("upgrade") / "log") as server:
        yield server


def request(path: str, body: bytes, *lines: bytes) -> tuple[bytes, bytes]:
    """Return the head of a request and its body."""
    kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\n" % path.encode() + kind + b"".join(lines) + b"\r\n", body


BODY = json.dumps({"paragraphs": [TEXT]}).encode()
# What is labelled at once, and what takes the whole road.
BODIES = [BODY, json.dumps({"paragraphs": [TEXT], "explain": True}).encode()]


@pytest.mark.parametrize("body", BODIES)
def test_the_body_is_read(server: Server, body: bytes) -> None:
    answers = []
    for lines in ((), (OFFER,)):
        with Connection(server.port) as connection:
            head, _ = request("/v1/classify", body, *lines)
            connection.send(head + body)
            status, _, found = connection.answer()
            answers.append((status, found))
            # The connection goes on, with a head that comes in pieces and a body of its own.
            for part in (head[:50], head[50:], body[:7], body[7:]):
                connection.send(part)
            answers.append(connection.answer()[::2])
    assert answers == [(200, answers[0][1])] * 4


def test_a_body_is_no_request_of_its_own(server: Server) -> None:
    inner = b"".join(request("/v1/annotations", b'{"annotations":[{"text":"a stowaway","topics":{}}]}'))
    with Connection(server.port) as connection:
        head, _ = request("/v1/classify", inner, OFFER)
        connection.send(head)
        connection.send(inner)
        status, _, _ = connection.answer()
        assert status == 400
        connection.send(b"".join(request("/v1/classify", BODY)))
        assert connection.answer()[0] == 200
    assert b"stowaway" not in server.request("/v1/annotations").body


def test_many_in_one_message_are_answered_in_order(server: Server) -> None:
    bodies = [json.dumps({"paragraphs": [{"id": str(number), "text": TEXT}]}).encode() for number in range(500)]
    with Connection(server.port) as connection:
        connection.send(b"".join(b"".join(request("/v1/classify", body, OFFER)) for body in bodies))
        ids = [json.loads(connection.answer()[2])["results"][0]["id"] for _ in bodies]
    assert ids == [str(number) for number in range(500)]


def test_a_stream_is_read(server: Server) -> None:
    line = json.dumps(TEXT).encode() + b"\n"
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(line), line)
    head = b"POST /v1/classify/stream HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n" + OFFER
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head + b"Connection: close\r\n\r\n" + chunks)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ") and b'"topic":"tea"' in answer


def test_a_tunnel_is_refused_and_its_connection_closed(server: Server) -> None:
    with Connection(server.port) as connection:
        connection.send(b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\n\r\n")
        assert connection.answer()[0] in (400, 404, 405)
        assert connection.is_closed()
