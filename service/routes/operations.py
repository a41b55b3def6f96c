"""Whether the service is well, and what it counts."""

from __future__ import annotations

from http import HTTPStatus

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from models.errors import StanceryError
from service.access import Needs
from service.context import json_answer, service_of
from service.observe import log
from service.schemas import Health

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Alive", dependencies=[Depends(Needs(None))])
async def get_healthz() -> Response:
    """Answer as long as the process does."""
    return json_answer(Health("ok"))


@router.get("/readyz", summary="Scores its canary paragraphs right", dependencies=[Depends(Needs(None))])
async def get_readyz(request: Request) -> Response:
    """Score the bundle's canary paragraphs and compare with what its manifest says they must get.

    200 as long as paragraphs are labelled right, `degraded` where something else is wrong: a version that could not
    take over, or a store that does not answer. 503 where scores cannot be trusted.
    """
    service = service_of(request)
    bundle = service.serving.active
    version = bundle.manifest.version
    try:
        await run_sync(bundle.check_canaries, limiter=service.threads)
    except StanceryError as error:
        log.error("canary", extra={"fields": {"model": version, "reason": str(error)}})
        return json_answer(
            Health("degraded", version, "a canary paragraph is scored wrong"), HTTPStatus.SERVICE_UNAVAILABLE
        )
    reason = service.health.reason
    return json_answer(Health("degraded" if reason else "ok", version, reason))


@router.get("/metrics", summary="Prometheus metrics", dependencies=[Depends(Needs("classify"))])
async def get_metrics(request: Request) -> Response:
    """Give this worker's counters and histograms in the Prometheus text format."""
    return Response(generate_latest(service_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)
