"""Labels in and out: a batch or a whole file is added at once or not at all, and comes out as the examples file."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Literal

import msgspec
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection

from models.taxonomy import Taxonomy
from service import importing
from service.access import Needs, actor_of
from service.body import read_body
from service.context import Service, Takes, flag, json_answer, service_of
from service.idempotency import key_of
from service.importing import DryRun, Faulty
from service.labels.reading import Reading
from service.problems import Fault, Problem, invalid, undecodable
from service.schemas import AnnotationsRequest, DisagreementsResponse
from service.store import corpus, requests
from service.store.database import DEADLINE, StoreSilent, StoreUnavailable

NDJSON = "application/x-ndjson"
HASH = "X-Examples-Hash"
_PER_SECOND = 500
_DISAGREEMENTS = 100
_PLACED = re.compile(r"(annotations\S*|(?:line|item|row) \d+(?: \(line \d+\))?): (.*)", re.DOTALL)
router = APIRouter(tags=["annotations"], dependencies=[Depends(Needs("label"))])


@router.post(
    "/v1/annotations",
    summary="Add labels",
    status_code=201,
    dependencies=[Depends(Takes("dry_run", "annotator"))],
)
async def post_annotations(request: Request) -> Response:
    """Add labels of paragraphs; the answer comes once they are on disk.

    `{"annotations": [...]}`, or a file as it is: examples as JSON Lines, exports of Label Studio, doccano and
    Prodigy, fastText, SemEval stance TSV, VAST CSV, or any CSV with named columns. All of it is taken or nothing. With
    an `Idempotency-Key`, the same request sent again gets the same answer and adds nothing.
    """
    service, key, actor = service_of(request), key_of(request), actor_of(request)
    dry_run, annotator = flag(request, "dry_run"), request.query_params.get("annotator", actor)
    if fault := importing.annotator_fault(annotator):
        raise invalid("annotator", fault)
    body = await read_body(request, service.settings.max_labels_bytes, service.settings.body_seconds)
    named = hashlib.sha256(f"annotations\n{annotator}\n{dry_run}\n".encode() + body).digest()
    taxonomy = service.serving.active.taxonomy
    try:
        reading = await run_sync(_read, body, request, taxonomy, service, limiter=service.importers)
    except Problem:
        # What was taken once may name a topic that the taxonomy has no more.
        if key is None:
            raise
        found = await service.database.read(lambda connection: requests.kept(connection, actor, key, named))
        if found is None:
            raise
        return Response(found.body, found.status, media_type="application/json")

    def work(connection: Connection) -> requests.Answered:
        report = importing.add(connection, reading, annotator=annotator, origin=f"http {actor}", dry_run=dry_run)
        return requests.Answered(HTTPStatus.CREATED, msgspec.json.encode(report))

    def once(connection: Connection) -> requests.Answered:
        return requests.once(connection, actor, key, named, work)

    try:
        answered = await service.database.write(once, seconds=DEADLINE + len(reading.labels) / _PER_SECOND)
    except DryRun as dry:
        return json_answer(dry.report)
    except StoreSilent as error:
        if not dry_run:
            raise
        # It stores nothing, however late it comes to its end.
        raise StoreUnavailable(str(error)) from None
    return Response(answered.body, answered.status, media_type="application/json")


def _read(body: bytes, request: Request, taxonomy: Taxonomy, service: Service) -> Reading:
    """Read a body as one object of annotations or as a file.

    Raises
    ------
    Problem
        422 with every fault; 400 if what is to be an object is not JSON.
    """
    limit = service.settings.max_paragraph_chars
    try:
        if _is_object(request, body):
            return importing.read_object(body, taxonomy, max_chars=limit)
        return importing.read(body, taxonomy, max_chars=limit)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise undecodable(error, AnnotationsRequest) from None
    except Faulty as error:
        faults = [_fault(fault) for fault in error.faults]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        detail = f"{faults[0].field}: {faults[0].message}{more}"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, faults) from None


def _is_object(request: Request, body: bytes) -> bool:
    """Tell ``{"annotations": [...]}`` from a file: whatever it is called, it holds nothing else.

    What is called JSON, and is empty or begins as an object does, was to be one, even if it is cut short.
    """
    body = body.removeprefix(codecs.BOM_UTF8).lstrip()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" and body[:1] in (b"", b"{"):
        return True
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw]).keys() == {"annotations"}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _fault(fault: str) -> Fault:
    """Part a fault into the place that it names, the whole body where it names none, and what is wrong there."""
    placed = _PLACED.fullmatch(fault)
    return Fault(placed[1], placed[2]) if placed else Fault("body", fault)


@router.get("/v1/annotations", summary="The labels as an examples file", dependencies=[Depends(Takes())])
async def get_annotations(request: Request) -> Response:
    """Stream every paragraph with its latest labels, one example a line, oldest paragraph first.

    `X-Examples-Hash` is the hash of the examples, as `stancery labels check` prints it and a model's manifest keeps it;
    the `ETag` holds it too.
    """
    service = service_of(request)
    up_to = await service.database.read(corpus.last_number)
    digest = hashlib.sha256()
    async for lines in _lines(service, up_to, sort=True):
        await run_sync(digest.update, lines, limiter=service.threads)
    name = digest.hexdigest()
    headers = {HASH: name, "ETag": f'"{name}"'}
    # A list of tags, weak or not, which is of no matter here; none but this one can hold it with its quotes.
    known = ", ".join(request.headers.getlist("if-none-match"))
    if known.strip() == "*" or headers["ETag"] in known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return StreamingResponse(_lines(service, up_to, sort=False), media_type=NDJSON, headers=headers)


async def _lines(service: Service, up_to: int, *, sort: bool) -> AsyncIterator[bytes]:
    """Yield the examples as they stood at an event, page by page; sorted fields are what the hash is of."""
    after = 0
    order: Literal["sorted"] | None = "sorted" if sort else None

    def page(connection: Connection) -> tuple[int, bytes]:
        rows = corpus.page(connection, after, up_to)
        encoded = b"".join(msgspec.json.encode(example, order=order) + b"\n" for _, example in rows)
        return (rows[-1][0] if rows else 0), encoded

    while True:
        after, encoded = await service.database.read(page)
        if not after:
            return
        yield encoded


@router.get(
    "/v1/annotations/disagreements",
    summary="Paragraphs of which annotators say different things",
    dependencies=[Depends(Takes())],
)
async def get_disagreements(request: Request) -> Response:
    """Count the paragraphs that annotators disagree on, each by the last they said, and list the first hundred."""
    service = service_of(request)
    count, after = 0, 0
    listed: list[corpus.Conflict] = []

    def page(connection: Connection) -> corpus.Disagreements:
        return corpus.disagreements(connection, _DISAGREEMENTS - len(listed), after)

    # Page by page: one long transaction would hold up whoever writes.
    while (found := await service.database.read(page)).last is not None:
        count, after = count + found.disputed, found.last
        listed += found.listed
    return json_answer(DisagreementsResponse(count, listed))
