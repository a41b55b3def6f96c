"""Trainings: ask for one, watch it, cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection

from service.access import Needs, actor_of
from service.body import read_body
from service.context import Service, Takes, json_answer, service_of
from service.idempotency import key_of
from service.problems import Problem, undecodable
from service.schemas import TrainingRequest, TrainingsResponse
from service.store import corpus, requests, trainings
from service.store.database import StoreUnavailable
from service.store.trainings import Training, UnknownTraining

EVENTS = "text/event-stream"
_RUNNING = ("queued", "running")
_INTERVAL = 0.4
_QUIET = 15.0
_decoder = msgspec.json.Decoder(TrainingRequest)
router = APIRouter(tags=["trainings"], dependencies=[Depends(Needs("admin"))])


@router.post(
    "/v1/trainings",
    summary="Train a new version from the annotations",
    status_code=202,
    dependencies=[Depends(Takes())],
)
async def post_training(request: Request) -> Response:
    """Queue a training on all annotations. One runs at a time; the result must pass the gate before it takes over."""
    service, key, actor = service_of(request), key_of(request), actor_of(request)
    body = await read_body(request, service.settings.max_body_bytes, service.settings.body_seconds)
    try:
        asked = _decoder.decode(body) if body.strip() else TrainingRequest()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise undecodable(error, TrainingRequest) from None

    champion = service.serving.active
    family = asked.family or champion.manifest.family

    def work(connection: Connection) -> requests.Answered:
        if not corpus.last_number(connection):
            raise Problem(HTTPStatus.CONFLICT, "there are no annotations to train on; POST /v1/annotations brings them")
        if family not in champion.scorer.families:
            allowed = ", ".join(champion.scorer.families)
            detail = f"family: {family} needs a checkpoint, which only `stancery train` takes; allowed are {allowed}"
            raise Problem(HTTPStatus.CONFLICT, detail)
        created = trainings.create(connection, family, asked.seed, actor)
        return requests.Answered(HTTPStatus.ACCEPTED, msgspec.json.encode(created))

    def once(connection: Connection) -> requests.Answered:
        return requests.once(connection, actor, key, b"trainings\n" + body, work)

    answered = await service.database.write(once)
    id = msgspec.json.decode(answered.body, type=Training).id
    headers = {"Location": f"/v1/trainings/{id}"}
    return Response(answered.body, answered.status, headers, media_type="application/json")


@router.get("/v1/trainings", summary="The latest trainings", dependencies=[Depends(Takes())])
async def get_trainings(request: Request) -> Response:
    """List the latest hundred, newest first, without their audits and gates."""
    return json_answer(TrainingsResponse(await service_of(request).database.read(trainings.latest)))


@router.get("/v1/trainings/{id}", summary="One training in full", dependencies=[Depends(Takes())])
async def get_training(request: Request, id: str) -> Response:
    """Give its state, its progress, the model it made, the label audit, and the gate's table with its reasons."""
    try:
        found = await service_of(request).database.read(lambda connection: trainings.find(connection, id))
    except UnknownTraining:
        raise _not_found() from None
    return json_answer(found)


@router.get(
    "/v1/trainings/{id}/events",
    summary="A training's progress as server-sent events",
    dependencies=[Depends(Takes())],
)
async def get_events(request: Request, id: str) -> Response:
    """Send the training as it stands, again whenever it has moved (`progress`), and whole when it has ended (`end`)."""
    service = service_of(request)
    try:
        first = await service.database.read(lambda connection: trainings.state_of(connection, id))
    except UnknownTraining:
        raise _not_found() from None
    return StreamingResponse(_events(service, first), media_type=EVENTS, headers={"Cache-Control": "no-store"})


async def _events(service: Service, training: Training) -> AsyncIterator[bytes]:
    id, quiet = training.id, 0.0
    yield _event("progress", training)
    while training.state in _RUNNING:
        await asyncio.sleep(_INTERVAL)
        if service.stopping.is_set():
            # The server waits for open streams, and this one would wait for the training.
            return
        quiet += _INTERVAL
        before = training
        try:
            training = await service.database.read(lambda connection: trainings.state_of(connection, id))
        except StoreUnavailable:
            continue
        if training != before:
            quiet = 0.0
            yield _event("progress", training)
        elif quiet > _QUIET:
            # A comment, which keeps proxies from taking silence for death.
            quiet = 0.0
            yield b":\n\n"
    while not service.stopping.is_set():
        try:
            whole = await service.database.read(lambda connection: trainings.find(connection, id))
        except StoreUnavailable:
            await asyncio.sleep(_INTERVAL)
            continue
        yield _event("end", whole)
        return


def _event(name: str, training: Training) -> bytes:
    return f"event: {name}\ndata: ".encode() + msgspec.json.encode(training) + b"\n\n"


@router.delete("/v1/trainings/{id}", summary="Cancel a training", status_code=202, dependencies=[Depends(Takes())])
async def delete_training(request: Request, id: str) -> Response:
    """Cancel a training that waits or runs: it stops within two seconds. One that has ended stays as it is: 409."""
    service, actor = service_of(request), actor_of(request)
    try:
        found = await service.database.write(lambda connection: trainings.cancel(connection, id, actor))
    except UnknownTraining:
        raise _not_found() from None
    if found.state not in (*_RUNNING, "cancelled"):
        raise Problem(HTTPStatus.CONFLICT, f"the training has ended: {found.state}")
    return json_answer(found, HTTPStatus.ACCEPTED)


def _not_found() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "no such training here; GET /v1/trainings lists the latest")
