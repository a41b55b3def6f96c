"""What a service tells of itself: one JSON log line a request, and Prometheus metrics. Neither holds any text."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.results import Result

log = logging.getLogger("stancery")
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
    return msgspec.json.encode(line, enc_hook=str).decode()


def _write(fields: dict[str, Any]) -> None:
    """Write the line of a request. The way through the logging module costs several times as much."""
    sys.stdout.write(_line("info", "request", datetime.now(UTC), fields) + "\n")
    sys.stdout.flush()


class Metrics:
    """The counters of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "stancery_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "stancery_request_seconds", "Time to answer.", ["route"], buckets=_BUCKETS, registry=self.registry
        )
        self.paragraphs = Counter("stancery_paragraphs", "Paragraphs labelled.", registry=self.registry)
        self.decisions = Counter("stancery_decisions", "Paragraphs by decision.", ["decision"], registry=self.registry)
        self.topics = Counter(
            "stancery_topics", "Topics found present, by stance decision.", ["topic", "stance"], registry=self.registry
        )
        # The library looks a child up by its labels under a lock, which costs more than to count.
        self._requests_of = lru_cache(self.requests.labels)
        self._seconds_of = lru_cache(self.seconds.labels)
        self._decisions_of = lru_cache(self.decisions.labels)
        self._topics_of = lru_cache(maxsize=4096)(self.topics.labels)
        self.model = Gauge("stancery_model", "1 for the version that serves.", ["version"], registry=self.registry)

    def count(self, results: list[Result]) -> None:
        """Count paragraphs by what was decided of them."""
        self.paragraphs.inc(len(results))
        for result in results:
            self._decisions_of(result.decision).inc()
            for topic in result.topics:
                if topic.decision == "present":
                    self._topics_of(topic.topic, topic.stance.decision if topic.stance else "").inc()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests_of(method, route, str(status)).inc()
        self._seconds_of(route).observe(seconds)


class RequestLog:
    """ASGI middleware: logs and measures each request once it is answered.

    A route adds what it knows to ``scope["stancery"]``.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        request_id = os.urandom(8).hex()
        status, sent, ended = 0, 0, False
        scope["stancery"] = {}

        async def watch(message: Message) -> None:
            nonlocal status, sent, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
                ended = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            seconds = time.perf_counter() - start
            # The path as sent may hold anything; the route is ours.
            route = getattr(scope.get("route"), "path", "(none)")
            method = scope["method"] if scope["method"] in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "(other)"
            self._metrics.answered(method, route, status, seconds)
            fields = {
                "request": request_id,
                "method": method,
                "route": route,
                "status": status,
                "milliseconds": round(seconds * 1000, 3),
                "bytes_out": sent,
                **({} if ended else {"broken_off": True}),
                **scope["stancery"],
            }
            if log.isEnabledFor(logging.INFO):
                _write(fields)
