"""Change the version that answers, again and again, under steady load with two workers.

Run ``python -m benchmarks.drills.swaps [--quick] [--wrk]``. Blocks with and without swaps alternate in one run, so that
what else the machine does falls on both; and in both, somebody looks all the time which version answers, so that only
the swaps differ. A swap counts as followed once so many answers in a row, each over a connection of its own, name the
new version, and the load has seen the old one no more.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from benchmarks.drills.harness import (
    Client,
    Report,
    Service,
    Unanswered,
    arguments,
    running,
    spread,
    wait_for,
    workplace,
)
from benchmarks.drills.load import Load
from benchmarks.drills.material import Expected, register, seed_bundles, seed_texts

BLOCKS = 5
SWAPS, QUICK_SWAPS = 200, 20
IN_A_ROW = 12
RATE = 40.0
LOOKS = 40.0
LONGEST = 10.0
_WRK = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{body}]==]
"""


class Watcher:
    """Asks steadily, over a new connection each time, which version answers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._seen: list[tuple[float, str]] = []
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[Watcher]:
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join(30)

    def _watch(self) -> None:
        body = json.dumps({"paragraphs": ["x"]}).encode()
        while not self._ended.wait(1 / LOOKS):
            asked, version = time.monotonic(), ""
            with suppress(Unanswered, KeyError):
                version = self._service.once("POST", "/v1/classify", body).json["model"]
            self._seen.append((asked, version))

    def followed(self, version: str, since: float) -> float | None:
        """Return when the first was asked of so many in a row, up to now, that all named a version."""
        row = list(itertools.takewhile(lambda each: each[1] == version and each[0] >= since, reversed(self._seen)))
        return row[-1][0] if len(row) >= IN_A_ROW else None


class Swaps:
    """Activates versions in turn, and measures how long every worker takes to follow.

    Attributes
    ----------
    refused : list of str
        Activations that were not answered 200, and those that some worker never followed.
    activating, following : list of float
        Milliseconds until the answer, and seconds from it until every worker has followed.
    memory : list of float
        Resident megabytes of all workers, after each swap.
    """

    def __init__(self, service: Service, versions: list[str], load: Load, watcher: Watcher) -> None:
        self.refused: list[str] = []
        self.activating: list[float] = []
        self.following: list[float] = []
        self.memory: list[float] = []
        self._service, self._load, self._watcher = service, load, watcher
        self._client = Client(service.port)
        # The first is what serves already.
        self._next = itertools.cycle([*versions[1:], versions[0]])

    def swap(self) -> None:
        version, start = next(self._next), time.monotonic()
        answer = self._client.post(f"/v1/models/{version}/activate")
        answered = time.monotonic()
        self.activating.append((answered - start) * 1000)
        if answer.status != 200:
            self.refused.append(f"{answer.status} {answer.body[:200].decode()}")
            return
        try:
            seen = wait_for(
                lambda: self._watcher.followed(version, answered), LONGEST, f"every worker to serve {version}"
            )
        except TimeoutError as error:
            self.refused.append(str(error))
            return
        stale = [each.due + each.seconds for each in self._load.asked[-1000:] if each.model not in ("", version)]
        self.following.append(max(seen, max(stale, default=0.0)) - answered)
        self.memory.append(self._service.resident())


def drill(count: int, report: Report, folder: Path, *, wrk: bool) -> None:
    print("fitting three bundles", flush=True)
    bundles = seed_bundles(folder, 3)
    expected = Expected(seed_texts(40), bundles)
    service = Service(folder / "home", bundles[0])
    register(bundles, service.home, None)
    with running(service):
        load, watcher = Load(service.port, expected, RATE), Watcher(service)
        swaps = Swaps(service, expected.versions, load, watcher)
        with watcher.running():
            with load.running():
                time.sleep(3)
                _blocks(count, swaps, load)
            _tell(report, swaps, load)
            if wrk:
                _wrk(report, service, swaps, expected, folder)


def _blocks(count: int, swaps: Swaps, load: Load) -> None:
    """Alternate: as long as a block with its swaps took, the next without."""
    with tqdm(total=count, unit="swap", file=sys.stdout) as bar:
        for number in range(BLOCKS):
            start = time.monotonic()
            with load.block(f"swaps {number}"):
                for _ in range(count // BLOCKS):
                    swaps.swap()
                    time.sleep(0.2)
                    bar.update()
            seconds = time.monotonic() - start
            with load.block(f"still {number}"):
                time.sleep(seconds)


def _tell(report: Report, swaps: Swaps, load: Load) -> None:
    refused, wrong = load.refused(), load.wrong()
    report.demand("answers that were not 200", 0, sum(refused.values()))
    report.demand("answers whose scores are not their version's", 0, sum(wrong.values()))
    for fault in list({**refused, **wrong})[:5]:
        report.show("  such as", fault)
    report.demand("swaps refused or not followed", "none", "; ".join(swaps.refused[:3]) or "none")
    report.show("answers under load", f"{len(load.asked):,} at {RATE:g}/s")
    models = {each.model for each in load.asked if each.model}
    report.demand("versions that answered", 3, len(models))
    still, moving = ([load.p99(f"{kind} {number}") for number in range(BLOCKS)] for kind in ("still", "swaps"))
    report.show("p99 without swaps", spread(still, " ms"))
    report.show("p99 with swaps", spread(moving, " ms"))
    report.show("p99 with : without, by block", spread([b / a for a, b in zip(still, moving, strict=True)], "x"))
    middle = [statistics.median(load.times(f"{kind} {BLOCKS - 1}")) for kind in ("still", "swaps")]
    report.show("median without, with (last blocks)", f"{middle[0]:.3g} ms, {middle[1]:.3g} ms")
    report.show("activate answered in", spread(swaps.activating, " ms"))
    report.show("every worker follows in", spread(swaps.following, " s"), "2 s")
    early, last = swaps.memory[max(0, len(swaps.memory) // 4 - 1)], swaps.memory[-1]
    report.show(f"memory after swap {len(swaps.memory) // 4}", f"{early:.0f} MB")
    report.show(f"memory after swap {len(swaps.memory)}", f"{last:.0f} MB, {last / early:.2f}x")


def _wrk(report: Report, service: Service, swaps: Swaps, expected: Expected, folder: Path) -> None:
    """Compare with what wrk sees at full speed, without and with swaps."""
    if shutil.which("wrk") is None:
        report.show("wrk", "not installed")
        return
    script = folder / "ask.lua"
    script.write_text(_WRK.replace("{body}", json.dumps({"paragraphs": [expected.texts[0]]})))
    for kind in ("still", "swaps"):
        command = ["wrk", "-t1", "-c8", "-d10s", "--latency", "-s", str(script)]
        url = f"http://127.0.0.1:{service.port}/v1/classify"
        with subprocess.Popen([*command, url], stdout=subprocess.PIPE, text=True) as process:
            while kind == "swaps" and process.poll() is None:
                swaps.swap()
            said, _ = process.communicate()
        report.show(f"wrk, {kind}", ", ".join(_told(said)))
        report.demand(f"wrk, {kind}: answers not 2xx", "none", next(_found("Non-2xx.*", said), "none"))


def _told(said: str) -> Iterator[str]:
    for pattern in (r"Requests/sec:\s*\S+", r"50%\s*\S+", r"99%\s*\S+"):
        yield from (re.sub(r"\s+", " ", found) for found in _found(pattern, said))


def _found(pattern: str, said: str) -> Iterator[str]:
    return (match[0] for match in re.finditer(pattern, said))


def main() -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--wrk", action="store_true", help="compare with wrk at full speed, for 20 s more")

    given = arguments(__doc__, add)
    report = Report("swaps under steady load, two workers")
    with workplace(given.keep) as folder:
        drill(QUICK_SWAPS if given.quick else SWAPS, report, folder, wrk=given.wrk)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
