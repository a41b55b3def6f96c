"""The stream: in order, an error stays on its line, and neither side waits for the other for ever."""

from __future__ import annotations

import http.client
import json
import resource
import socket
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from models.examples import Example
from tests.conftest import Server, serving

HEAD = b"POST /v1/classify/stream HTTP/1.1\r\nHost: localhost\r\n"


def stream(server: Server, body: bytes, query: str = "") -> list[Any]:
    answer = server.request(f"/v1/classify/stream{query}", body)
    assert answer.status == 200 and answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.body.splitlines()]


def test_lines_come_back_in_order_with_the_scores_of_classify(server: Server, seeds: list[Example]) -> None:
    rows = seeds[:300]
    body = "\n".join(json.dumps({"id": row.id, "text": row.text}) for row in rows).encode()
    lines = stream(server, body)
    assert [line["id"] for line in lines] == [row.id for row in rows]
    assert [line["line"] for line in lines] == list(range(1, 301))
    direct = server.classify(*(row.text for row in rows))
    assert [line["result"]["topics"] for line in lines] == [result["topics"] for result in direct]
    assert len({line["model"] for line in lines}) == 1


def test_a_byte_order_mark_harms_nothing(server: Server) -> None:
    lines = stream(server, b'\xef\xbb\xbf"Fine."\n"Well."')
    assert ["result" in line for line in lines] == [True, True]


def test_an_error_stays_on_its_line(server: Server) -> None:
    body = b'"Fine."\n\n{"id": "b", "text": ""}\n{oops\n{"text": "\xff"}\n{"text": "x", "y": 1}\n"\\ud800"\n"Well."'
    lines = stream(server, body, "?topics=energy,crimea&explain=true")
    assert [line["line"] for line in lines] == [1, 3, 4, 5, 6, 7, 8]
    assert ["result" in line for line in lines] == [True, False, False, False, False, False, True]
    assert [line["error"]["status"] for line in lines if "error" in line] == [422, 400, 400, 422, 400]
    assert lines[1]["id"] == "b" and lines[1]["error"]["errors"][0]["field"] == "text"
    assert {topic["topic"] for topic in lines[0]["result"]["topics"]} == {"energy", "crimea"}
    assert "bias" in lines[0]["result"]["topics"][0]


def test_a_line_that_is_too_long_is_refused_and_the_next_is_answered(server: Server) -> None:
    lines = stream(server, b'"' + b"w" * 5_000_000 + b'"\n"Well."\n"' + b"w" * 2_500_000)
    assert [(line["line"], line.get("error", {}).get("status")) for line in lines] == [(1, 413), (2, None), (3, 413)]


def test_answers_come_before_the_body_ends(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            line = json.dumps({"id": f"n{number}", "text": "The embassy reopened."}).encode() + b"\n"
            connection.sendall(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            got = b""
            while f'"n{number}"'.encode() not in got:
                piece = connection.recv(65536)
                assert piece
                got += piece
        connection.sendall(b"0\r\n\r\n")


def test_a_client_that_sends_everything_first_gets_everything_and_memory_stays_flat(
    server: Server, seeds: list[Example]
) -> None:
    body = "".join(json.dumps({"text": row.text}) + "\n" for row in seeds[:1500]).encode() * 12
    stream(server, body[: len(body) // 12])
    before = server.memory()
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, server.memory())
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert [line["line"] for line in stream(server, body)] == list(range(1, 18_001))
    finally:
        done.set()
        watcher.join()
    assert peak - before < 12_000_000


def test_a_client_that_falls_silent_is_given_up(bundle_path: Path, tmp_path: Path) -> None:
    with (
        serving(bundle_path, tmp_path / "log", "--stream-stall-seconds", "0.5") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection,
    ):
        connection.sendall(HEAD + b'Content-Length: 900\r\n\r\n"a"')
        got = b""
        while piece := connection.recv(65536):
            got += piece
        assert got.startswith(b"HTTP/1.1 200") and not got.endswith(b"0\r\n\r\n")


def test_a_client_that_stands_still_is_given_up(bundle_path: Path, seeds: list[Example], tmp_path: Path) -> None:
    arguments = ("--stream-stall-seconds", "1", "--stream-spool-bytes", "1000000")
    line = json.dumps({"text": seeds[0].text}).encode() + b"\n"
    with serving(bundle_path, tmp_path / "log", *arguments) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(HEAD + b"Content-Length: 900000000\r\n\r\n")
            try:
                for _ in range(400):
                    connection.sendall(line * 200)
            except ConnectionError:
                pass
            else:
                raise AssertionError("the server took everything from a client that reads nothing")
        assert server.request("/readyz").status == 200


def test_a_full_disk_cuts_the_stream_and_says_why(bundle_path: Path, seeds: list[Example], tmp_path: Path) -> None:
    line = json.dumps({"text": seeds[0].text}).encode() + b"\n"
    with serving(bundle_path, tmp_path / "log") as server:
        # No file may grow beyond what the answer to such a body takes.
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.connect()
        with closing(connection):
            # All is sent before anything is read, as most clients do it, so the answers wait on disk.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                connection.request("POST", "/v1/classify/stream", line * 40_000)
                connection.getresponse().read()
        assert server.request("/readyz").status == 200
    assert "File too large" in server.log.read_text()
