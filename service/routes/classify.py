"""Labelling paragraphs: a request at a time, or a stream."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response

from service.access import Needs
from service.body import check_encoding, read_body
from service.classify import answer, decode
from service.context import Takes, flag, service_of
from service.schemas import StreamLine
from service.stream import Options, StreamResponse

router = APIRouter(tags=["classify"], dependencies=[Depends(Needs("classify"))])


@router.post("/v1/classify", summary="Label an article or a list of paragraphs", dependencies=[Depends(Takes())])
async def post_classify(request: Request) -> Response:
    """Give every paragraph its topics, its stance toward each topic's proposition, scores, and the words that decided.

    Send JSON, or an article as `text/plain`.
    """
    service = service_of(request)
    body = await read_body(request, service.settings.max_body_bytes, service.settings.body_seconds)
    content_type = request.headers.get("content-type", "")
    async with service.turns:
        asked = await run_sync(decode, body, content_type, limiter=service.threads)
    # A version that must be loaded first keeps nobody from being scored meanwhile.
    bundle = await service.bundle(asked.model)
    async with service.turns:
        encoded, count = await run_sync(answer, service, bundle, asked, limiter=service.threads)
    request.scope["stancery"].update(paragraphs=count, model=bundle.manifest.version)
    return Response(encoded, media_type="application/json")


@router.post(
    "/v1/classify/stream",
    summary="Label a stream of paragraphs, one a line",
    dependencies=[Depends(Takes("topics", "explain", "model"))],
)
async def post_classify_stream(request: Request) -> Any:
    """Take one JSON string or `{"id", "text"}` a line; give one line back for each, in order, as soon as it is scored.

    What is wrong with a line stays on its line. Blank lines are passed over. Memory does not grow with the body.
    """
    service = service_of(request)
    check_encoding(request)
    explain = flag(request, "explain")
    bundle = await service.bundle(request.query_params.get("model"))
    topics = tuple(name for part in request.query_params.getlist("topics") for name in part.split(",") if name)
    bundle.scorer.check_topics(topics)
    seen = request.scope["stancery"]
    seen.update(paragraphs=0, model=bundle.manifest.version)

    def count(answers: list[StreamLine]) -> None:
        seen["paragraphs"] += len(answers)
        service.metrics.count([answer.result for answer in answers if answer.result])

    return StreamResponse(bundle, Options(topics, explain), service.settings, service.streams, count)
