"""The application: ``create_app(settings)``, and the server that runs it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from importlib.metadata import version
from os import cpu_count
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from anyio import CapacityLimiter
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from models.errors import StanceryError
from service import openapi, problems
from service.access import Keys, is_loopback
from service.context import Pool, Service
from service.express import STATE, Express
from service.follow import Follower, Health
from service.observe import JsonFormatter, Logged, Metrics, RequestLog, log
from service.routes import ROUTERS
from service.routes.trainings import get_events
from service.server import Protocol
from service.serving import Serving, first_bundle
from service.settings import Settings
from service.store import keys
from service.store.database import Database, StoreUnavailable
from service.trainer import Runner
from service.turns import Turns

# How the supervisor hands its settings to the workers that it starts.
_HANDOVER = "STANCERY_WORKER_SETTINGS"
# How long a thread may go on while another wants to; a request changes threads several times, and would wait ten times
# as long at each while a version is loaded.
_TURN = 0.0005
# How many objects there may be more of before garbage is looked for. An answer of many paragraphs has thousands, and
# none of them is in a cycle.
_GARBAGE = 50_000


def create_app(settings: Settings) -> ASGIApp:
    """Load the bundle that serves, see that it scores its canary paragraphs right, and build the application round it.

    Raises
    ------
    StanceryError
        If no bundle can be loaded that scores as it says.
    """
    sys.setswitchinterval(_TURN)
    database, metrics = Database(settings.database_url, settings.home), Metrics()
    cores = cpu_count() or 1
    loaders = CapacityLimiter(1)
    requests = RequestLog(metrics)
    serving = Serving(first_bundle(settings, database), settings, metrics)
    known = Keys(
        anonymous=is_open(settings),
        own_name=settings.allow_anonymous is None and is_loopback(settings.host),
        admin_key=settings.admin_key,
        per_minute=settings.key_requests_per_minute,
        share=settings.workers,
    )
    health = Health()
    stopping = threading.Event()
    service = Service(
        settings,
        database,
        serving,
        known,
        health,
        metrics,
        threads=CapacityLimiter(cores),
        streams=Pool(cores),
        turns=Turns(cores, settings.max_waiting),
        loaders=loaders,
        importers=CapacityLimiter(1),
        stopping=stopping,
    )
    follower = Follower(settings, database, serving, known, loaders, health)
    runner = Runner(settings, database, serving)

    @asynccontextmanager
    async def beside(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        _note_signals(stopping)
        # What was loaded stays: to look through it for garbage again and again would make requests wait.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GARBAGE)
        tasks = [asyncio.create_task(part.run()) for part in (follower, runner)]
        # What the protocol of the connections finds in its state.
        yield {STATE: Express(service, requests)}
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        service.streams.shutdown(cancel_futures=True)
        database.close()

    app: FastAPI = FastAPIOffline(
        title="Stancery",
        version=version("stancery"),
        description="Tells, for every paragraph of news, what it is about and where it stands.",
        redoc_url=None,
        lifespan=beside,
    )
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router)
    problems.install(app)
    _complete(app)
    # Replacing the method is how FastAPI lets the document be made elsewhere.
    app.openapi = openapi.describe(app, serving)  # type: ignore[method-assign]  # meant to be
    return Logged(app, requests)


def _complete(app: FastAPI) -> None:
    """Have HEAD answered where GET is, and every path name all its methods: a route knows no other of its path."""
    methods: dict[str, set[str]] = defaultdict(set)
    for route in [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]:
        own, depends = route.methods or set(), route.dependencies
        # The server leaves the body out; for that of the events it would wait till the training ends.
        if "GET" in own and route.endpoint is not get_events:
            own = own | {"HEAD"}
            app.add_api_route(
                route.path, route.endpoint, methods=["HEAD"], dependencies=depends, include_in_schema=False
            )
        methods[route.path] |= own

    async def not_allowed(request: Request, _: Exception) -> Response:
        path = getattr(request.scope.get("route"), "path", "")
        # Beside these paths there are but those of the docs.
        allowed = ", ".join(sorted(methods.get(path, {"GET"})))
        status, headers = HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": allowed}
        return problems.Problem(status, f"method: allowed here are {allowed}", headers=headers).response()

    app.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, not_allowed)


def _note_signals(stopping: threading.Event) -> None:
    """Have `stopping` set by the signals that end the server, before it handles them."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        handle = signal.getsignal(number)

        def note(number: int, frame: FrameType | None, handle: Any = handle) -> None:
            stopping.set()
            if callable(handle):
                handle(number, frame)

        signal.signal(number, note)


def is_open(settings: Settings) -> bool:
    """Tell whether requests without a key may do everything: on loopback, unless the settings say otherwise."""
    return is_loopback(settings.host) if settings.allow_anonymous is None else settings.allow_anonymous


def check_access(settings: Settings) -> None:
    """See that somebody could use a service that is not open.

    Raises
    ------
    StanceryError
        If it is to listen beyond this machine, and there is no key.
    """
    if is_open(settings) or settings.admin_key:
        return
    database = Database(settings.database_url, settings.home)
    try:
        with database.reading() as connection:
            if any(key.revoked is None for key in keys.every(connection)):
                return
    except StoreUnavailable as error:
        log.error("store", extra={"fields": {"reason": error.in_full}})
        return
    finally:
        database.close()
    raise StanceryError(
        f"host: {settings.host} is reached from other machines and there is no key; make one with `stancery keys "
        "create NAME --scopes classify,label,admin`, or let everybody in with --allow-anonymous"
    )


def worker_app() -> ASGIApp:
    """Build the application of a worker process from what its supervisor handed over."""
    _log()
    settings = msgspec.json.decode(os.environ[_HANDOVER], type=Settings, dec_hook=lambda kind, raw: kind(raw))
    try:
        return create_app(settings)
    except StanceryError as error:
        log.error("start", extra={"fields": {"reason": error.in_full}})
        # Any other code would have the supervisor start it again for ever.
        raise SystemExit(STARTUP_FAILURE) from error


def serve(settings: Settings) -> None:
    """Serve until told to stop; requests in flight are answered first, for up to ``stop_seconds``.

    Raises
    ------
    StanceryError
        If no bundle can be served, or nobody would have a key.
    """
    _log()
    app: ASGIApp | str = "service.app:worker_app"
    if settings.workers == 1:
        app = create_app(settings)
    else:
        database = Database(settings.database_url, settings.home)
        first_bundle(settings, database)
        database.close()
        os.environ[_HANDOVER] = msgspec.json.encode(settings, enc_hook=str).decode()
    check_access(settings)
    uvicorn.run(
        app,
        factory=isinstance(app, str),
        workers=settings.workers,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.stop_seconds,
    )


def _log() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
