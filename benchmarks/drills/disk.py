"""Fill the disk that a service's home lies on, then make it read-only, while paragraphs are classified.

Run ``python -m benchmarks.drills.disk [--quick]`` as root: the home is a file system of 1 MB in memory, which has to be
mounted. Without root it ends in exit code 2; there, a quota or a small partition would do the same to the service.

A file system cannot be made read-only while files on it are open for writing, as a live SQLite's are. So that part
stops the service first and starts it on a home that is read-only already, then makes it writable beneath it. What an
ext4 does after an error, to turn read-only beneath a live service, is done to another home, on an image with ext4.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from benchmarks.drills.checks import label_faults, store_faults
from benchmarks.drills.harness import Report, Service, arguments, running, wait_for, workplace
from benchmarks.drills.load import Ledger, Load, Writers
from benchmarks.drills.material import SMALL_TEXTS, Expected, small_bundles

SIZE = 1_000_000
BALLAST = 300_000
SECONDS, QUICK_SECONDS = 15.0, 4.0
RATE = 30.0
# What began so shortly after an error may have been on disk before it.
EDGE = 0.3
REFUSED = {503, 507}


class Home:
    """A small file system for a home, mounted."""

    def __init__(self, place: Path, image: Path | None = None) -> None:
        self.place = place
        place.mkdir()
        what = ("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs") if image is None else ("-o", "loop", str(image))
        _do("mount", *what, str(place))

    def remount(self, how: str) -> None:
        _do("mount", "-o", f"remount,{how}", str(self.place))

    def free(self) -> int:
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize


@contextmanager
def mounted(place: Path, image: Path | None = None) -> Iterator[Home]:
    home = Home(place, image)
    try:
        yield home
    finally:
        _do("umount", str(place))


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


class Part:
    """One service on a small home, under load, and what its annotators are promised meanwhile."""

    def __init__(self, name: str, home: Home, bundle: Path, ledger: Ledger, report: Report) -> None:
        self.name, self.home, self.ledger, self.report = name, home, ledger, report
        self.service = Service(home.place, bundle)
        self.load = Load(self.service.port, Expected(SMALL_TEXTS, [bundle]), RATE)

    @contextmanager
    def under_load(self) -> Iterator[None]:
        with running(self.service), self.load.running(), self.load.block(self.name):
            yield

    def writers(self, padding: int = 0) -> Writers:
        return Writers(self.service.port, self.ledger, threads=3, pause=0.02, padding=padding)

    def refused(self, begin: float, also: frozenset[int] = frozenset()) -> None:
        """See how writes were answered since a moment."""
        end = time.monotonic()
        tries = [each for each in self.ledger.between(begin, end) if each.began + each.seconds < end]
        statuses = Counter(each.status for each in tries)
        told = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
        ok = bool(REFUSED & set(statuses)) and set(statuses) <= REFUSED | also
        self.report.demand(f"{self.name}: writes", "503 or 507", told or "none", ok=ok)

    def unharmed(self) -> None:
        self.report.demand(f"{self.name}: classify, not 200", 0, sum(self.load.refused().values()))
        self.report.demand(f"{self.name}: classify, wrong scores", 0, sum(self.load.wrong().values()))
        health = self.service.once("GET", "/readyz")
        self.report.demand(f"{self.name}: /readyz", 200, health.status)
        self.report.show(f"{self.name}: /readyz says", str(health.json.get("reason") or health.json["status"]))

    def well(self, since: float, writers: Writers) -> None:
        accepted = wait_for(lambda: self.ledger.first_accepted(since), 30, f"{self.name}: a write accepted again")
        self.report.show(f"{self.name}: a write accepted again after", f"{accepted - since:.2f} s")
        self.report.demand(f"{self.name}: annotators who could not finish", 0, writers.stop(30))
        self.report.demand_none(label_faults(self.service, self.ledger), f"{self.name}: ")


def full(part: Part, seconds: float) -> None:
    """Fill the home, hold it full, and free room again."""
    ballast = part.home.place / "ballast"
    ballast.write_bytes(b"x" * BALLAST)
    with part.under_load():
        writers, tries = part.writers(padding=4000), part.ledger.tries
        wait_for(lambda: any(each.status in REFUSED for each in tries), 120, "a write refused", 0.1)
        begin = time.monotonic()
        time.sleep(seconds)
        # A smaller batch may find room where a larger one found none.
        part.refused(begin, also=frozenset({201}))
        part.unharmed()
        part.report.show("full: room left", f"{part.home.free():,} bytes")
        writers.stop(0)
        time.sleep(2)
        lines = part.service.once("GET", "/v1/annotations").body.splitlines()
        exported = {json.loads(line)["text"] for line in lines}
        part.report.show("full: acknowledged", str(len(part.ledger.acknowledged)))
        part.report.demand("full: exported, but not acknowledged", 0, len(exported - part.ledger.acknowledged))
        freed = time.monotonic()
        ballast.unlink()
        part.well(freed, part.writers())
    part.report.demand_none(store_faults(part.service), "full: ")


def filled(part: Part) -> None:
    """Have a few labels in the store, and the service stopped."""
    with running(part.service):
        writers = part.writers()
        wait_for(lambda: part.ledger.acknowledged, 30, "a first label")
        writers.stop(30)


def read_only(part: Part, seconds: float) -> None:
    """Start on a home that is read-only, then make it writable beneath the service."""
    part.home.remount("ro")
    with part.under_load():
        begin, writers = time.monotonic(), part.writers()
        time.sleep(seconds)
        part.refused(begin)
        part.unharmed()
        writable = time.monotonic()
        part.home.remount("rw")
        part.well(writable, writers)
    part.report.demand_none(store_faults(part.service), f"{part.name}: ")


def given_up(part: Part, seconds: float) -> None:
    """Have the file system turn read-only beneath a live service, as ext4 does after an error."""
    with part.under_load():
        writers = part.writers()
        time.sleep(2)
        part.home.remount("abort")
        begin = time.monotonic() + EDGE
        time.sleep(seconds)
        part.refused(begin)
        part.unharmed()
        writers.stop(0)


def main() -> int:
    given = arguments(__doc__)
    if os.geteuid() != 0:
        print("disk: needs root, to mount a small file system for the home", file=sys.stderr)
        return 2
    seconds = QUICK_SECONDS if given.quick else SECONDS
    report = Report("a disk that is full, and one that is read-only")
    with workplace(given.keep) as folder, tqdm(total=5, unit="part", file=sys.stdout) as bar:
        (bundle,), ledger = small_bundles(folder, 1), Ledger()
        with mounted(folder / "home") as home:
            full(Part("full", home, bundle, ledger, report), seconds)
            bar.update()
        ledger = Ledger()
        # A home of its own: the first one has no room left for long.
        with mounted(folder / "filled") as home:
            part = Part("started read-only", home, bundle, ledger, report)
            filled(part)
            read_only(part, seconds)
            bar.update()
        with mounted(folder / "empty") as home:
            read_only(Part("started empty and read-only", home, bundle, Ledger(), report), seconds)
            bar.update()
        ledger, image = Ledger(), folder / "image"
        _do("mkfs.ext4", "-q", "-m", "0", str(image), "8M")
        with mounted(folder / "ext4", image) as home:
            given_up(Part("given up by its disk", home, bundle, ledger, report), seconds)
            bar.update()
        with mounted(folder / "again", image) as home:
            part = Part("mounted anew", home, bundle, ledger, report)
            with part.under_load():
                part.well(time.monotonic(), part.writers())
            report.demand_none(store_faults(part.service), "mounted anew: ")
            bar.update()
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
