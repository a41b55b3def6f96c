"""``POST /v1/classify/stream``: NDJSON in, NDJSON out, in order, with flat memory however long the body is."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import NamedTuple

import msgspec
from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from models.bundle import Bundle
from service.classify import id_fault, paragraph_fault
from service.context import Pool
from service.observe import log
from service.problems import Problem, invalid, undecodable
from service.schemas import ParagraphIn, StreamLine
from service.settings import Settings
from service.spool import Spool

MEDIA_TYPE = "application/x-ndjson"
# More than come in one message of the server, so each is scored whole: a lock that changes hands often costs a third
# of the speed.
_BATCH = 1024
# Where a paragraph takes milliseconds a batch must not keep a thread from others for long.
_SLOW_BATCH = 16
# Where the scope of ASGI has what cuts the connection.
ABORT = "stancery.abort"
_decoder = msgspec.json.Decoder(str | ParagraphIn)
_encoder = msgspec.json.Encoder()
# Batches that are being scored, in their order; None after the last.
_Answers = asyncio.Queue[asyncio.Task[bytes] | None]


class Stalled(Exception):
    """The client has neither taken nor sent anything for too long."""


class Options(NamedTuple):
    """What holds for every line of a stream."""

    topics: tuple[str, ...]
    explain: bool


class Batch(NamedTuple):
    """Lines of the body, the number of the first, from 1, and the lines, None for those longer than allowed."""

    first: int
    lines: list[bytes | None]


class _Asked(NamedTuple):
    """A paragraph that can be labelled, on the line of that number."""

    line: int
    id: str
    text: str


class StreamResponse(Response):
    """A response that scores while it reads and sends what is done while more comes in."""

    def __init__(
        self,
        bundle: Bundle,
        options: Options,
        settings: Settings,
        pool: Pool,
        count: Callable[[list[StreamLine]], None],
    ) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        self._bundle = bundle
        self._options = options
        self._settings = settings
        self._pool = pool
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        spool = Spool(self._settings.stream_spool_bytes)
        headers = [(b"content-type", MEDIA_TYPE.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async with asyncio.TaskGroup() as tasks:
                # One for each thread that may score.
                answers = _Answers(self._pool.size)
                tasks.create_task(self._score(receive, spool, tasks, answers))
                tasks.create_task(self._collect(answers, spool))
                while data := await spool.get():
                    await self._send(send, {"type": "http.response.body", "body": data, "more_body": True}, spool)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except* (Stalled, ConnectionError) as broken:
            log.info("stream broken off: %s", "; ".join(repr(error) for error in broken.exceptions))
            _cut(scope)
        except* OSError:
            # The disk that answers wait on.
            log.exception("stream broken off")
            _cut(scope)
        finally:
            spool.close()

    async def _score(self, receive: Receive, spool: Spool, tasks: asyncio.TaskGroup, answers: _Answers) -> None:
        """Begin to score each batch as it comes, as far ahead as there is room in the queue of answers."""
        patient = self._patient(receive, spool)
        # Explained answers are long: one at a time keeps memory flat.
        size = 1 if self._options.explain else _BATCH if self._bundle.scorer.is_quick else _SLOW_BATCH
        async for batch in _batches(patient, self._settings.max_body_bytes, size):
            await answers.put(tasks.create_task(self._answered(batch)))
        await answers.put(None)

    async def _answered(self, batch: Batch) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, batch)

    async def _collect(self, answers: _Answers, spool: Spool) -> None:
        """Take the answers in the order of the batches."""
        while task := await answers.get():
            await spool.put(await task)
        await spool.end()

    def _patient(self, receive: Receive, spool: Spool) -> Receive:
        """Receive, and give the client up when it neither sends nor takes anything for too long."""

        async def patient() -> Message:
            while True:
                before = spool.taken
                try:
                    return await asyncio.wait_for(receive(), self._settings.stream_stall_seconds)
                except TimeoutError:
                    if spool.taken == before:
                        raise Stalled from None

        return patient

    async def _send(self, send: Send, message: Message, spool: Spool) -> None:
        """Send, and give the client up when it neither takes nor sends anything for too long."""
        sending = asyncio.ensure_future(send(message))
        try:
            while True:
                before = spool.total
                done, _ = await asyncio.wait({sending}, timeout=self._settings.stream_stall_seconds)
                if done:
                    return sending.result()
                if spool.total == before:
                    raise Stalled
        finally:
            sending.cancel()

    def _answer(self, batch: Batch) -> bytes:
        numbered = enumerate(batch.lines, batch.first)
        asked = [self._read(line, data) for line, data in numbered if data is None or data.strip()]
        sound = [each for each in asked if isinstance(each, _Asked)]
        results = self._bundle.scorer.classify_all(
            [each.text for each in sound],
            ids=[each.id for each in sound],
            topics=self._options.topics,
            explain=self._options.explain,
            encoded=True,
        )
        version, labelled = self._bundle.manifest.version, iter(results)
        answers = [
            StreamLine(each.line, each.id, version, result=next(labelled)) if isinstance(each, _Asked) else each
            for each in asked
        ]
        self._count(answers)
        return _encoder.encode_lines(answers)

    def _read(self, line: int, data: bytes | None) -> _Asked | StreamLine:
        """Return what a line asks for, or what is wrong with it."""
        id = None
        try:
            paragraph = self._decode(data)
            id = paragraph.id
            self._check(paragraph)
        except Problem as problem:
            version = self._bundle.manifest.version
            return StreamLine(line, None if id_fault(id) else id, version, error=problem.body)
        return _Asked(line, f"p{line}" if id is None else id, paragraph.text)

    def _decode(self, data: bytes | None) -> ParagraphIn:
        if data is None:
            limit = self._settings.max_body_bytes
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"line: longer than {limit:,} bytes, which is the limit")
        try:
            item = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise undecodable(error, ParagraphIn) from None
        return ParagraphIn(item) if isinstance(item, str) else item

    def _check(self, paragraph: ParagraphIn) -> None:
        if fault := id_fault(paragraph.id):
            raise invalid("id", fault)
        if fault := paragraph_fault(paragraph.text, self._settings):
            raise invalid("text", fault)


def _cut(scope: Scope) -> None:
    """Break the connection off without its closing chunk, so a cut answer cannot be taken for a whole one, and at once:
    what the client does not take would keep it open."""
    if abort := scope.get(ABORT):
        abort()


async def _batches(receive: Receive, limit: int, size: int) -> AsyncIterator[Batch]:
    """Yield the body's lines as they come in, at most `size` at once.

    Next to nothing is done here for a line: meanwhile the threads that score wait for Python's lock.
    """
    number, pending, skipping, more = 1, bytearray(), False, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        more = message.get("more_body", False)
        # What is pending has no line end, and is not looked through again.
        *pieces, rest = message.get("body", b"").split(b"\n")
        if pieces:
            pieces[0] = bytes(pending) + pieces[0]
            pending.clear()
        pending += rest
        if not more and (pending or skipping):
            pieces.append(bytes(pending))
        if pieces and number == 1:
            pieces[0] = pieces[0].removeprefix(codecs.BOM_UTF8)
        lines: list[bytes | None] = [piece if len(piece) <= limit else None for piece in pieces]
        if skipping and lines:
            lines[0], skipping = None, False
        for start in range(0, len(lines), size):
            yield Batch(number + start, lines[start : start + size])
        number += len(lines)
        if len(pending) > limit:
            # The rest of a line that is too long is thrown away as it comes.
            pending.clear()
            skipping = True
