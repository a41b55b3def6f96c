"""Steady load: paragraphs to classify at a fixed rate, and annotators who write down what they were promised."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from benchmarks.drills.harness import Answer, Client, Unanswered, percentile
from benchmarks.drills.material import Expected

_BUSY = (503, 507)


class Asked(NamedTuple):
    """One request of the load: the block it fell in, when it was due, and how long its answer then took."""

    block: str
    due: float
    seconds: float
    status: int
    model: str


class Load:
    """Classify paragraphs at a fixed rate over several keep-alive connections.

    An open loop: a request is due when it is due, however long the one before took, and its time counts from then.

    Parameters
    ----------
    port : int
    expected : Expected
        The texts to ask about, and what is right.
    rate : float
        Requests a second, of one paragraph each, over all connections.
    connections : int
    """

    def __init__(self, port: int, expected: Expected, rate: float = 40, connections: int = 8) -> None:
        self.asked: list[Asked] = []
        self._expected = expected
        self._rate, self._connections = rate, connections
        self._port = port
        self._block = ""
        self._bodies: Counter[tuple[int, bytes]] = Counter()
        self._bad: Counter[str] = Counter()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        begin = time.monotonic() + 0.1
        self._threads = [
            threading.Thread(target=self._connection, args=(number, begin), daemon=True)
            for number in range(self._connections)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    @contextmanager
    def running(self) -> Iterator[Load]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    @contextmanager
    def block(self, name: str) -> Iterator[None]:
        """Count what falls due meanwhile to the block of that name."""
        self._block = name
        try:
            yield
        finally:
            self._block = ""

    def _connection(self, number: int, begin: float) -> None:
        client, texts = Client(self._port), self._expected.texts
        bodies = [json.dumps({"paragraphs": [text]}).encode() for text in texts]
        headers = {"Content-Type": "application/json"}
        for turn in itertools.count():
            due = begin + (turn * self._connections + number) / self._rate
            if self._ended.wait(max(0.0, due - time.monotonic())):
                return
            block, which = self._block, (turn + number) % len(texts)
            try:
                answer = client.request("POST", "/v1/classify", bodies[which], headers)
            except Unanswered as error:
                answer = Answer(0, {}, str(error).encode())
            self._note(Asked(block, due, time.monotonic() - due, answer.status, _model(answer)), which, answer)

    def _note(self, asked: Asked, which: int, answer: Answer) -> None:
        with self._lock:
            self.asked.append(asked)
            if answer.status == 200:
                self._bodies[which, answer.body] += 1
            else:
                self._bad[f"{asked.block}: {answer.status} {answer.body[:200].decode(errors='replace')}"] += 1

    def refused(self) -> dict[str, int]:
        """Return the answers that were not 200, each with its count."""
        return dict(self._bad)

    def wrong(self) -> dict[str, int]:
        """Return what is wrong with the answers that were 200, each fault with its count."""
        found: Counter[str] = Counter()
        for (which, body), count in self._bodies.items():
            if fault := self._expected.fault(which, body):
                found[fault] += count
        return dict(found)

    def times(self, block: str) -> list[float]:
        """Return the milliseconds of every request of a block."""
        with self._lock:
            return [each.seconds * 1000 for each in self.asked if each.block == block]

    def p99(self, block: str) -> float:
        return percentile(self.times(block), 0.99)


def _model(answer: Answer) -> str:
    # The first field of every answer; parsing all of it here would disturb what is timed.
    return answer.body[:80].split(b'"', 4)[3].decode() if answer.status == 200 else ""


class Write(NamedTuple):
    """One try to post annotations: when it began, how long it took, its status, 0 where no answer came."""

    began: float
    seconds: float
    status: int
    retry_after: str | None


class Ledger:
    """What annotators sent, what of it was acknowledged, and every try."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.sent: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.tries: list[Write] = []
        self.lock = threading.Lock()

    def between(self, begin: float, end: float) -> list[Write]:
        """Return the tries that began in a span of time."""
        with self.lock:
            return [each for each in self.tries if begin <= each.began < end]

    def first_accepted(self, after: float) -> float | None:
        """Return when the first write was acknowledged that began after a moment."""
        with self.lock:
            return min(
                (each.began + each.seconds for each in self.tries if each.began >= after and each.status == 201),
                default=None,
            )


class Writers:
    """Annotators who post small batches, each under an Idempotency-Key, and try again until it is acknowledged.

    Parameters
    ----------
    port : int
    ledger : Ledger
    threads : int
    pause : float
        Seconds between one batch and the next.
    topics : sequence of str
        What the labels are about.
    """

    def __init__(
        self,
        port: int,
        ledger: Ledger,
        *,
        threads: int = 3,
        pause: float = 0.03,
        topics: Sequence[str] = ("tea", "cats"),
        padding: int = 0,
    ) -> None:
        self._port, self._ledger, self._pause, self._topics, self._padding = port, ledger, pause, topics, padding
        self._name = f"{random.getrandbits(40):x}"
        self._numbers = itertools.count()
        self._stopping, self._abandoned = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._write, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = 60) -> int:
        """Let every writer finish what it has begun; return how many could not."""
        self._stopping.set()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        left = sum(thread.is_alive() for thread in self._threads)
        self._abandoned.set()
        return left

    def _batch(self) -> list[dict[str, Any]]:
        batch = []
        for _ in range(random.randint(1, 3)):
            number = next(self._numbers)
            text = f"The {random.choice(('kettle', 'paw', 'brew', 'purr'))} number {number} of {self._name} was fair. "
            topic, stance = random.choice(self._topics), random.choice(("favor", "against", "neutral"))
            batch.append({"text": (text + "More. " * (self._padding // 6)).strip(), "topics": {topic: stance}})
        return batch

    def _write(self) -> None:
        client = Client(self._port, timeout=10)
        while not self._stopping.is_set():
            batch = self._batch()
            texts = {row["text"] for row in batch}
            with self._ledger.lock:
                self._ledger.sent |= texts
            key = f"{self._name}-{random.getrandbits(64):x}"
            while not self._abandoned.is_set() and not self._try(client, key, batch, texts):
                self._abandoned.wait(0.1)
            self._stopping.wait(self._pause)
        client.close()

    def _try(self, client: Client, key: str, batch: list[dict[str, Any]], texts: set[str]) -> bool:
        """Post a batch; tell whether the matter is settled."""
        began = time.monotonic()
        try:
            answer = client.post("/v1/annotations", {"annotations": batch}, Idempotency_Key=key)
        except Unanswered:
            answer = Answer(0, {}, b"")
        write = Write(began, time.monotonic() - began, answer.status, answer.headers.get("retry-after"))
        with self._ledger.lock:
            self._ledger.tries.append(write)
            if answer.status == 201:
                self._ledger.acknowledged |= texts
            elif answer.status not in (0, *_BUSY):
                self._ledger.refused[f"{answer.status} {answer.body[:200].decode(errors='replace')}"] += 1
        return answer.status not in (0, *_BUSY)
