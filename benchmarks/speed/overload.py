"""More than can be answered, and clients that dawdle: what the others still get. The server on one core."""

from __future__ import annotations

import http.client
import itertools
import math
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from benchmarks.speed.http import PORT, Server, loaded, started, wrk
from benchmarks.speed.table import show
from models.bundle import Bundle

# Four times what may wait.
CONNECTIONS = 4096
SECONDS = 30
PEAK_CONNECTIONS = 64
BESIDE_SLOW = 16
SLOW = 200
_WELL_AGAIN = 5.0
_PROBE = 0.05
_SERVER = Server("Stancery", sys.executable, "", "/v1/classify")
_FLOOR = Server("Starlette + msgspec, no work", sys.executable, "starlette_floor.py")
_STATUSES = """
local threads = {}
setup = function(thread) threads[#threads + 1] = thread end
init = function() statuses = {} end
response = function(status) statuses[status] = (statuses[status] or 0) + 1 end
done = function(summary)
  local found = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do
      found[#found + 1] = string.format('"%d": %d', status, count)
    end
  end
  local errors = summary.errors
  io.write(string.format('{"seconds": %f, "failed": %d, "statuses": {%s}}\\n', summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.timeout, table.concat(found, ", ")))
end
"""


def run(bundle: Bundle, rounds: int, seconds: float) -> None:
    """Measure and print."""
    least = CONNECTIONS + 1000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (least if hard == resource.RLIM_INFINITY else min(least, hard), hard))
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for _ in tqdm(range(rounds), desc="overload", disable=None):
            with started(_SERVER, bundle, work):
                for name, value in _measured(work, seconds):
                    found[name][""].append(value)
            # So many connections cost the system and the loop something, whatever is done with what comes.
            with started(_FLOOR, bundle, work):
                peak = loaded(_FLOOR, work, PEAK_CONNECTIONS, 1, seconds)[0]
                told = wrk(_FLOOR, work, CONNECTIONS, 1, SECONDS, _STATUSES)
            kept = 100 * told["statuses"]["200"] / told["seconds"] / peak
            found[f"{_FLOOR.name}: under that many, of its rate before, %"][""].append(kept)
    show(
        f"{CONNECTIONS:,} connections that ask again at once, and {SLOW} slow clients", "", [""], found, is_alike=False
    )


def _measured(work: Path, seconds: float) -> Iterator[tuple[str, float]]:
    yield "paragraphs/s before, 64 connections", (peak := loaded(_SERVER, work, PEAK_CONNECTIONS, 1, seconds)[0])
    with _probed() as waits:
        told = wrk(_SERVER, work, CONNECTIONS, 1, SECONDS, _STATUSES)
    statuses = {int(status): count / told["seconds"] for status, count in told["statuses"].items()}
    yield f"paragraphs/s under {CONNECTIONS:,}", (under := statuses.get(200, 0.0))
    yield "of the rate before, %", 100 * under / peak
    yield "429 and 503 a second", statuses.get(429, 0.0) + statuses.get(503, 0.0)
    yield (
        "other answers, and failed requests",
        told["failed"] + sum(count for status, count in told["statuses"].items() if int(status) not in (200, 429, 503)),
    )
    yield "health, median, ms", 1000 * statistics.median(waits)
    yield "health, 99th percentile, ms", 1000 * statistics.quantiles(waits, n=100)[98]
    time.sleep(_WELL_AGAIN)
    after, wait = loaded(_SERVER, work, PEAK_CONNECTIONS, 1, seconds)
    yield f"paragraphs/s {_WELL_AGAIN:g} s after", after
    # Half a minute lies between the two, in which a machine that is shared may become another.
    yield "under that many, of the mean of before and after, %", 200 * under / (peak + after)
    yield "99th percentile then, ms", wait
    alone, wait = loaded(_SERVER, work, BESIDE_SLOW, 1, seconds)
    yield f"paragraphs/s, {BESIDE_SLOW} connections", alone
    yield "99th percentile, ms", wait
    with _dawdling() as clients:
        beside, wait = loaded(_SERVER, work, BESIDE_SLOW, 1, seconds)
        waiting = sum(map(_is_waiting, clients))
    yield f"paragraphs/s beside {SLOW} slow clients", beside
    yield "99th percentile beside them, ms", wait
    yield "of them still there at the end", waiting


@contextmanager
def _probed() -> Iterator[list[float]]:
    """Ask how the server is, again and again, and yield the seconds that each answer took, endless where none came."""
    waits: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(_PROBE):
            start = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
            try:
                connection.request("GET", "/healthz")
                is_well = connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                is_well = False
            connection.close()
            waits.append(time.perf_counter() - start if is_well else math.inf)

    prober = threading.Thread(target=ask)
    prober.start()
    try:
        yield waits
    finally:
        ended.set()
        prober.join()


@contextmanager
def _dawdling() -> Iterator[list[socket.socket]]:
    """Have clients send heads and bodies a byte at a time, and yield them."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: 900\r\n"
    clients: list[socket.socket] = []
    ended = threading.Event()

    def dawdle() -> None:
        # Half of them never end the head, and half do not come to the end of the body.
        rests = [b"X-Slow: " + b"x" * 800, b"\r\n{" + b" " * 800]
        for sent in itertools.count():
            for place, client in enumerate(clients):
                with suppress(OSError):
                    client.send(rests[place % 2][sent - 1 : sent] if sent else head)
            if ended.wait(0.2):
                return

    try:
        clients += [socket.create_connection(("127.0.0.1", PORT)) for _ in range(SLOW)]
        sender = threading.Thread(target=dawdle)
        sender.start()
        yield clients
        ended.set()
        sender.join()
    finally:
        ended.set()
        for client in clients:
            client.close()


def _is_waiting(client: socket.socket) -> bool:
    """Tell whether the server has neither answered a client nor given it up."""
    client.setblocking(False)
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
