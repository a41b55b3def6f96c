"""Kill -9 of the whole service, again and again, wherever it hurts; nothing promised may be lost or doubled.

Run ``python -m benchmarks.drills.kills [--quick] [--count N] [--only KIND]``. The kills are spread over four kinds,
half of each on SQLite and half on PostgreSQL, each with a home and a database of its own:

``ingest``    while annotators post,
``activate``  while two versions are activated in turn,
``train``     while a training runs,
``write``     while the trainer writes its bundle, and while it is moved home.

Annotators are at work all the time: what was not answered they send again, under the same key, once the service is
back. Every other kill of a training spares the trainer, which has to see by itself that it is alone.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from benchmarks.drills.checks import home_faults, label_faults, store_faults
from benchmarks.drills.harness import (
    Client,
    Postgres,
    Report,
    Service,
    Unanswered,
    arguments,
    spread,
    wait_for,
    workplace,
)
from benchmarks.drills.load import Ledger, Writers
from benchmarks.drills.material import SMALL_TEXTS, Expected, register, small_bundles
from models.bundle import MANIFEST, bundles_at, load_bundle

COUNT, QUICK_COUNT = 300, 20
# Of every ten kills; a training costs more time than the others.
SHARES = {"ingest": 3, "activate": 3, "train": 2, "write": 2}
_RUNNING = ("queued", "running")


class Victim:
    """One service that is killed and started again, and what is checked after each start.

    Attributes
    ----------
    restarts : list of float
        Seconds from each start to ready.
    faults : list of str
        What was wrong after a start.
    jobs : list of str
        What became of the trainings that were killed.
    """

    def __init__(self, folder: Path, kind: str, bundles: list[Path], database_url: str | None) -> None:
        self.kind = kind
        self.restarts: list[float] = []
        self.faults: list[str] = []
        self.jobs: list[str] = []
        self.ledger = Ledger()
        self.service = Service(folder / "home", bundles[0], database_url=database_url)
        self._folder = folder
        self._expected = Expected(SMALL_TEXTS, bundles)
        self._job: str | None = None
        register(bundles, self.service.home, database_url)
        self.service.start()
        busy = kind in ("ingest", "activate")
        self._writers = Writers(self.service.port, self.ledger, threads=4 if busy else 1, pause=0.02 if busy else 0.5)
        if not busy:
            examples = (bundles[0].parent / "examples.jsonl").read_bytes()
            answer = self.service.once(
                "POST", "/v1/annotations", b'{"annotations": [' + b",".join(examples.splitlines()) + b"]}"
            )
            if answer.status != 201:
                raise RuntimeError(f"the examples were not taken: {answer}")

    def round(self, turn: int) -> None:
        """Do what the kind is about, kill the service in the midst of it, start it again and look at it."""
        work: Callable[[int], None] = getattr(self, f"_{self.kind}")
        spared = self.kind == "train" and turn % 2 == 1
        work(turn)
        self.service.kill(trainers=not spared)
        if spared:
            try:
                wait_for(lambda: not self.service.processes(), 5, "the trainer to end by itself")
            except TimeoutError as error:
                self.faults.append(str(error))
                self.service.kill()
        try:
            self.restarts.append(self.service.start(20))
        except TimeoutError as error:
            self.faults.append(f"after a kill: {error}")
            self.service.kill()
            self.service.start(60)
        self._look()

    def _ingest(self, _: int) -> None:
        time.sleep(random.uniform(0.05, 0.6))

    def _activate(self, _: int) -> None:
        ended = threading.Event()

        def loop() -> None:
            client = Client(self.service.port)
            with suppress(Unanswered):
                while not ended.is_set():
                    answer = client.post(f"/v1/models/{random.choice(self._expected.versions)}/activate")
                    if answer.status not in (200, 503):
                        self.faults.append(f"activate: {answer.status} {answer.body[:200]!r}")

        threads = [threading.Thread(target=loop, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(random.uniform(0.05, 0.8))
        # Killed here and not by the caller: the loops must be at work when it happens.
        self.service.kill()
        ended.set()
        for thread in threads:
            thread.join(10)

    def _train(self, turn: int) -> None:
        self._begin(turn)
        time.sleep(random.uniform(0, 4))

    def _write(self, turn: int) -> None:
        self._begin(turn)
        assert self._job is not None
        job, home = self._job, self.service.home
        made, before = home / "trainings" / job / "bundles", {path.name for path in bundles_at(home)}
        moments: list[Callable[[], object]] = [
            lambda: self._state()[1] == "write",
            lambda: any(made.glob(".linear-*")),
            lambda: any(made.glob(".linear-*/weights.safetensors")),
            lambda: any(made.glob(f"linear-*/{MANIFEST}")),
            lambda: {path.name for path in bundles_at(home)} - before,
        ]
        moment = moments[turn % len(moments)]
        wait_for(lambda: moment() or self._state()[0] not in _RUNNING, 60, "the bundle to be written", every=0.0005)

    def _begin(self, turn: int) -> None:
        answer = self.service.once("POST", "/v1/trainings", json.dumps({"seed": turn}).encode())
        if answer.status != 202:
            raise RuntimeError(f"no training was begun: {answer}")
        self._job = answer.json["id"]
        wait_for(lambda: self._state()[0] != "queued", 20, "the training to run")

    def _state(self) -> tuple[str, str]:
        """Return the job's state and phase."""
        told = self.service.once("GET", f"/v1/trainings/{self._job}").json
        return told["state"], (told["progress"] or {}).get("phase", "")

    def _look(self) -> None:
        """See that the service answers rightly, and that the job it had is given up."""
        client = Client(self.service.port)
        for path in bundles_at(self.service.home):
            if path.name not in self._expected.versions:
                self._expected.add(load_bundle(path))
        active = [each["version"] for each in client.get("/v1/models").json["models"] if each["state"] == "active"]
        if len(active) != 1:
            self.faults.append(f"active versions: {active}")
        for number, text in enumerate(SMALL_TEXTS):
            answer = client.post("/v1/classify", {"paragraphs": [text]})
            if answer.status != 200:
                self.faults.append(f"classify: {answer.status}")
            elif fault := self._expected.fault(number, answer.body):
                self.faults.append(fault)
            elif answer.json["model"] not in active:
                self.faults.append(f"{answer.json['model']} answers, and {active} is active")
        client.close()
        if self._job is not None:
            state = wait_for(self._ended, 30, "the job to be given up")
            if state not in ("interrupted", "succeeded"):
                self.faults.append(f"a job whose service was killed is {state}")
            self.jobs.append(state)
            self._job = None

    def _ended(self) -> str | None:
        state = self._state()[0]
        return None if state in _RUNNING else state

    def end(self) -> Counter[str]:
        """Let the annotators finish, stop the service, and count what is wrong."""
        found = Counter({"annotators who could not finish": self._writers.stop()})
        found.update({"faults seen after a start": len(self.faults)})
        found.update(label_faults(self.service, self.ledger))
        found.update(home_faults(self.service))
        self.service.stop()
        found.update(store_faults(self.service))
        return found


def drill(folder: Path, kills: dict[str, int], report: Report) -> None:
    bundles, postgres, total = small_bundles(folder), Postgres(folder), 2 * sum(kills.values())
    try:
        with tqdm(total=total, unit="kill", file=sys.stdout) as bar:
            for name in ("sqlite", "postgres"):
                found: Counter[str] = Counter()
                victims = []
                for kind, number in kills.items():
                    place = folder / f"{kind}-{name}"
                    place.mkdir()
                    victim = Victim(place, kind, bundles, postgres.new() if name == "postgres" else None)
                    victims.append(victim)
                    try:
                        for turn in range(number):
                            victim.round(turn)
                            bar.update()
                        found.update(victim.end())
                    finally:
                        victim.service.stop()
                _tell(report, name, victims, found)
    finally:
        postgres.close()


def _tell(report: Report, name: str, victims: list[Victim], found: Counter[str]) -> None:
    kills = ", ".join(f"{len(victim.restarts)} {victim.kind}" for victim in victims)
    report.show(f"{name}: kills", kills)
    report.show(f"{name}: ready again after", spread([each for victim in victims for each in victim.restarts], " s"))
    report.show(f"{name}: annotations acknowledged", f"{sum(len(victim.ledger.acknowledged) for victim in victims):,}")
    unanswered = sum(each.status == 0 for victim in victims for each in victim.ledger.tries)
    report.show(f"{name}: posts that were not answered, and sent again", f"{unanswered:,}")
    jobs = Counter(state for victim in victims for state in victim.jobs)
    report.show(f"{name}: trainings that were killed", ", ".join(f"{n} {state}" for state, n in jobs.items()))
    report.demand_none(found, f"{name}: ")
    for victim in victims:
        for fault in [*victim.faults, *victim.ledger.refused][:5]:
            report.show(f"  {victim.kind}", fault)


def main() -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--count", type=int, help=f"kills in all  [default: {COUNT}]")
        parser.add_argument("--only", choices=list(SHARES), help="one kind alone")

    given = arguments(__doc__, add)
    count = given.count or (QUICK_COUNT if given.quick else COUNT)
    shares = {given.only: 1} if given.only else SHARES
    kills = {kind: max(1, round(count * share / sum(shares.values()) / 2)) for kind, share in shares.items()}
    report = Report(f"{2 * sum(kills.values())} kills of the whole service")
    with workplace(given.keep) as folder:
        drill(folder, kills, report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
