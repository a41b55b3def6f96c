"""What the routes share, and how they answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote_to_bytes

import msgspec
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Request, Response

from models.bundle import Bundle
from models.errors import BundleError
from service.access import Keys
from service.follow import Health
from service.observe import Metrics
from service.problems import Problem, invalid
from service.serving import Serving
from service.settings import Settings
from service.store import versions
from service.store.database import Database
from service.turns import Turns


class Pool(ThreadPoolExecutor):
    """The threads that streams are scored in, one for each core.

    They are none of those that score requests, which so wait for no stream; and each takes the next batch by itself,
    where to be handed one by the event loop would cost it a tenth of its time.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(size, thread_name_prefix="stream")


@dataclass(frozen=True)
class Service:
    """One worker's parts. Requests are scored in at most as many threads as there are cores, ``streams`` in as many of
    their own, and versions loaded in one beside them; ``turns`` bounds how many requests wait to be scored in threads.
    ``importers`` has one thread that reads labels; ``stopping`` is set once the server has been told to stop."""

    settings: Settings
    database: Database
    serving: Serving
    keys: Keys
    health: Health
    metrics: Metrics
    threads: CapacityLimiter
    streams: Pool
    turns: Turns
    loaders: CapacityLimiter
    importers: CapacityLimiter
    stopping: threading.Event

    async def bundle(self, version: str | None) -> Bundle:
        """Return the bundle that must answer: the active one, or the one that a request names.

        Raises
        ------
        Problem
            422 if there is no such version, 409 if its bundle is damaged.
        """
        if (bundle := self.serving.in_memory(version)) is not None:
            return bundle
        assert version is not None
        try:
            found = await self.database.read(lambda connection: versions.find(connection, version))
        except versions.UnknownVersion:
            raise invalid("model", "no such version here; GET /v1/models lists those there are") from None
        path = self.settings.home / found.path
        try:
            return await run_sync(self.serving.load, version, path, limiter=self.loaders)
        except BundleError as error:
            raise Problem(HTTPStatus.CONFLICT, f"{version} cannot be loaded: {error}") from None


def service_of(request: Request) -> Service:
    return cast(Service, request.app.state.service)


def json_answer(value: object, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


class Takes:
    """A dependency that declares the query parameters of a route, and refuses every other."""

    def __init__(self, *names: str) -> None:
        self.names = names

    async def __call__(self, request: Request) -> None:
        """Let the request through.

        Raises
        ------
        Problem
            422.
        """
        # Starlette would put U+FFFD for what is not UTF-8.
        try:
            unquote_to_bytes(request.scope["query_string"]).decode()
        except UnicodeDecodeError:
            raise invalid("query", "must be UTF-8, percent-encoded") from None
        if any(name not in self.names for name in request.query_params):
            raise invalid("query", f"unknown parameter; allowed are {', '.join(self.names) or 'none'}")


def flag(request: Request, name: str) -> bool:
    """Return a query parameter that is true or false, false where it is not given."""
    value = request.query_params.get(name, "false")
    if value not in ("true", "false"):
        raise invalid(name, "must be true or false")
    return value == "true"
