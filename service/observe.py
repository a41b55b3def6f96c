"""What a service tells of itself: one JSON log line a request, and Prometheus metrics. Neither holds any text."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import accumulate, count
from threading import Lock
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.results import Result

log = logging.getLogger("stancery")
_encode = msgspec.json.Encoder(enc_hook=str).encode
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class JsonFormatter(logging.Formatter):
    """One JSON object a record; what a record carries in ``fields`` stands beside its message."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        if record.exc_info:
            fields = {**fields, "exception": self.formatException(record.exc_info)}
        when = datetime.fromtimestamp(record.created, UTC)
        return _line(record.levelname.lower(), record.getMessage(), when, fields)


def _line(level: str, message: str, when: datetime, fields: Mapping[str, Any]) -> str:
    line = {"time": when, "level": level, "message": message, **fields}
    return _encode(line).decode()


class Metrics(Collector):
    """The counters of one application, in a registry of its own.

    The library's own counters take a lock each, and a search for the bucket; these are counted up under one, and put in
    its form when somebody asks.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.model = Gauge("stancery_model", "1 for the version that serves.", ["version"], registry=self.registry)
        self._lock = Lock()
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._seconds: dict[str, _Seconds] = defaultdict(_Seconds)
        self._paragraphs = 0
        self._decisions: Counter[tuple[str]] = Counter()
        self._topics: Counter[tuple[str, str]] = Counter()
        self.registry.register(self)

    def count(self, results: list[Result]) -> None:
        """Count paragraphs by what was decided of them."""
        with self._lock:
            self._paragraphs += len(results)
            for result in results:
                self._decisions[(result.decision,)] += 1
                for topic in result.topics:
                    if topic.decision == "present":
                        self._topics[topic.topic, topic.stance.decision if topic.stance else ""] += 1

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        with self._lock:
            self._requests[method, route, str(status)] += 1
            self._seconds[route].add(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted."""
        with self._lock:
            counts = (
                ("requests", "Requests answered.", ("method", "route", "status"), dict(self._requests)),
                ("paragraphs", "Paragraphs labelled.", (), {(): self._paragraphs}),
                ("decisions", "Paragraphs by decision.", ("decision",), dict(self._decisions)),
                ("topics", "Topics found present, by stance decision.", ("topic", "stance"), dict(self._topics)),
            )
            seconds = {route: (found.buckets(), found.total) for route, found in self._seconds.items()}
        for name, help, labels, found in counts:
            counter = CounterMetricFamily(f"stancery_{name}", help, labels=labels)
            for values, number in found.items():
                counter.add_metric(values, number)
            yield counter
        histogram = HistogramMetricFamily("stancery_request_seconds", "Time to answer.", labels=("route",))
        for route, (buckets, total) in seconds.items():
            histogram.add_metric((route,), buckets, total)
        yield histogram


class _Seconds:
    """How long the requests of a route took."""

    def __init__(self) -> None:
        self.total = 0.0
        self._counts = [0] * (len(_BUCKETS) + 1)

    def add(self, seconds: float) -> None:
        self.total += seconds
        self._counts[bisect_left(_BUCKETS, seconds)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """Return how many took at most so long, as the library wants it."""
        bounds = [*map(floatToGoString, _BUCKETS), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))


class Entry:
    """One request on its way: its id, when it began, and in ``fields`` what is known of it besides."""

    __slots__ = ("fields", "id", "start")

    def __init__(self, id: str, fields: dict[str, Any]) -> None:
        self.id = id
        self.start = time.perf_counter()
        self.fields = fields


class RequestLog:
    """Logs and measures each request once it is answered."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # No two processes begin alike.
        self._process = os.urandom(4).hex()
        self._numbers = count(1)
        self._lines: list[str] = []

    def begin(self, fields: dict[str, Any]) -> Entry:
        """Begin the entry of a request; what is put into `fields` until it ends is logged with it."""
        return Entry(f"{self._process}{next(self._numbers) & 0xFFFFFFFF:08x}", fields)

    def end(self, entry: Entry, method: str, route: str, status: int, sent: int, *, is_whole: bool) -> None:
        """Count and log a request that was answered with `sent` bytes, all there are or not."""
        seconds = time.perf_counter() - entry.start
        self._metrics.answered(method, route, status, seconds)
        if not log.isEnabledFor(logging.INFO):
            return
        fields = {
            "request": entry.id,
            "method": method,
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 3),
            "bytes_out": sent,
            **({} if is_whole else {"broken_off": True}),
            **entry.fields,
        }
        # The way through the logging module costs several times as much, and so does a write for each line.
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        self._lines.append(_line("info", "request", datetime.now(UTC), fields) + "\n")

    def _write(self) -> None:
        # Lines that cannot be written are lost, not kept for ever.
        lines, self._lines = self._lines, []
        sys.stdout.write("".join(lines))
        sys.stdout.flush()


class Logged:
    """ASGI middleware: has each request logged.

    A route adds what it knows to ``scope["stancery"]``.
    """

    def __init__(self, app: ASGIApp, requests: RequestLog) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = self._requests.begin(scope.setdefault("stancery", {}))
        status, sent, is_whole = 0, 0, False

        async def watch(message: Message) -> None:
            nonlocal status, sent, is_whole
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", entry.id.encode())]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            # The path as sent may hold anything; the route is ours.
            route = getattr(scope.get("route"), "path", "(none)")
            method = scope["method"] if scope["method"] in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "(other)"
            self._requests.end(entry, method, route, status, sent, is_whole=is_whole)
