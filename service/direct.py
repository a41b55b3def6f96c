"""Routes that are asked often: reached before FastAPI's machinery, whose own route stays behind for the document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import Needs
from service.problems import answer_to, unexpected


class Direct:
    """ASGI application: another, and in front of it the POST routes of a router with nothing in between.

    An endpoint takes the request and gives the response; what a route depends on may only be :class:`Needs`.
    """

    def __init__(self, app: FastAPI, router: APIRouter) -> None:
        self._app = app
        self._behind: ASGIApp = app
        self._routes = {route.path: _Route(route) for route in router.routes if isinstance(route, APIRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        route = self._routes.get(scope["path"]) if is_post else None
        if route is None:
            await self._behind(scope, receive, send)
            return
        scope["app"], scope["route"] = self._app, route.route
        try:
            response = await route.answer(_Request(scope, receive, send))
        except Exception as error:
            if (found := answer_to(error)) is None:
                await unexpected()(scope, receive, send)
                # Whoever runs this writes it down.
                raise
            response = found
        await response(scope, receive, send)


class _Route:
    """A route's endpoint, behind what the route needs."""

    def __init__(self, route: APIRoute) -> None:
        self.route = route
        self._endpoint: Callable[[Request], Awaitable[Response]] = route.endpoint
        self._needs = [each.dependency for each in route.dependencies if isinstance(each.dependency, Needs)]
        if len(self._needs) != len(route.dependencies):
            raise TypeError(f"{route.path}: a direct route depends on nothing but its scope")

    async def answer(self, request: Request) -> Response:
        for needs in self._needs:
            needs.check(request)
        return await self._endpoint(request)


class _Request(Request):
    @cached_property
    def headers(self) -> Headers:
        return _Headers(raw=self.scope["headers"])


class _Headers(Headers):
    """Headers that are found by their name; Starlette's are searched, seven times a request."""

    @cached_property
    def _first(self) -> dict[str, str]:
        # Of a name that comes twice the first counts, as it does there.
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(self.raw)}

    def get(self, name: str, default: Any = None, /) -> Any:
        return self._first.get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first

    def __getitem__(self, name: str) -> str:
        return self._first[name.lower()]
