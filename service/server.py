"""The HTTP server: uvicorn with httptools, deadlines for what a client sends, and the express lane."""

from __future__ import annotations

import asyncio
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.body import IS_HERE, late
from service.express import PATH, STATE, Asked, Express
from service.observe import Entry
from service.stream import ABORT

HEAD_SECONDS = 10.0
# Bytes; twice what may come at once, of which the first part may be the end of another request's body.
_LONGEST_HEAD = 524_288
_PATH = PATH.encode()


class _Nobody:
    """Waits for no body: whom uvicorn wakes when more of one has come."""

    def set(self) -> None: ...


class _Lane:
    """A request on the express lane, in the place of uvicorn's own cycle: the protocol asks these things of either.

    It is in no cycle of references, so that a request leaves nothing to the garbage collector.
    """

    message_event = _Nobody()

    def __init__(self, express: Express, entry: Entry, headers: dict[str, str], *, keep_alive: bool) -> None:
        self.express, self.entry, self.headers = express, entry, headers
        self.asked: Asked | None = None
        self.body = bytearray()
        self.keep_alive = keep_alive
        self.more_body = True
        self.response_complete = self.disconnected = False


class Protocol(HttpToolsProtocol):
    """A connection.

    It is closed where the head of a request does not come in time or does not end, and where nothing comes to its end
    any more; uvicorn would wait for ever. What the express lane can answer is not made a request of ASGI.
    """

    _deadline: asyncio.TimerHandle | None = None
    _is_in_head = _is_offered = False
    # Bytes that came since the last that were of a body or ended a message: of a head, or of what may follow a body.
    _beside = 0
    _lane: _Lane | None = None
    _idle: asyncio.TimerHandle | None = None
    _last = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        self._last = self.loop.time()
        self._beside += len(data)
        self._feed(data)
        if self._beside > _LONGEST_HEAD:
            self._close()
        # Most heads and bodies come whole, and need no timer.
        if self._is_in_head:
            self._expect(HEAD_SECONDS)
        elif self._lane is not None and self._lane.more_body:
            self._expect(self._lane.express.body_seconds)
        elif self.cycle is not None and self.cycle.response_complete:
            # More of a body that was answered already, or nothing but line ends.
            self._wait()

    def _feed(self, data: bytes) -> None:
        """Parse what came. The offer of another protocol is overlooked (RFC 9110, section 7.8)."""
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as offer:
                if not self._is_offered:
                    return
                # httptools takes what follows the head for the other protocol: it would lose the body, or take it for
                # a request of its own.
                data = self._without_offer() + data[offer.args[0] :]
            except HttpParserError:
                message = "Invalid HTTP request received."
                self.logger.warning(message)
                self.send_400_response(message)
                return
            else:
                return

    def _without_offer(self) -> bytes:
        """Return the head that was parsed, less its offer, for a parser that knows of none."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self._is_offered = False
        self.parser = HttpRequestParser(self)
        # As uvicorn's own is.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        lines = [method + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"\r\n"])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._is_offered = True
            return
        self._is_in_head = False
        self._beside = 0
        self._came()
        self._lane = self._express()
        if self._lane is None:
            self._go_on()
        else:
            self.cycle = self._lane  # type: ignore[assignment]  # it stands in the place of one

    def on_body(self, body: bytes) -> None:
        self._beside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_offered:
            return
        self._beside = 0
        super().on_message_complete()
        if self._lane is None:
            self.scope[IS_HERE] = True  # type: ignore[literal-required]  # a key of ours in the scope of ASGI
            return
        self._came()
        self._read(self._lane)

    def connection_lost(self, error: Exception | None) -> None:
        self._came()
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(error)
        lane = self._lane
        if lane is not None and not lane.response_complete and lane.asked is None:
            lane.express.broken_off(lane.entry)

    def _express(self) -> _Lane | None:
        """Take the request whose head is here to the express lane, or leave it to the road."""
        express: Express | None = self.app_state.get(STATE)
        is_first = self.cycle is None or self.cycle.response_complete
        if express is None or self.url != _PATH or not is_first or self.flow.write_paused:
            return None
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return None
        # Of a name that comes twice the first counts, as in Starlette.
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(self.headers)}
        if not express.takes(headers):
            return None
        return _Lane(express, express.begin(), headers, keep_alive=parser.should_keep_alive())

    def _read(self, lane: _Lane) -> None:
        """Read a request that is whole, and have it answered in its turn."""
        try:
            lane.asked = lane.express.read(lane.entry, lane.headers, bytes(lane.body))
        except Exception as error:
            self._fail(lane, error)
            return
        if lane.asked is None:
            self._leave(lane)
            return
        line = lane.express.line
        if not line.join(lambda: self._answer(lane)):
            self.loop.call_later(line.refusals.delay(), self._refuse, lane)

    def _leave(self, lane: _Lane) -> None:
        """Send a request on to the road, as if it had never been here."""
        self._lane = None
        self.cycle = None  # type: ignore[assignment]  # as before the first request
        self.scope["stancery"] = lane.entry.fields  # type: ignore[typeddict-unknown-key]  # a key of ours
        self._go_on()
        self.cycle.body = lane.body
        self.on_message_complete()

    def _go_on(self) -> None:
        """Make a request of ASGI of the one whose head is here."""
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]  # a key of ours
        super().on_headers_complete()

    def _answer(self, lane: _Lane) -> None:
        if lane.disconnected or lane.asked is None:
            lane.express.broken_off(lane.entry)
        else:
            self._send(lane, lane.express.answer(lane.entry, lane.asked, self._headers(lane)))

    def _refuse(self, lane: _Lane) -> None:
        refusals = lane.express.line.refusals
        refusals.done()
        if lane.disconnected:
            lane.express.broken_off(lane.entry)
        else:
            self._fail(lane, refusals.problem())

    def _fail(self, lane: _Lane, error: Exception) -> None:
        self._send(lane, lane.express.failed(lane.entry, error, self._headers(lane)))

    def _headers(self, lane: _Lane) -> list[tuple[bytes, bytes]]:
        default = self.server_state.default_headers
        return default if lane.keep_alive else [*default, (b"connection", b"close")]

    def _send(self, lane: _Lane, answer: bytes) -> None:
        """Send the whole answer to a request, and wait for the next."""
        self.transport.write(answer)
        lane.response_complete = True
        # The connection may be idle for long, and what was asked holds a version in memory.
        lane.body, lane.asked = bytearray(), None
        if not lane.keep_alive:
            self._close()
        if self.pipeline:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._last = self.loop.time()
        self._wait()

    def on_response_complete(self) -> None:
        self._last = self.loop.time()
        if self.transport.is_closing():
            self._let_go()
        super().on_response_complete()

    def _wait(self) -> None:
        if self._idle is None:
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._is_idle)

    def _is_idle(self) -> None:
        """Close the connection where nothing came for long. One timer for many requests: each would cost some."""
        self._idle = None
        if self.cycle.response_complete and not self._is_in_head and not self.transport.is_closing():
            left = self._last + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._idle = self.loop.call_later(left, self._is_idle)
            else:
                self._close()

    def _expect(self, seconds: float) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, self._give_up)

    def _close(self) -> None:
        self.transport.close()
        self._let_go()

    def _let_go(self, before: int | None = None) -> None:
        """Give up what a client that is to go has taken nothing of for long: till it is sent the connection stays."""
        left = self.transport.get_write_buffer_size()
        if left == before:
            self.transport.abort()
        elif left:
            self.loop.call_later(HEAD_SECONDS, self._let_go, left)

    def _came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        lane = self._lane
        if lane is not None and lane.more_body:
            self._fail(lane, late(lane.express.body_seconds))
        self._close()
