"""Train on the real seeds while paragraphs are classified: out of memory, at full length, and cancelled.

Run ``python -m benchmarks.drills.training_load [--quick] [--memory-mb N]``. Blocks with and without a training
alternate in one run, so that what else the machine does falls on both; each looks at another stretch of the training.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from benchmarks.drills.checks import home_faults, store_faults
from benchmarks.drills.harness import SEEDS, Client, Report, Service, arguments, running, spread, wait_for, workplace
from benchmarks.drills.load import Load
from benchmarks.drills.material import Expected, seed_bundles, seed_texts
from service.processes import group_memory

# The libraries take some 250 MB, and to fit the seeds some 800.
MEMORY_MB = 400
BLOCKS, QUICK_BLOCKS = 5, 2
SECONDS, QUICK_SECONDS = 12.0, 5.0
CANCELS, QUICK_CANCELS = 10, 4
RATE = 40.0


class Jobs:
    """Trainings of one service: begun, watched, cancelled.

    Attributes
    ----------
    cancelling : list of float
        Seconds from asking to ``cancelled``.
    """

    def __init__(self, service: Service) -> None:
        self.cancelling: list[float] = []
        self._service = service
        self._client = Client(service.port)
        rows = b",".join(SEEDS.read_bytes().splitlines())
        answer = self._client.request(
            "POST", "/v1/annotations", b'{"annotations": [' + rows + b"]}", {"Content-Type": "application/json"}
        )
        if answer.status != 201:
            raise RuntimeError(f"the seeds were not taken: {answer.status} {answer.body[:500]!r}")

    def begin(self) -> str:
        """Begin a training and return its id once it runs."""
        id = str(self._client.post("/v1/trainings", {}).json["id"])
        wait_for(lambda: self.state(id) != "queued", 30, "a training to run")
        return id

    def told(self, id: str) -> dict[str, object]:
        return dict(self._client.get(f"/v1/trainings/{id}").json)

    def state(self, id: str) -> object:
        return self.told(id)["state"]

    def cancel(self, id: str) -> None:
        start = time.monotonic()
        answer = self._client.request("DELETE", f"/v1/trainings/{id}")
        if answer.status == 202:
            wait_for(lambda: self.state(id) == "cancelled", 60, "a training to be cancelled")
            self.cancelling.append(time.monotonic() - start)

    def exceeds(self, megabytes: int) -> Callable[[], bool]:
        """Return a function that tells whether the trainer takes more than so much memory, or has ended."""
        groups = {each.group for each in self._service.processes() if each.is_trainer}

        def over() -> bool:
            trainers = {each.group for each in self._service.processes() if each.is_trainer}
            return not trainers or any(group_memory(each) > megabytes * 1e6 for each in groups | trainers)

        return over


def out_of_memory(folder: Path, bundle: Path, expected: Expected, megabytes: int, report: Report) -> None:
    service = Service(folder / "small", bundle, options=["--train-memory-mb", str(megabytes)])
    load = Load(service.port, expected, RATE)
    with running(service), load.running(), load.block("out of memory"):
        jobs = Jobs(service)
        id = jobs.begin()
        wait_for(lambda: any(each.is_trainer for each in service.processes()), 30, "a trainer")
        wait_for(jobs.exceeds(megabytes), 300, "the trainer to take more than it may", 0.01)
        moment = time.monotonic()
        state = wait_for(lambda: (now := jobs.state(id)) != "running" and now, 60, "the training to end")
        seconds = time.monotonic() - moment
        told = jobs.told(id)
        report.demand("out of memory: state", "failed", state)
        reason = str(told["reason"])
        report.demand("out of memory: reason", "names memory", reason, ok="memory" in reason)
        report.show("out of memory: failed after it took too much", f"{seconds:.2f} s", "5 s")
        report.demand_none(home_faults(service), "out of memory: ")
    _unharmed(report, "out of memory", load)
    report.demand_none(store_faults(service), "out of memory: ")


def at_work(folder: Path, bundle: Path, expected: Expected, quick: bool, report: Report) -> None:
    """Compare the times of classification with and without a training, then cancel some more."""
    blocks, seconds, cancels = (QUICK_BLOCKS, QUICK_SECONDS, QUICK_CANCELS) if quick else (BLOCKS, SECONDS, CANCELS)
    service = Service(folder / "home", bundle)
    load = Load(service.port, expected, RATE)
    with running(service), load.running():
        jobs = Jobs(service)
        time.sleep(2)
        for number in tqdm(range(blocks), unit="block", file=sys.stdout):
            with load.block(f"still {number}"):
                time.sleep(seconds)
            id = jobs.begin()
            time.sleep(number * seconds / 3)
            with load.block(f"training {number}"):
                time.sleep(seconds)
            jobs.cancel(id)
            time.sleep(1)
        for _ in range(cancels - len(jobs.cancelling)):
            id = jobs.begin()
            time.sleep(random.uniform(0.2, 3))
            jobs.cancel(id)
        report.demand_none(home_faults(service), "cancelled: ")
    _unharmed(report, "training", load)
    still, busy = ([load.p99(f"{kind} {number}") for number in range(blocks)] for kind in ("still", "training"))
    report.show("p99 without a training", spread(still, " ms"))
    report.show("p99 during a training", spread(busy, " ms"))
    report.show("p99 during : without, by block", spread([b / a for a, b in zip(still, busy, strict=True)], "x"))
    report.show("cancelled after DELETE", spread(jobs.cancelling, " s"), "2 s")
    report.demand_none(store_faults(service), "cancelled: ")


def _unharmed(report: Report, where: str, load: Load) -> None:
    refused, wrong = load.refused(), load.wrong()
    report.demand(f"{where}: classify, not 200", 0, sum(refused.values()))
    report.demand(f"{where}: classify, wrong scores", 0, sum(wrong.values()))
    for fault in list({**refused, **wrong})[:3]:
        report.show("  such as", fault)


def main() -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--memory-mb", type=int, default=MEMORY_MB, help="what is too little for the seeds")

    given = arguments(__doc__, add)
    report = Report("trainings on the seeds under steady load, two workers")
    with workplace(given.keep) as folder:
        print("fitting a bundle", flush=True)
        (bundle,) = seed_bundles(folder, 1)
        expected = Expected(seed_texts(40), [bundle])
        out_of_memory(folder, bundle, expected, given.memory_mb, report)
        at_work(folder, bundle, expected, given.quick, report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
