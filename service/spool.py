"""A queue of bytes that keeps little in memory: what a slow reader has not fetched lies in a temporary file."""

from __future__ import annotations

import asyncio
import tempfile

_IN_MEMORY = 1_000_000
_PIECE = 64 * 1024


class Spool:
    """First in, first out, for one writer and one reader on one event loop.

    A client may send its whole stream before it reads a byte, as most HTTP libraries do. Were the answer held back in
    sockets alone, both sides would wait for each other for ever.

    Parameters
    ----------
    limit : int
        Bytes that the file may hold; beyond them the writer waits until the reader has fetched them all.

    Attributes
    ----------
    total : int
        Bytes put in since the start.
    taken : int
        Bytes fetched since the start.
    """

    def __init__(self, limit: int) -> None:
        self.total = self.taken = 0
        self._limit = limit
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed by close()
        self._read = self._written = 0
        self._ended = False
        self._changed = asyncio.Condition()

    async def put(self, data: bytes) -> None:
        """Append `data` once there is room."""
        async with self._changed:
            # Room is made only when the reader has caught up: the file is then cut to nothing.
            while self._written >= self._limit:
                await self._changed.wait()
            self._file.seek(self._written)
            self._file.write(data)
            self._written += len(data)
            self.total += len(data)
            self._changed.notify_all()

    async def end(self) -> None:
        """Say that nothing more will come."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def get(self) -> bytes:
        """Return the next bytes, or nothing after the last."""
        async with self._changed:
            while self._read == self._written and not self._ended:
                await self._changed.wait()
            self._file.seek(self._read)
            data = self._file.read(min(_PIECE, self._written - self._read))
            self._read += len(data)
            self.taken += len(data)
            if self._read == self._written:
                self._file.seek(0)
                self._file.truncate()
                self._read = self._written = 0
            self._changed.notify_all()
            return data

    def close(self) -> None:
        self._file.close()
