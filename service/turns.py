"""Who scores next: a bounded queue in front of the processor, so that overload is told instead of waited out."""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from types import TracebackType

from service.problems import Problem

# A refusal is held back so long, and as many are written a second as this lets. Refused at once, clients that ask again
# at once would have the processor write refusals instead of answers.
_HELD = 0.25
_APART = 0.003


class Turns:
    """Let `slots` work at once and the others wait, first come first served, at most `waiting` of them.

    Between two turns on the event loop everything else that is ready has its own: health is told under any load.
    """

    def __init__(self, slots: int, waiting: int) -> None:
        self._free = slots
        self._most = waiting
        self._held = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        if len(self._waiting) >= self._most:
            self._held += 1
            try:
                await asyncio.sleep(max(_HELD, self._held * _APART))
            finally:
                self._held -= 1
            detail = f"{self._most:,} requests wait already; send it again"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "1"})
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come as the request went.
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not now: everybody else who is ready would find the turn free, one after the other, and the event loop would
        # neither take a new connection nor tell its health until all had had theirs.
        asyncio.get_running_loop().call_soon(self._pass_on)

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
