"""The express lane of ``POST /v1/classify``: from the bytes of a connection to those of the answer, without a task.

A request that a linear model answers in a few microseconds would spend most of its time on the road through ASGI. Here
are answered, by the same functions and with the same errors, those that are short and ask for no more than labels; what
asks for more is sent on to the road, as is every other request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from models.bundle import Bundle
from service.body import declared_length
from service.classify import answer, decode
from service.context import Service
from service.observe import Entry, RequestLog, log
from service.problems import answer_to, unexpected
from service.schemas import ClassifyRequest
from service.turns import Line

# Where the protocol finds it in the state that the application hands to its server.
STATE = "express"
PATH = "/v1/classify"
# A linear model labels so many bytes within some ten milliseconds, for which the event loop can be held.
_LONGEST = 65_536
_HINDRANCES = frozenset({"transfer-encoding", "content-encoding", "expect"})

RawHeaders = Iterable[tuple[bytes, bytes]]


class Asked(NamedTuple):
    """A request that was read, and who answers it."""

    bundle: Bundle
    request: ClassifyRequest


class Express:
    """What the protocol of the connections needs of the application."""

    def __init__(self, service: Service, requests: RequestLog) -> None:
        self._service = service
        self._requests = requests
        self._longest = min(_LONGEST, service.settings.max_body_bytes)
        self.body_seconds = service.settings.body_seconds
        self.line = Line(service.settings.max_waiting)

    def takes(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a POST to ``PATH`` with these headers may be answered here."""
        length = declared_length(headers)
        return (
            length is not None
            and length <= self._longest
            and not _HINDRANCES & headers.keys()
            and self._service.serving.active.scorer.is_quick
        )

    def begin(self) -> Entry:
        return self._requests.begin({})

    def read(self, entry: Entry, headers: Mapping[str, str], body: bytes) -> Asked | None:
        """Let a request in and read it; None where it asks for more than can be answered here."""
        self._service.keys.admit("classify", "POST", headers, entry.fields)
        request = decode(body, headers.get("content-type", ""))
        # Of topics that are named, and of every word, there is far more to answer than there was to read.
        if request.topics or request.explain or (request.text is not None and self._is_long(request.text)):
            return None
        bundle = self._service.serving.in_memory(request.model)
        # The version that is named, or has taken over since, may have an encoder.
        return None if bundle is None or not bundle.scorer.is_quick else Asked(bundle, request)

    def _is_long(self, article: str) -> bool:
        """Tell whether to part an article may take long: it has more line ends than there may be paragraphs."""
        return article.count("\n") + article.count("\r") > self._service.settings.max_paragraphs

    def answer(self, entry: Entry, asked: Asked, default: RawHeaders) -> bytes:
        """Label what was asked for, and return the answer from its first byte to its last."""
        try:
            encoded, count = answer(self._service, asked.bundle, asked.request)
        except Exception as error:
            return self.failed(entry, error, default)
        entry.fields.update(paragraphs=count, model=asked.bundle.manifest.version)
        self._requests.end(entry, "POST", PATH, 200, len(encoded), is_whole=True)
        headers = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(encoded)))
        return _bytes(200, entry, (*default, *headers), encoded)

    def failed(self, entry: Entry, error: Exception, default: RawHeaders) -> bytes:
        """Return the whole answer to an error."""
        if (response := answer_to(error)) is None:
            log.error("an error of ours", exc_info=error)
            response = unexpected()
        body, own = bytes(response.body), response.raw_headers
        self._requests.end(entry, "POST", PATH, response.status_code, len(body), is_whole=True)
        given = {name for name, _ in own}
        headers = (*(header for header in default if header[0] not in given), *own)
        return _bytes(response.status_code, entry, headers, body)

    def broken_off(self, entry: Entry) -> None:
        """Log a request whose client is gone."""
        self._requests.end(entry, "POST", PATH, 0, 0, is_whole=False)


def _bytes(status: int, entry: Entry, headers: RawHeaders, body: bytes) -> bytes:
    lines = b"".join([b"%s: %s\r\n" % header for header in headers])
    return b"%s%sx-request-id: %s\r\n\r\n%s" % (STATUS_LINE[status], lines, entry.id.encode(), body)
