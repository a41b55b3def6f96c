"""The routes, thin: read, check, hand to a worker thread, encode."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import msgspec
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from models.bundle import Bundle
from models.errors import StanceryError
from service.body import read_body
from service.classify import classify, decode
from service.observe import Metrics, log
from service.problems import Fault, Problem, invalid
from service.schemas import Health, ModelDetail, ModelsResponse, ModelSummary, StreamLine, TaxonomyResponse
from service.settings import Settings
from service.stream import Options, StreamResponse

router = APIRouter()
_PARAMETERS = ("topics", "explain", "model")


@dataclass(frozen=True)
class Service:
    """What the routes share. Scoring runs in at most as many threads as there are cores."""

    settings: Settings
    bundle: Bundle
    metrics: Metrics
    threads: CapacityLimiter


def service_of(request: Request) -> Service:
    return cast(Service, request.app.state.service)


def _json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


@router.post("/v1/classify", tags=["classify"], summary="Label an article or a list of paragraphs")
async def post_classify(request: Request) -> Response:
    """Give every paragraph its topics, its stance toward each topic's proposition, scores, and the words that decided.

    Send JSON, or an article as `text/plain`.
    """
    service = service_of(request)
    body = await read_body(request, service.settings.max_body_bytes)
    content_type = request.headers.get("content-type", "")

    def work() -> tuple[bytes, int]:
        answer = classify(service.bundle, decode(body, content_type), service.settings)
        service.metrics.count(answer.results)
        return msgspec.json.encode(answer), len(answer.results)

    encoded, count = await run_sync(work, limiter=service.threads)
    request.scope["stancery"].update(paragraphs=count, model=service.bundle.manifest.version)
    return Response(encoded, media_type="application/json")


@router.post("/v1/classify/stream", tags=["classify"], summary="Label a stream of paragraphs, one a line")
async def post_classify_stream(request: Request) -> Any:
    """Take one JSON string or `{"id", "text"}` a line; give one line back for each, in order, as soon as it is scored.

    What is wrong with a line stays on its line. Blank lines are passed over. Memory does not grow with the body.
    """
    service = service_of(request)
    options = _stream_options(request, service.bundle)
    seen = request.scope["stancery"]
    seen.update(paragraphs=0, model=service.bundle.manifest.version)

    def count(answers: list[StreamLine]) -> None:
        seen["paragraphs"] += len(answers)
        service.metrics.count([answer.result for answer in answers if answer.result])

    return StreamResponse(service.bundle, options, service.settings, service.threads, count)


def _stream_options(request: Request, bundle: Bundle) -> Options:
    query = request.query_params
    for name in query:
        if name not in _PARAMETERS:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"query: unknown parameter; allowed are {', '.join(_PARAMETERS)}",
                [Fault("query", "unknown parameter")],
            )
    if query.get("model", bundle.manifest.version) != bundle.manifest.version:
        raise invalid("model", f"no such version here; allowed is {bundle.manifest.version}")
    explain = query.get("explain", "false")
    if explain not in ("true", "false"):
        raise invalid("explain", "must be true or false")
    topics = tuple(name for part in query.getlist("topics") for name in part.split(",") if name)
    bundle.scorer.check_topics(topics)
    return Options(topics, explain == "true")


@router.get("/v1/taxonomy", tags=["models"], summary="The topics and propositions of the active model")
async def get_taxonomy(request: Request) -> Response:
    """Give the topics in order, each with the proposition that stance is measured against."""
    bundle = service_of(request).bundle
    return _json(TaxonomyResponse(bundle.manifest.version, bundle.taxonomy.hash, bundle.taxonomy.topics))


@router.get("/v1/models", tags=["models"], summary="The model versions here")
async def get_models(request: Request) -> Response:
    """List the versions with their state and headline figures."""
    return _json(ModelsResponse([_summary(service_of(request).bundle)]))


@router.get("/v1/models/{version}", tags=["models"], summary="One model version in full")
async def get_model(request: Request, version: str) -> Response:
    """Give a version's manifest, with every metric and its interval, and its model card."""
    bundle = service_of(request).bundle
    if version != bundle.manifest.version:
        raise Problem(HTTPStatus.NOT_FOUND, f"no such version here; there is {bundle.manifest.version}")
    return _json(ModelDetail(_summary(bundle), msgspec.to_builtins(bundle.manifest), bundle.card))


def _summary(bundle: Bundle) -> ModelSummary:
    manifest = bundle.manifest
    return ModelSummary(
        version=manifest.version,
        state="active",
        family=manifest.family,
        created=manifest.created,
        taxonomy=manifest.taxonomy_hash,
        metrics=manifest.headline(),
    )


@router.get("/healthz", tags=["operations"], summary="Alive")
async def get_healthz() -> Response:
    """Answer as long as the process does."""
    return _json(Health("ok"))


@router.get("/readyz", tags=["operations"], summary="Scores its canary paragraphs right")
async def get_readyz(request: Request) -> Response:
    """Score the bundle's canary paragraphs and compare with what its manifest says they must get."""
    service = service_of(request)
    version = service.bundle.manifest.version
    try:
        await run_sync(service.bundle.check_canaries, limiter=service.threads)
    except StanceryError as error:
        log.error("canary", extra={"fields": {"model": version, "reason": str(error)}})
        return _json(Health("degraded", version, "a canary paragraph is scored wrong"), HTTPStatus.SERVICE_UNAVAILABLE)
    return _json(Health("ok", version))


@router.get("/metrics", tags=["operations"], summary="Prometheus metrics")
async def get_metrics(request: Request) -> Response:
    """Give counters and histograms in the Prometheus text format."""
    return Response(generate_latest(service_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)
