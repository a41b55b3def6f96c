"""What a service tells of itself: one JSON log line a request, and Prometheus metrics. Neither holds any text."""

from __future__ import annotations

import json
import logging
import time
import uuid
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.results import Result

log = logging.getLogger("stancery")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class JsonFormatter(logging.Formatter):
    """One JSON object a record; what a record carries in ``fields`` stands beside its message."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


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
        self.model = Gauge("stancery_model", "1 for the version that serves.", ["version"], registry=self.registry)

    def count(self, results: list[Result]) -> None:
        """Count paragraphs by what was decided of them."""
        self.paragraphs.inc(len(results))
        for result in results:
            self.decisions.labels(result.decision).inc()
            for topic in result.topics:
                if topic.decision == "present":
                    self.topics.labels(topic.topic, topic.stance.decision if topic.stance else "").inc()


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
        request_id = uuid.uuid4().hex[:16]
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
        except Exception:
            # The answer to this is made outside of here.
            status = status or 500
            raise
        finally:
            seconds = time.perf_counter() - start
            # The path as sent may hold anything; the route is ours.
            route = getattr(scope.get("route"), "path", "(none)")
            method = scope["method"] if scope["method"] in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "(other)"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
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
            log.info("request", extra={"fields": fields})
