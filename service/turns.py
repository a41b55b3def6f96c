"""Who scores next: bounded queues in front of the processor, so that overload is told instead of waited out."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType

from service.problems import Problem

# A refusal is held back so long, and as many are written a second as this lets. Refused at once, clients that ask again
# at once would have the processor write refusals instead of answers.
_HELD = 0.25
_APART = 0.003
# How long what waits on the event loop may keep everything else from it.
_SLICE = 0.002


class Refusals:
    """What those are told for whom there is no room, and when."""

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self._held = 0

    def problem(self) -> Problem:
        detail = f"{self._waiting:,} requests wait already; send it again"
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "1"})

    def delay(self) -> float:
        """Return how many seconds to hold the next one back; :meth:`done` tells that it was sent or needs not be."""
        self._held += 1
        return max(_HELD, self._held * _APART)

    def done(self) -> None:
        self._held -= 1


class Turns:
    """Let `slots` work at once in threads and the others wait, first come first served, at most `waiting` of them."""

    def __init__(self, slots: int, waiting: int) -> None:
        self._free = slots
        self._most = waiting
        self._refusals = Refusals(waiting)
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        if len(self._waiting) >= self._most:
            try:
                await asyncio.sleep(self._refusals.delay())
            finally:
                self._refusals.done()
            raise self._refusals.problem()
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
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Line:
    """Work that is done on the event loop, first come first served, at most `waiting` pieces of it in line.

    After some of it everything else that is ready has its turn: health is told under any load.
    """

    def __init__(self, waiting: int) -> None:
        self._most = waiting
        self._pieces: deque[Callable[[], None]] = deque()
        self._is_called = False
        self.refusals = Refusals(waiting)

    def join(self, piece: Callable[[], None]) -> bool:
        """Have `piece` called in its turn; return False, without, where too many wait."""
        if len(self._pieces) >= self._most:
            return False
        self._pieces.append(piece)
        if not self._is_called:
            self._call()
        return True

    def _call(self) -> None:
        self._is_called = True
        asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        end = time.perf_counter() + _SLICE
        try:
            while self._pieces:
                self._pieces.popleft()()
                if time.perf_counter() > end:
                    break
        finally:
            self._is_called = False
            if self._pieces:
                self._call()
