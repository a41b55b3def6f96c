"""A million paragraphs through ``stancery classify`` and through ``POST /v1/classify/stream``, on all cores."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
from tqdm import tqdm

from benchmarks.accuracy import SEEDS, TAXONOMY
from benchmarks.speed.http import PORT, Server, resident, started
from benchmarks.speed.table import plot, show
from models.bundle import Bundle
from models.examples import read_examples
from models.taxonomy import read_taxonomy

_TICKS = os.sysconf("SC_CLK_TCK")
_COLUMNS = ["paragraphs/s", "cores busy, %", "after a tenth, MB", "at most, MB"]


class _Spent(NamedTuple):
    """What a run took: seconds of the clock and of all cores together, and megabytes after a tenth and at most."""

    wall: float
    busy: float
    early: float
    most: float


def run(bundle: Bundle, count: int, rounds: int, plots: Path) -> None:
    """Measure, print and draw."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        path = work / "paragraphs.jsonl"
        _write(path, count)
        for _ in tqdm(range(rounds), desc="bulk", disable=None):
            for name, go in (("POST /v1/classify/stream", _stream), ("stancery classify", _classify)):
                spent = go(bundle, path, count, work, cores)
                values = count / spent.wall, 100 * spent.busy / len(cores), spent.early, spent.most
                for column, value in zip(_COLUMNS, values, strict=True):
                    found[name][column].append(value)
    title = f"{count:,} paragraphs with stance and evidence, JSON Lines in and out, {len(cores)} cores"
    show(title, "", _COLUMNS, found, is_alike=False)
    plot(plots / "bulk.png", "", _COLUMNS, found)


def _write(path: Path, count: int) -> None:
    """Write paragraphs of the seeds' length, no two the same."""
    texts = [example.text for example in read_examples(SEEDS, read_taxonomy(TAXONOMY))]
    with path.open("wb") as file:
        for number in range(count):
            file.write(msgspec.json.encode({"text": f"{number}. {texts[number % len(texts)]}"}) + b"\n")


def _classify(bundle: Bundle, path: Path, count: int, work: Path, cores: tuple[int, ...]) -> _Spent:
    output = work / "answers.jsonl"
    command = [sys.executable, "-m", "stancery", "classify", str(path), "--bundle", str(bundle.path), "-o", str(output)]
    process = subprocess.Popen([*command, "--jobs", str(len(cores))], stderr=subprocess.DEVNULL)
    spent = _watched(process.pid, process.wait)
    with output.open("rb") as file:
        _check(sum(1 for _ in file), count)
    output.unlink()
    return spent


def _stream(bundle: Bundle, path: Path, count: int, work: Path, cores: tuple[int, ...]) -> _Spent:
    server = Server("stream", sys.executable, "", "/v1/classify", cores=cores)
    with started(server, bundle, work) as (process, _):
        return _watched(process.pid, lambda: _check(_asked(path), count))


def _asked(path: Path) -> int:
    """Send a file as a stream, and return how many lines came back."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    connection.putrequest("POST", "/v1/classify/stream")
    connection.putheader("Content-Type", "application/x-ndjson")
    connection.putheader("Content-Length", str(path.stat().st_size))
    connection.endheaders()
    lines = 0
    with path.open("rb") as file:
        sender = threading.Thread(target=connection.sock.sendfile, args=(file,))
        sender.start()
        answer = connection.getresponse()
        while piece := answer.read1(1 << 20):
            lines += piece.count(b"\n")
        sender.join()
    connection.close()
    return lines


def _check(lines: int, count: int) -> None:
    if lines != count:
        raise SystemExit(f"{lines:,} answers for {count:,} paragraphs")


def _watched(pid: int, work: Callable[[], object]) -> _Spent:
    """Tell what `work` takes, looking each second at what a process and its children hold."""
    seen = [resident(pid)]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            seen.append(resident(pid))

    before, start = _machine(), time.perf_counter()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        wall, busy = time.perf_counter() - start, _machine() - before
        ended.set()
        watcher.join()
    return _Spent(wall, busy / wall, seen[len(seen) // 10], max(seen))


def _machine() -> float:
    """Return the seconds that all cores have worked since the machine came up."""
    user, nice, system, _, _, interrupts, soft, *_ = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return sum(map(int, (user, nice, system, interrupts, soft))) / _TICKS
