"""Request bodies, read no further than the limit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.problems import Fault, Problem

# Much of a body that is too long is read and thrown away before the refusal is sent: a client that is still sending
# would otherwise meet a closed connection and never see why.
_DRAINED = 16
# Set in the scope of a request whose body has come to its end.
IS_HERE = "stancery.body_is_here"


def too_long(limit: int) -> Problem:
    message = f"longer than {limit:,} bytes, which is the limit"
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body: {message}", [Fault("body", message)], {"Connection": "close"}
    )


def late(seconds: float) -> Problem:
    detail = f"body: not here after {seconds:g} seconds"
    return Problem(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"Connection": "close"})


def declared_length(headers: Mapping[str, str]) -> int | None:
    """Return what Content-Length says, None where it says no number, or one of more digits than any that is true."""
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None


def check_encoding(request: Request) -> None:
    """Refuse a body that is compressed.

    Raises
    ------
    Problem
        415.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content-encoding: only identity is allowed")


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """Return the body.

    Raises
    ------
    Problem
        413 if it is longer than `limit` bytes, whatever its Content-Length says; 400 if it breaks off; 408 if it takes
        longer than `seconds`; 415 if it is compressed.
    """
    if request.scope.get(IS_HERE):
        # There is nothing to wait for.
        return await _read(request, limit)
    try:
        async with asyncio.timeout(seconds):
            return await _read(request, limit)
    except TimeoutError:
        raise late(seconds) from None


async def _read(request: Request, limit: int) -> bytes:
    check_encoding(request)
    declared = declared_length(request.headers) or 0
    over = declared > limit
    if declared > _DRAINED * limit:
        raise too_long(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > _DRAINED * limit:
                break
            over = over or size > limit
            if over:
                parts.clear()
            else:
                parts.append(part)
    except ClientDisconnect:
        raise Problem(HTTPStatus.BAD_REQUEST, "body: broke off before its end") from None
    if over:
        raise too_long(limit)
    return b"".join(parts)
