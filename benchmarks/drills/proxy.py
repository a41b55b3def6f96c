"""A proxy before PostgreSQL that can fail as networks and servers do.

``pass``        forwards.
``stall``       accepts and keeps connections, and forwards nothing either way.
``reset``       resets every connection, and each new one.
``gone``        resets every connection and refuses new ones.
``cut_commit``  forwards, but once the server has done a COMMIT, drops the connection instead of saying so.

As a command it stands before a PostgreSQL until its input ends; a line of input names the next mode:
``python -m benchmarks.drills.proxy postgresql://user@host/name --port 6432``.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
import sys
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Literal, get_args

from benchmarks.drills.harness import address_of, through

Mode = Literal["pass", "stall", "reset", "gone", "cut_commit"]
MODES: tuple[Mode, ...] = get_args(Mode)
_CHUNK = 65536
_STARTUP = 196608
_DONE, _UNDONE = b"COMMIT\0", b"ROLLBACK\0"


class Frames:
    """Parts what a client sends to PostgreSQL into its messages, of which the first few have no type."""

    def __init__(self) -> None:
        self._rest = b""
        self._greeted = False

    def commits(self, data: bytes) -> bool:
        """Take the next bytes; tell whether a message among them asks for a COMMIT, as a query or to be prepared."""
        self._rest += data
        found = False
        while len(self._rest) >= 5:
            kind = self._rest[:1] if self._greeted else b""
            (length,) = struct.unpack_from("!I", self._rest, len(kind))
            size = len(kind) + length
            if len(self._rest) < size:
                break
            message, self._rest = self._rest[len(kind) + 4 : size], self._rest[size:]
            if not self._greeted:
                # Asking for encryption comes before, in the same shape.
                self._greeted = struct.unpack_from("!I", message)[0] == _STARTUP
            elif kind == b"Q":
                found |= message.lstrip().upper().startswith(b"COMMIT")
            elif kind == b"P":
                found |= message.partition(b"\0")[2].lstrip().upper().startswith(b"COMMIT")
        return found


class _Pair:
    """A client's connection and the one to the server that goes with it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.doomed = False

    def reset(self) -> None:
        """Break it off to the client with RST; the server just sees its client go."""
        sock = self.client.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.transport.abort()
        if self.server is not None:
            self.server.transport.abort()


class Proxy:
    """A proxy in a thread of its own.

    Parameters
    ----------
    url : str
        Of a database.
    port : int
        Where to listen on this machine; 0 takes a free one.

    Attributes
    ----------
    port : int
    url : str
        Of the same database by way of the proxy.
    mode : str
    cuts : int
        How many connections were dropped after a COMMIT that was done.
    """

    def __init__(self, url: str, port: int = 0) -> None:
        self.mode: Mode = "pass"
        self.cuts = 0
        self.port = port
        self._target = address_of(url)
        self._pairs: set[_Pair] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._listen())
        self.url = through(url, self.port)

    def set(self, mode: Mode) -> None:
        """Change the mode; it holds once this returns."""
        self._do(self._set(mode))

    def close(self) -> None:
        """Break off everything and listen no more."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _set(self, mode: Mode) -> None:
        self.mode = mode
        if mode == "gone" and self._listener is not None:
            self._listener.close()
            self._listener = None
        elif mode != "gone" and self._listener is None:
            await self._listen()
        if mode in ("reset", "gone"):
            for pair in self._pairs:
                pair.reset()
        if mode == "stall":
            self._flowing.clear()
        else:
            self._flowing.set()

    async def _end(self) -> None:
        await self._set("gone")
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(writer)
        self._pairs.add(pair)
        try:
            if self.mode in ("reset", "gone"):
                return
            await self._flowing.wait()
            if isinstance(self._target, str):
                answers, pair.server = await asyncio.open_unix_connection(self._target)
            else:
                answers, pair.server = await asyncio.open_connection(*self._target)
            await self._both_ways(pair, reader, answers)
        except (OSError, asyncio.CancelledError):
            # Either end went, or the proxy does.
            pass
        finally:
            pair.reset()
            self._pairs.discard(pair)

    async def _both_ways(self, pair: _Pair, reader: asyncio.StreamReader, answers: asyncio.StreamReader) -> None:
        """Forward until either end closes."""
        ways = {asyncio.create_task(self._asked(pair, reader)), asyncio.create_task(self._answered(pair, answers))}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _asked(self, pair: _Pair, reader: asyncio.StreamReader) -> None:
        frames = Frames()
        assert pair.server is not None
        while data := await reader.read(_CHUNK):
            await self._flowing.wait()
            if frames.commits(data) and self.mode == "cut_commit":
                pair.doomed = True
            pair.server.write(data)
            await pair.server.drain()
        # While nothing is forwarded, neither is the end.
        await self._flowing.wait()

    async def _answered(self, pair: _Pair, answers: asyncio.StreamReader) -> None:
        kept = b""
        while data := await answers.read(_CHUNK):
            await self._flowing.wait()
            if pair.doomed:
                kept += data
                if _DONE in kept or _UNDONE in kept:
                    self.cuts += _DONE in kept
                    return
                continue
            pair.client.write(data)
            await pair.client.drain()
        await self._flowing.wait()


def main() -> None:
    """Stand before a PostgreSQL until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the database")
    parser.add_argument("--port", type=int, default=0, help="where to listen on this machine; 0 takes a free one")
    parser.add_argument("--mode", choices=MODES, default="pass", help="the first mode")
    given = parser.parse_args()
    proxy = Proxy(given.url, given.port)
    proxy.set(given.mode)
    print(f"{proxy.mode}: {proxy.url}", flush=True)
    for line in sys.stdin:
        wanted = next((mode for mode in MODES if mode == line.strip()), None)
        if wanted is None:
            print(f"{line.strip()}: not one of {', '.join(MODES)}", flush=True)
            continue
        proxy.set(wanted)
        print(f"{proxy.mode}; {proxy.cuts} cut after their COMMIT so far", flush=True)
    proxy.close()


if __name__ == "__main__":
    main()
