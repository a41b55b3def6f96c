"""Whatever comes in: a clear 4xx that names the field, never a 500, never the input given back, and on it goes."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Answer, Server

MARK = "Qzxjw"
MARKS = "e" + "́" * 10**5
DEEP = 100_000


def post(server: Server, body: bytes, content_type: str = "application/json") -> Answer:
    return server.request("/v1/classify", body, {"Content-Type": content_type})


def check(answer: Answer, status: int, field: str, *allowed: str) -> None:
    assert answer.status == status, answer.body[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json
    assert problem["status"] == status and problem["title"] and problem["detail"]
    assert field in [fault["field"] for fault in problem["errors"]]
    assert MARK.encode() not in answer.body
    assert len(answer.body) < 4000
    for part in allowed:
        assert part in json.dumps(problem)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, "body"),
        (b"{", 400, "body"),
        (b'{"text": "Qzxjw \xff\xfe"}', 400, "body"),
        (b'{"text": "Qzxjw \\ud800 x"}', 400, "body"),
        (b'{"text": "Qzxjw \\udc00"}', 400, "body"),
        (b'{"text": NaN}', 400, "body"),
        (b'{"text": "Qzxjw", "explain": Infinity}', 400, "body"),
        (b'{"text": -Infinity}', 400, "body"),
        (b"[" * DEEP, 422, "body"),
        (b'{"text": ' + b"[" * DEEP, 422, "text"),
        (b'{"paragraphs": ' + b"[" * DEEP + b"]" * DEEP + b"}", 422, "paragraphs[0]"),
        (b'{"a":' * DEEP, 422, "a"),
        (b"[1]", 422, "body"),
        (b'"Qzxjw"', 422, "body"),
        (b"{}", 422, "text"),
        (b'{"text": "Qzxjw", "paragraphs": ["x"]}', 422, "text"),
        (b'{"text": ""}', 422, "text"),
        (b'{"text": " \\n "}', 422, "text"),
        (b'{"text": "Qzxjw\\u0000"}', 422, "text"),
        (b'{"text": 1e999}', 422, "text"),
        (b'{"text": ["Qzxjw"]}', 422, "text"),
        (b'{"paragraphs": []}', 422, "paragraphs"),
        (b'{"paragraphs": ["Qzxjw", ""]}', 422, "paragraphs[1]"),
        (b'{"paragraphs": ["Qzxjw", {"text": "\\u0000"}]}', 422, "paragraphs[1].text"),
        (b'{"paragraphs": [{"id": "Qzxjw"}]}', 422, "paragraphs[0]"),
        (b'{"paragraphs": [{"text": "Qzxjw", "id": 3}]}', 422, "paragraphs[0].id"),
        (b'{"paragraphs": [{"text": "ok", "colour": "Qzxjw"}]}', 422, "paragraphs[0].colour"),
        (b'{"text": "Qzxjw", "colour": 1}', 422, "colour"),
        (b'{"text": "ok", "<b>Qzxjw</b>": 1}', 422, "(unnamed)"),
        (b'{"text": "Qzxjw", "topics": ["teapots"]}', 422, "topics[0]"),
        (b'{"text": "Qzxjw", "topics": "crimea"}', 422, "topics"),
        (b'{"text": "Qzxjw", "explain": 1}', 422, "explain"),
        (b'{"text": "Qzxjw", "model": "linear-0"}', 422, "model"),
        (b'{"Qzxjw` - at `Qzxjw": 1}', 422, "(unnamed)"),
        (b'{"a` - at `$.Qzxjw.words and words": 1}', 422, "(unnamed)"),
    ],
)
def test_bad_bodies(server: Server, body: bytes, status: int, field: str) -> None:
    check(post(server, body), status, field)
    assert server.request("/healthz").status == 200


def test_options_in_the_address_are_refused_and_not_passed_over(server: Server) -> None:
    answer = server.request("/v1/classify?explain=true", b'{"text": "Rain."}', {"Content-Type": "application/json"})
    check(answer, 422, "query", "none")


def test_every_paragraph_at_fault_is_named(server: Server) -> None:
    answer = server.post("/v1/classify", {"paragraphs": ["", "fine", "x" * 20_001, {"text": "ok", "id": "i" * 300}]})
    fields = [fault["field"] for fault in answer.json["errors"]]
    assert fields == ["paragraphs[0]", "paragraphs[2]", "paragraphs[3].id"]


@pytest.mark.parametrize(
    ("value", "field", "limit"),
    [
        ({"paragraphs": ["ok"] * 1025}, "paragraphs", "1,024"),
        ({"text": "ok.\n\n" * 1025}, "text", "1,024"),
        ({"paragraphs": ["x" * 20_001]}, "paragraphs[0]", "20,000"),
        ({"text": "w" * 10**6}, "text, paragraph 1", "20,000"),
        ({"text": MARKS}, "text, paragraph 1", "20,000"),
        ({"paragraphs": ["a " * 9000] * 3, "explain": True}, "explain", "50,000"),
    ],
)
def test_limits_name_themselves(server: Server, value: Any, field: str, limit: str) -> None:
    check(server.post("/v1/classify", value), 422, field, limit)


@pytest.mark.parametrize("text", ["w" * 20_000, "e" + "́" * 19_999, "́̀" * 9_999 + "ab", "a " * 10_000])
def test_the_heaviest_text_within_the_limits_is_answered(server: Server, text: str) -> None:
    assert server.classify(text, explain=True)[0]["decision"] in {"on_topic", "off_topic", "uncertain"}


def raw(server: Server, head: str, *chunks: bytes) -> bytes:
    """Send bytes as they are, and return what comes back before the connection ends or falls silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n")
            for chunk in chunks:
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        connection.settimeout(3)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return answer


LONG = json.dumps({"text": MARK + " " + "word " * 500_000}).encode()


def test_a_long_body_is_refused(server: Server) -> None:
    check(post(server, LONG), 413, "body", "2,000,000")


def test_a_long_chunked_body_is_refused(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/v1/classify", iter([LONG[i : i + 65536] for i in range(0, len(LONG), 65536)]))
    response = connection.getresponse()
    assert response.status == 413 and MARK.encode() not in response.read()
    connection.close()


def test_endless_chunks_are_not_buffered(server: Server) -> None:
    before = server.memory()
    piece = b"x" * 65536
    chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    answer = raw(server, "POST /v1/classify HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n", *[chunk] * 1600)
    assert answer.startswith(b"HTTP/1.1 413")
    assert server.memory() - before < 30_000_000


@pytest.mark.parametrize(
    ("length", "body"),
    [("99999999999", b"{}"), ("-5", b"{}"), ("12x", b"{}"), ("3", b'{"text": "Qzxjw"}')],
)
def test_a_false_length_is_a_4xx(server: Server, length: str, body: bytes) -> None:
    answer = raw(server, f"POST /v1/classify HTTP/1.1\nHost: localhost\nContent-Length: {length}\n", body)
    assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert MARK.encode() not in answer


def test_a_length_longer_than_the_body_harms_nobody(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{}")
    assert server.request("/readyz").status == 200


def test_a_body_without_a_length_is_no_body(server: Server) -> None:
    answer = raw(server, "POST /v1/classify HTTP/1.1\nHost: localhost\nConnection: close\n", b"")
    assert answer.startswith(b"HTTP/1.1 400") and b"problem+json" in answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/classify", 405), ("DELETE", "/v1/models", 405), ("GET", "/nothing", 404)],
)
def test_wrong_methods_and_paths_are_problems(server: Server, method: str, path: str, status: int) -> None:
    answer = server.request(path, method=method)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/stream", "/v1/annotations", "/v1/trainings"])
def test_a_compressed_body_is_refused(server: Server, path: str) -> None:
    assert server.request(path, b"x", {"Content-Encoding": "gzip"}).status == 415


@pytest.mark.parametrize(("charset", "status"), [("utf-16", 415), ("cp1251", 415), ("UTF-8", 200), ('"us-ascii"', 200)])
def test_text_is_read_as_utf_8_alone(server: Server, charset: str, status: int) -> None:
    answer = post(server, b"Rain fell.", f"text/plain; charset={charset}")
    assert answer.status == status and (status == 200 or "utf-8" in answer.json["detail"])


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/stream"])
def test_a_body_that_is_said_to_be_as_it_is_is_taken(server: Server, path: str) -> None:
    assert server.request(path, b'{"text": "Rain."}', {"Content-Encoding": "Identity"}).status == 200


@pytest.mark.parametrize("query", ["topics=teapots", "explain=yes", "model=x", "colour=blue"])
def test_bad_stream_options(server: Server, query: str) -> None:
    assert server.request(f"/v1/classify/stream?{query}", b'"x"').status == 422


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=30),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["text", "paragraphs", "topics", "explain", "id", "x"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_no_json_makes_a_500(server: Server, value: Any) -> None:
    assert server.post("/v1/classify", value).status in {200, 400, 422}


@settings(deadline=None, max_examples=150)
@given(body=st.binary(max_size=200))
def test_no_bytes_make_a_500(server: Server, body: bytes) -> None:
    assert post(server, body).status in {400, 422}
    assert post(server, body, "text/plain").status in {200, 400, 422}
