"""Starlette and msgspec that do nothing with what they get."""

import sys

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Body(msgspec.Struct):
    """Paragraphs to label."""

    paragraphs: list[str]


decode = msgspec.json.Decoder(Body).decode
encode = msgspec.json.Encoder().encode


async def label(request: Request) -> Response:
    body = decode(await request.body())
    return Response(encode([[0.5] * 11 for _ in body.paragraphs]), media_type="application/json")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/label", label, methods=["POST"])])
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
