"""Routes that are reached before FastAPI: errors that nobody expected, and headers."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.datastructures import Headers
from starlette.types import Message

from service.direct import Direct

router = APIRouter()
NAMES = ("host", "authorization", "x-unknown")
SENT = [(b"host", b"one"), (b"authorization", b"first"), (b"host", b"two"), (b"authorization", b"second")]


@router.post("/broken")
async def broken(_: Request) -> Response:
    raise RuntimeError("a secret")


@router.post("/headers")
async def headers(request: Request) -> Response:
    plain = Headers(scope=request.scope)
    same = all(
        request.headers.get(name) == plain.get(name) and (name in request.headers) == (name in plain) for name in NAMES
    )
    return Response(f"{same} {request.headers.get('Host')}")


def ask(path: str, sent: list[Message]) -> None:
    app = FastAPI()
    app.include_router(router)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "POST", "path": path, "headers": SENT, "query_string": b""}
    asyncio.run(Direct(app, router)(scope, receive, send))


def test_an_error_that_nobody_expected_is_answered_without_its_words_and_raised() -> None:
    sent: list[Message] = []
    with pytest.raises(RuntimeError, match="a secret"):
        ask("/broken", sent)
    start, body = sent
    assert start["status"] == 500 and (b"content-type", b"application/problem+json") in start["headers"]
    assert b"secret" not in body["body"]


def test_headers_are_found_as_starlette_finds_them() -> None:
    sent: list[Message] = []
    ask("/headers", sent)
    assert sent[1]["body"] == b"True one"
