"""Routes that are asked often: reached before FastAPI's machinery, whose own route stays behind for the document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import Needs
from service.problems import answer_to


class Direct:
    """ASGI middleware: the POST routes of a router, with nothing in between.

    An endpoint takes the request and gives the response; what a route depends on may only be :class:`Needs`.
    """

    def __init__(self, app: ASGIApp, router: APIRouter) -> None:
        self._app = app
        self._routes = {route.path: _Route(route) for route in router.routes if isinstance(route, APIRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        route = self._routes.get(scope["path"]) if is_post else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route.route
        try:
            response = await route.answer(Request(scope, receive, send))
        except Exception as error:
            if (found := answer_to(error)) is None:
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
