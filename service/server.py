"""The HTTP server: uvicorn with httptools, and a deadline for a request's head."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.body import IS_HERE

HEAD_SECONDS = 10.0


class Protocol(HttpToolsProtocol):
    """A connection that is closed where the head of a request does not come in time: uvicorn would wait for ever."""

    _deadline: asyncio.TimerHandle | None = None
    _is_in_head = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Most heads come whole, and need no timer.
        if self._is_in_head:
            self._begin()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._end()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.scope[IS_HERE] = True  # type: ignore[literal-required]  # a key of ours in the scope of ASGI

    def connection_lost(self, error: Exception | None) -> None:
        self._end()
        super().connection_lost(error)

    def _begin(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
