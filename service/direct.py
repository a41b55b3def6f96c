"""Routes that are asked often: Starlette's own, in front of FastAPI's, which stay for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import Needs


def direct_routes(router: APIRouter) -> Iterator[Route]:
    """Yield a Starlette route for each route of a router, which finds the same endpoint with nothing in between.

    An endpoint takes the request and gives the response; what the router depends on may only be :class:`Needs`.
    """
    for route in router.routes:
        assert isinstance(route, APIRoute)
        yield Route(route.path, _endpoint(route), methods=sorted(route.methods or ()))


def _endpoint(route: APIRoute) -> ASGIApp:
    needs = [depends.dependency for depends in route.dependencies if isinstance(depends.dependency, Needs)]
    if len(needs) != len(route.dependencies):
        raise TypeError(f"{route.path}: a direct route depends on nothing but its scope")
    endpoint = route.endpoint

    class Endpoint:
        """Starlette leaves alone what is no function."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            scope["route"] = route
            request = Request(scope, receive, send)
            for need in needs:
                need.check(request)
            response = await endpoint(request)
            await response(scope, receive, send)

    return Endpoint()
