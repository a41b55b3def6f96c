"""Labelling paragraphs: a request at a time, or a stream."""

from __future__ import annotations

from typing import Any

import msgspec
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response

from models.bundle import Bundle
from service.access import Needs
from service.body import read_body
from service.classify import classify, decode
from service.context import check_query, flag, service_of
from service.schemas import ClassifyRequest, StreamLine
from service.stream import Options, StreamResponse

router = APIRouter(tags=["classify"], dependencies=[Depends(Needs("classify"))])
# A linear model labels so many bytes within some fifteen milliseconds, for which the event loop can be held. A thread
# would take longer, as the two would take turns.
_AT_ONCE = 65_536


@router.post("/v1/classify", summary="Label an article or a list of paragraphs")
async def post_classify(request: Request) -> Response:
    """Give every paragraph its topics, its stance toward each topic's proposition, scores, and the words that decided.

    Send JSON, or an article as `text/plain`.
    """
    service = service_of(request)
    body = await read_body(request, service.settings.max_body_bytes, service.settings.body_seconds)
    content_type = request.headers.get("content-type", "")

    def answer(bundle: Bundle, asked: ClassifyRequest) -> tuple[bytes, int]:
        given = classify(bundle, asked, service.settings)
        service.metrics.count(given.results)
        return msgspec.json.encode(given), len(given.results)

    def work() -> tuple[Bundle, tuple[bytes, int]] | ClassifyRequest:
        asked = decode(body, content_type)
        bundle = service.serving.in_memory(asked.model)
        # Of topics that are named, and of every word, there is far more to answer than there was to read.
        is_long = at_once and (asked.topics or asked.explain)
        return asked if bundle is None or is_long else (bundle, answer(bundle, asked))

    at_once = len(body) <= _AT_ONCE and service.serving.active.scorer.is_quick
    async with service.at_once if at_once else service.in_threads:
        done = work() if at_once else await run_sync(work, limiter=service.threads)
        if isinstance(done, ClassifyRequest):
            bundle = await service.bundle(done.model)
            done = bundle, await run_sync(answer, bundle, done, limiter=service.threads)
    bundle, (encoded, count) = done
    request.scope["stancery"].update(paragraphs=count, model=bundle.manifest.version)
    return Response(encoded, media_type="application/json")


@router.post("/v1/classify/stream", summary="Label a stream of paragraphs, one a line")
async def post_classify_stream(request: Request) -> Any:
    """Take one JSON string or `{"id", "text"}` a line; give one line back for each, in order, as soon as it is scored.

    What is wrong with a line stays on its line. Blank lines are passed over. Memory does not grow with the body.
    """
    service = service_of(request)
    check_query(request, ("topics", "explain", "model"))
    explain = flag(request, "explain")
    bundle = await service.bundle(request.query_params.get("model"))
    topics = tuple(name for part in request.query_params.getlist("topics") for name in part.split(",") if name)
    bundle.scorer.check_topics(topics)
    seen = request.scope["stancery"]
    seen.update(paragraphs=0, model=bundle.manifest.version)

    def count(answers: list[StreamLine]) -> None:
        seen["paragraphs"] += len(answers)
        service.metrics.count([answer.result for answer in answers if answer.result])

    return StreamResponse(bundle, Options(topics, explain), service.settings, service.threads, count)
