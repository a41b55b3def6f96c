"""Model versions: which there are, what they are, and which one answers."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus

import msgspec
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import Connection

from models.bundle import read_card, read_manifest
from models.errors import BundleError
from service.access import Needs, actor_of
from service.context import Service, Takes, json_answer, service_of
from service.follow import could_not
from service.observe import log
from service.problems import Problem
from service.schemas import ModelDetail, ModelsResponse, ModelSummary, TaxonomyResponse
from service.serving import verified
from service.store import versions
from service.store.versions import UnknownVersion, Version

router = APIRouter(tags=["models"])


@router.get(
    "/v1/taxonomy",
    summary="The topics of the active model",
    dependencies=[Depends(Needs("classify")), Depends(Takes())],
)
async def get_taxonomy(request: Request) -> Response:
    """Give the topics in order, each with the proposition that stance is measured against."""
    bundle = service_of(request).serving.active
    return json_answer(TaxonomyResponse(bundle.manifest.version, bundle.taxonomy.hash, bundle.taxonomy.topics))


@router.get(
    "/v1/models", summary="The model versions here", dependencies=[Depends(Needs("classify")), Depends(Takes())]
)
async def get_models(request: Request) -> Response:
    """List the versions with their state and headline figures, newest first."""
    found = await service_of(request).database.read(versions.every)
    return json_answer(ModelsResponse([_summary(version) for version in found]))


@router.get(
    "/v1/models/{version}",
    summary="One model version in full",
    dependencies=[Depends(Needs("classify")), Depends(Takes())],
)
async def get_model(request: Request, version: str) -> Response:
    """Give a version's manifest, with every metric and its interval, and its model card."""
    service = service_of(request)
    found = await _find(service, version)
    path = service.settings.home / found.path
    try:
        manifest, card = await run_sync(lambda: (read_manifest(path), read_card(path)), limiter=service.threads)
    except BundleError as error:
        raise Problem(HTTPStatus.CONFLICT, f"the bundle cannot be read: {error}") from None
    return json_answer(ModelDetail(_summary(found), msgspec.to_builtins(manifest), card))


@router.post(
    "/v1/models/{version}/activate",
    summary="Promote or roll back",
    dependencies=[Depends(Needs("admin")), Depends(Takes())],
)
async def post_activate(request: Request, version: str) -> Response:
    """Make a version the one that answers. It is verified and loaded first; if that fails, nothing changes.

    This worker serves it when it answers, every other one within two seconds.
    """
    service, actor = service_of(request), actor_of(request)
    found = await _find(service, version)
    try:
        load = partial(verified, exact=service.settings.exact)
        bundle = await run_sync(load, service.settings.home / found.path, version, limiter=service.loaders)
    except BundleError as error:
        reason = str(error)
        await service.database.write(lambda connection: versions.note_failure(connection, version, actor, reason))
        log.error("swap", extra={"fields": {"model": version, "reason": reason}})
        service.health.swap = could_not(version)
        detail = f"{version} cannot take over, and {service.serving.version} goes on: {reason}"
        raise Problem(HTTPStatus.CONFLICT, detail) from None

    def work(connection: Connection) -> Version:
        versions.activate(connection, version, actor)
        return versions.find(connection, version)

    async with service.serving.changing:
        activated = await service.database.write(work)
        service.health.swap = None
        service.serving.take_over(bundle)
    return json_answer(_summary(activated))


async def _find(service: Service, version: str) -> Version:
    try:
        return await service.database.read(lambda connection: versions.find(connection, version))
    except UnknownVersion:
        raise Problem(HTTPStatus.NOT_FOUND, "no such version here; GET /v1/models lists those there are") from None


def _summary(version: Version) -> ModelSummary:
    return ModelSummary(
        version=version.version,
        state=version.state,
        family=version.family,
        created=version.created,
        parent=version.parent,
        taxonomy=version.taxonomy,
        metrics=version.metrics,
    )
