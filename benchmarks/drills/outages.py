"""Take PostgreSQL away, in four ways, while paragraphs are classified and annotators post; then give it back.

Run ``python -m benchmarks.drills.outages [--quick]``. The service reaches PostgreSQL through ``proxy.py``, which
stalls, resets, cuts connections between a commit and its answer, and is gone. What annotators were refused, or never
heard of, they send again under the same key until it is acknowledged; in the end it is counted in the tables.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from benchmarks.drills.checks import label_faults, store_faults
from benchmarks.drills.harness import Postgres, Report, Service, arguments, running, spread, wait_for, workplace
from benchmarks.drills.load import Ledger, Load, Write, Writers
from benchmarks.drills.material import SMALL_TEXTS, Expected, small_bundles
from benchmarks.drills.proxy import Mode, Proxy

OUTAGES: tuple[Mode, ...] = ("stall", "reset", "cut_commit", "gone")
SECONDS, QUICK_SECONDS = 60.0, 8.0
RATE = 40.0
# What began so shortly after an outage may have been answered before it.
EDGE = 0.3


class Seen(NamedTuple):
    """One outage: the tries to write that began in it, and the seconds from its end until writes were accepted."""

    mode: Mode
    end: float
    tries: list[Write]
    accepted: float
    ready: float


def drill(folder: Path, seconds: float, report: Report) -> None:
    bundles, postgres, ledger = small_bundles(folder, 1), Postgres(folder), Ledger()
    proxy = Proxy(postgres.new())
    service = Service(folder / "home", bundles[0], database_url=proxy.url)
    load = Load(service.port, Expected(SMALL_TEXTS, bundles), RATE)
    try:
        with running(service), load.running():
            writers = Writers(service.port, ledger, threads=8, pause=0.1)
            time.sleep(2)
            seen = [_outage(mode, seconds, proxy, service, load, ledger) for mode in tqdm(OUTAGES, file=sys.stdout)]
            report.demand("annotators who could not finish", 0, writers.stop())
            load.stop()
            for each in seen:
                _tell(report, each, load)
            report.demand("classify: answers that were not 200", 0, sum(load.refused().values()))
            report.demand("classify: wrong scores", 0, sum(load.wrong().values()))
            for fault in [*load.refused(), *load.wrong(), *ledger.refused][:5]:
                report.show("  such as", fault)
            report.show("annotations acknowledged", f"{len(ledger.acknowledged):,}")
            report.show("commits cut from their answers", str(proxy.cuts))
            report.demand_none(label_faults(service, ledger))
            report.demand_none(store_faults(service))
    finally:
        proxy.close()
        postgres.close()


def _outage(mode: Mode, seconds: float, proxy: Proxy, service: Service, load: Load, ledger: Ledger) -> Seen:
    """Have a span without the outage, one with it, and wait until writes are accepted again."""
    with load.block(f"before {mode}"):
        time.sleep(seconds / 2)
    begin = time.monotonic()
    proxy.set(mode)
    with load.block(mode):
        time.sleep(seconds)
    proxy.set("pass")
    end = time.monotonic()
    accepted = wait_for(lambda: ledger.first_accepted(end), 60, f"a write accepted after {mode}")
    wait_for(lambda: service.once("GET", "/readyz").json["status"] == "ok", 60, f"/readyz ok after {mode}")
    ready = time.monotonic() - end
    with load.block(f"after {mode}"):
        time.sleep(2)
    return Seen(mode, end, ledger.between(begin + EDGE, end), accepted - end, ready)


def _tell(report: Report, seen: Seen, load: Load) -> None:
    mode, tries = seen.mode, seen.tries
    # What was still open when the outage ended may have had either answer.
    inside = [each for each in tries if each.began + each.seconds < seen.end]
    statuses = Counter(each.status for each in inside)
    told = ", ".join(f"{count} {status or 'unanswered'}" for status, count in sorted(statuses.items()))
    report.demand(f"{mode}: writes answered in it", "all 503", told or "none", ok=set(statuses) == {503})
    report.demand(f"{mode}: without Retry-After", 0, sum(each.retry_after is None for each in inside))
    report.show(f"{mode}: writes begun in it are answered in", spread([each.seconds for each in tries], " s"), "2 s")
    report.show(f"{mode}: first write accepted after its end", f"{seen.accepted:.2f} s", "5 s")
    report.show(f"{mode}: /readyz ok after its end", f"{seen.ready:.2f} s")
    before, during = load.p99(f"before {mode}"), load.p99(mode)
    figures = f"{during / before:.2f}x  ({before:.3g} ms before, {during:.3g} ms in it)"
    report.show(f"{mode}: classify p99, in it : before", figures)


def main() -> int:
    given = arguments(__doc__)
    report = Report("outages of PostgreSQL, two workers")
    with workplace(given.keep) as folder:
        drill(folder, QUICK_SECONDS if given.quick else SECONDS, report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
