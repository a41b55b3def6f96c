"""The express lane of /v1/classify: what it answers is what the road answers, whatever a connection does."""

from __future__ import annotations

import gc
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from service.app import create_app
from service.express import STATE
from service.server import Protocol
from service.settings import Settings
from tests.conftest import Server, free_port, serving

TEXT = "The kettle by the cup in town {} was splendid and fair."
HEAD = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\n"


@pytest.fixture(scope="module")
def quick(shared_small: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(shared_small(), tmp_path_factory.mktemp("express") / "log", "--body-seconds", "1") as server:
        yield server


class Connection:
    """A connection on which requests are written byte by byte."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._came = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return the status, headers and body of the next answer."""
        while b"\r\n\r\n" not in self._came:
            self._more()
        head, _, self._came = self._came.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"])
        while len(self._came) < length:
            self._more()
        body, self._came = self._came[:length], self._came[length:]
        return int(status.split()[1]), headers, body

    def is_closed(self) -> bool:
        try:
            return self._socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _more(self) -> None:
        data = self._socket.recv(65536)
        assert data, "the connection was closed"
        self._came += data


def express(body: bytes, kind: str = "application/json", *more: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in (f"Content-Length: {len(body)}", *more))
    return (HEAD.format(kind) + lines + "\r\n").encode() + body


def road(body: bytes, kind: str = "application/json", *more: str) -> bytes:
    """The same request in chunks, which the lane does not take."""
    lines = "".join(f"{line}\r\n" for line in ("Transfer-Encoding: chunked", *more))
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    return (HEAD.format(kind) + lines + "\r\n").encode() + chunks


def asked(*texts: str, **options: Any) -> bytes:
    return json.dumps({"paragraphs": list(texts), **options}).encode()


JSON = "application/json"
CASES = [
    (asked(TEXT.format(1), "Rain fell.", "Кошка и чайник."), JSON),
    (asked(*(TEXT.format(number) for number in range(200))), JSON),
    (json.dumps({"text": f"{TEXT.format(1)}\n\nThe paw was dreadful and wrong."}).encode(), JSON),
    (TEXT.format(2).encode(), "text/plain; charset=utf-8"),
    (TEXT.format(2).encode(), 'text/plain;charset="US-ASCII"'),
    (TEXT.format(2).encode("utf-16"), "text/plain; charset=utf-16"),
    (json.dumps({"paragraphs": [{"id": "mine", "text": TEXT.format(3)}]}).encode(), JSON),
    (asked(TEXT.format(4), topics=["cats"]), JSON),
    (asked(TEXT.format(4), explain=True), JSON),
    (asked(TEXT.format(4), model="linear-000000000000"), JSON),
    (asked(TEXT.format(4), topics=["dogs"]), JSON),
    (asked("  ", TEXT.format(5)), JSON),
    (asked(), JSON),
    (b"", JSON),
    (b"{", JSON),
    (b"\xff\xfe", JSON),
    (b"\xff\xfe", "text/plain"),
    (b'{"surprise": 1}', JSON),
    (b'{"text": 7}', JSON),
    (b"[" * 5000, JSON),
]


@pytest.mark.parametrize(("body", "kind"), CASES)
def test_the_lane_answers_as_the_road_does(quick: Server, body: bytes, kind: str) -> None:
    told = []
    for write in (express, road):
        with Connection(quick.port) as connection:
            connection.send(write(body, kind))
            status, headers, found = connection.answer()
            assert re.fullmatch("[0-9a-f]{16}", headers.pop("x-request-id"))
            assert headers.pop("date")
            told.append((status, headers, found))
    assert told[0] == told[1]


@pytest.mark.parametrize(("coding", "status"), [("Identity", 200), ("gzip", 415)])
def test_a_coding_is_read_alike_on_either_way(quick: Server, coding: str, status: int) -> None:
    for write in (express, road):
        with Connection(quick.port) as connection:
            connection.send(write(asked(TEXT.format(1)), JSON, f"Content-Encoding: {coding}"))
            assert connection.answer()[0] == status


@pytest.mark.parametrize("header", ["Origin: http://evil.org", "Authorization: Bearer st_x_y", "Host: evil.org"])
def test_whoever_may_not_ask_is_refused_on_either_way(quick: Server, header: str) -> None:
    for write in (express, road):
        with Connection(quick.port) as connection:
            given = write(asked(TEXT.format(1)), JSON, header)
            if header.startswith("Host"):
                given = given.replace(b"Host: localhost\r\n", b"", 1)
            connection.send(given)
            status, headers, _ = connection.answer()
            assert status in (401, 403) and headers["content-type"] == "application/problem+json"


def test_every_way_that_a_request_may_come_in_pieces(quick: Server) -> None:
    given = express(asked(TEXT.format(1)))
    with Connection(quick.port) as connection:
        connection.send(given)
        whole = connection.answer()[2]
        for cut in range(0, len(given), 7):
            connection.send(given[:cut])
            # Long enough to be read by itself.
            time.sleep(0.002)
            connection.send(given[cut:])
            assert connection.answer()[2] == whole


def test_requests_that_come_before_the_answers_are_answered_in_order(quick: Server) -> None:
    ways = [express, road, express, express, road, road, express]
    with Connection(quick.port) as connection:
        bodies = [
            json.dumps({"paragraphs": [{"id": f"n{number}", "text": TEXT.format(number)}]}).encode()
            for number in range(len(ways))
        ]
        health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.send(b"".join(write(body) for write, body in zip(ways, bodies, strict=True)) + health)
        for number in range(len(ways)):
            assert json.loads(connection.answer()[2])["results"][0]["id"] == f"n{number}"
        assert b'"ok"' in connection.answer()[2]


def test_the_connection_is_kept_or_closed_as_asked(quick: Server) -> None:
    for more, is_kept in ((), True), (("Connection: close",), False):
        with Connection(quick.port) as connection:
            connection.send(express(asked(TEXT.format(1)), JSON, *more))
            status, headers, _ = connection.answer()
            assert status == 200 and ("connection" in headers) != is_kept
            if is_kept:
                connection.send(express(asked(TEXT.format(1)), JSON, "Connection: close"))
                assert connection.answer()[0] == 200
            assert connection.is_closed()


def test_a_connection_that_nothing_comes_on_is_closed(quick: Server) -> None:
    with Connection(quick.port) as connection:
        connection.send(express(asked(TEXT.format(1))))
        connection.answer()
        began = time.monotonic()
        time.sleep(3)
        connection.send(express(asked(TEXT.format(1))))
        connection.answer()
        assert connection.is_closed()
        # Five seconds after the second, not after the first.
        assert 7.5 < time.monotonic() - began < 15


def test_a_body_that_does_not_come_is_given_up(quick: Server) -> None:
    with Connection(quick.port) as connection:
        connection.send(express(asked(TEXT.format(1)))[:-5])
        status, headers, body = connection.answer()
        assert status == 408 and headers["connection"] == "close" and b"not here after 1 seconds" in body
        assert connection.is_closed()


def test_a_connection_on_which_nothing_comes_to_its_end_is_closed(quick: Server) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    refused = (
        b"POST /v1/annotations HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.org\r\nContent-Length: 99\r\n\r\n"
    )
    for asked, more in (whole, b"\r\n"), (refused, b"{"):
        with Connection(quick.port) as connection:
            connection.send(asked)
            assert connection.answer()[0] in (200, 403)
            connection.send(more)
            assert connection.is_closed()


def test_a_head_without_an_end_is_given_up(quick: Server) -> None:
    with Connection(quick.port) as connection:
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        began, sent = time.monotonic(), 0
        with pytest.raises(ConnectionError):
            while time.monotonic() < began + 9:
                connection.send(b"X-Many: " + b"x" * 65_000 + b"\r\n")
                sent += 65_010
                # Slow enough to be read piece by piece.
                time.sleep(0.01)
        assert 262_144 < sent < 4_000_000
    assert len(quick.classify(TEXT.format(1))) == 1


def test_an_article_of_many_lines_does_not_hold_the_lane(
    quick: Server, shared_small: Callable[..., Path], tmp_path: Path
) -> None:
    body = b"a\n\n" * 21_000
    for write in (express, road):
        with Connection(quick.port) as connection:
            connection.send(write(body, "text/plain"))
            status, _, found = connection.answer()
            assert status == 422 and b"paragraphs" in found
    with in_process(shared_small(), tmp_path) as server:
        lane, headers = server.lifespan.state[STATE], {"host": "localhost", "content-type": "text/plain"}
        assert lane.read(lane.begin(), headers, b"a\n\nb") is not None
        assert lane.read(lane.begin(), headers, body) is None


def test_a_length_of_very_many_digits_is_understood(quick: Server) -> None:
    with Connection(quick.port) as connection:
        body = asked(TEXT.format(1))
        connection.send(express(body).replace(b"Content-Length: ", b"Content-Length: " + b"0" * 5000))
        assert connection.answer()[0] == 200


def test_a_late_body_is_told_once_that_the_connection_closes(quick: Server) -> None:
    with socket.create_connection(("127.0.0.1", quick.port), timeout=20) as client:
        client.sendall(express(asked(TEXT.format(1)), JSON, "Connection: close")[:-5])
        head = client.makefile("rb").read().partition(b"\r\n\r\n")[0]
        assert b" 408 " in head and head.lower().count(b"connection:") == 1


def test_clients_that_go_away_leave_the_others_their_answers_and_a_line_in_the_log(quick: Server) -> None:
    for _ in range(20):
        with Connection(quick.port) as connection:
            connection.send(express(asked(*(TEXT.format(number) for number in range(200)))))
        with Connection(quick.port) as connection:
            connection.send(express(asked(TEXT.format(1)))[:-5])
    assert len(quick.classify(TEXT.format(1))) == 1
    for _ in range(100):
        if quick.log.read_text().count('"broken_off":true') >= 20:
            break
        time.sleep(0.05)
    else:
        pytest.fail("clients that went away stand in no line of the log")


@contextmanager
def in_process(bundle: Path, home: Path) -> Iterator[uvicorn.Server]:
    """Serve in a thread of this process, which can be looked into."""
    app = create_app(Settings(home=home, bundle=bundle))
    config = uvicorn.Config(
        app, http=Protocol, host="127.0.0.1", port=free_port(), log_config=None, access_log=False, lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server
    finally:
        server.should_exit = True
        thread.join(30)


def test_who_takes_an_answer_slowly_gets_it_and_who_takes_nothing_is_cut_off(
    shared_small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Protocol.connection_made

    def narrow(self: Protocol, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        made(self, transport)

    # Else the system's buffers hold the whole answer.
    monkeypatch.setattr(Protocol, "connection_made", narrow)
    monkeypatch.setattr("service.server.HEAD_SECONDS", 0.5)
    body = json.dumps({"text": "\n\n".join(f"{number} {'Rain fell. ' * 200}" for number in range(800))}).encode()
    head = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"

    def took(port: int, first: float, pause: float) -> bytes:
        """Pause before the first piece and before each other, and return what came."""
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", port))
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(first)
            got = bytearray()
            with suppress(ConnectionError):
                while True:
                    time.sleep(pause)
                    if not (piece := connection.recv(65536)):
                        break
                    got += piece
            return bytes(got)

    with in_process(shared_small(), tmp_path) as server:
        slowly, late = took(server.config.port, 0.1, 0.05), took(server.config.port, 4.0, 0.0)
    told = int(slowly.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
    assert len(slowly.partition(b"\r\n\r\n")[2]) == told > 1_500_000
    assert len(late) < len(slowly)


def test_a_request_leaves_nothing_to_the_garbage_collector(shared_small: Callable[..., Path], tmp_path: Path) -> None:
    with in_process(shared_small(), tmp_path) as server, Connection(server.config.port) as connection:

        def ask(times: int) -> None:
            for _ in range(times):
                connection.send(express(asked(TEXT.format(1))))
                assert connection.answer()[0] == 200

        ask(10)
        gc.collect()
        gc.disable()
        try:
            ask(300)
            assert gc.collect() < 300
        finally:
            gc.enable()


def test_what_was_asked_before_the_end_is_answered(shared_small: Callable[..., Path], tmp_path: Path) -> None:
    with serving(shared_small(), tmp_path / "log") as server:
        bodies = asked(*(TEXT.format(number) for number in range(500)))
        connections = [Connection(server.port) for _ in range(20)]
        for connection in connections:
            # One that the server has not taken yet would be reset.
            connection.send(express(asked(TEXT.format(1))))
            assert connection.answer()[0] == 200
        for connection in connections:
            connection.send(express(bodies))
        # While the first is answered the others are read, and get in line.
        found = [connections[0].answer()]
        server.process.send_signal(signal.SIGTERM)
        found += [connection.answer() for connection in connections[1:]]
        for connection, (status, _, body) in zip(connections, found, strict=True):
            assert status == 200 and len(json.loads(body)["results"]) == 500
            assert connection.is_closed()
            connection.__exit__()
        server.process.wait(20)
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert sum(line.get("paragraphs") == 500 for line in lines) == 20
