"""What holds for every route: its methods, its query, and that the OpenAPI page tells what it answers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from benchmarks.drills.harness import wait_for
from benchmarks.drills.proxy import Proxy
from models.examples import Example
from service.context import Takes
from service.importing import _FIELDS
from service.openapi import scopes
from service.routes import ROUTERS
from service.schemas import AnnotationIn, ExampleIn
from tests.conftest import Server, serving

BATCH = b'{"annotations": [{"text": "Rain.", "topics": {}}]}'
EVENTS = "/v1/trainings/{id}/events"
OPERATIONS = sorted(scopes())
PATHS = sorted({path for path, _ in OPERATIONS})


@pytest.fixture(scope="module")
def server(shared_small: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(shared_small(), tmp_path_factory.mktemp("protocol") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    return server.request("/openapi.json").json


def filled(path: str) -> str:
    return path.replace("{id}", "none").replace("{version}", "none")


def test_every_route_of_the_api_declares_its_query() -> None:
    for route in [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]:
        declared = [each for each in route.dependencies if isinstance(each.dependency, Takes)]
        assert len(declared) == route.path.startswith("/v1/"), route.path


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_an_unknown_parameter_is_refused_but_by_what_is_probed(server: Server, path: str, method: str) -> None:
    answer = server.request(f"{filled(path)}?unheard=1", method=method.upper())
    if not path.startswith("/v1/"):
        assert answer.status == 200
        return
    assert answer.status == 422
    assert [fault["field"] for fault in answer.json["errors"]] == ["query"] and "allowed" in answer.json["detail"]


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_allowed_is_told_with_all_that_is(server: Server, path: str) -> None:
    allowed = {method.upper() for each, method in OPERATIONS if each == path}
    if "GET" in allowed and path != EVENTS:
        allowed.add("HEAD")
    answer = server.request(filled(path), method="PUT")
    assert answer.status == 405 and answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["allow"] == ", ".join(sorted(allowed)) and answer.headers["allow"] in answer.json["detail"]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"])
def test_the_docs_allow_to_be_got(server: Server, path: str) -> None:
    answer = server.request(path, method="PUT")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize("path", [path for path, method in OPERATIONS if method == "get" and path != EVENTS])
def test_a_head_is_that_of_the_answer(server: Server, path: str) -> None:
    told = []
    for method in ("GET", "HEAD"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            head = f"{method} {filled(path)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            told.append(connection.makefile("rb").read().partition(b"\r\n\r\n"))
    (got, _, _), (found, _, body) = told
    assert found.splitlines()[0] == got.splitlines()[0] and body == b""
    assert b"content-type" in found


def test_the_page_tells_each_of_these_answers(server: Server, document: Any) -> None:
    for method, path, query, body, headers, status in (
        ("POST", "/v1/annotations", "?dry_run=true", BATCH, {}, 200),
        ("POST", "/v1/annotations", "", BATCH, {}, 201),
        ("POST", "/v1/trainings", "", b"{}", {"Content-Encoding": "gzip"}, 415),
        ("POST", "/v1/trainings", "", b" " * 2_000_001, {}, 413),
        ("POST", "/v1/classify/stream", "", b"", {"Content-Encoding": "gzip"}, 415),
        ("GET", "/v1/annotations", "", None, {"If-None-Match": "*"}, 304),
        ("GET", "/v1/annotations", "?x=1", None, {}, 422),
        ("GET", "/metrics", "", None, {}, 200),
    ):
        answer = server.request(path + query, body, headers, method)
        assert answer.status == status
        told = document["paths"][path][method.lower()]["responses"][str(status)]
        kind = answer.headers.get("content-type")
        assert list(told.get("content", {})) == ([kind.partition(";")[0]] if kind else [])
    assert {"408", "409"} <= set(document["paths"]["/v1/trainings"]["post"]["responses"])
    assert {"200", "503"} == set(document["paths"]["/readyz"]["get"]["responses"])
    assert document["paths"]["/metrics"]["get"]["security"]


def test_the_page_tells_what_labels_are(document: Any) -> None:
    content = document["paths"]["/v1/annotations"]["post"]["requestBody"]["content"]
    assert content["application/x-ndjson"]["schema"]["$ref"].endswith("/ExampleIn")
    schemas = document["components"]["schemas"]
    for name in ("AnnotationsRequest", "AnnotationIn", "ExampleIn"):
        assert schemas[name]["additionalProperties"] is False
    assert schemas["ExampleIn"]["required"] == ["text", "topics"]
    assert {"type": "array", "items": {"type": "string"}} in schemas["ExampleIn"]["properties"]["topics"]["anyOf"]
    assert set(ExampleIn.__struct_fields__) == set(Example.__struct_fields__)
    assert set(AnnotationIn.__struct_fields__) == set(_FIELDS)


def test_a_dry_run_that_takes_too_long_says_that_it_stored_nothing(
    shared_small: Callable[..., Path], new_postgres: Callable[[], str], tmp_path: Path
) -> None:
    proxy = Proxy(new_postgres())
    try:
        with serving(shared_small(), tmp_path / "log", "--database-url", proxy.url) as server:
            wait_for(lambda: server.request("/readyz").json["status"] == "ok", 10, "a service that is well")
            proxy.set("stall")
            for query, told in ("", "may have stored it"), ("?dry_run=true", "nothing was changed"):
                answer = server.request(f"/v1/annotations{query}", BATCH, {"Content-Type": "application/json"})
                assert answer.status == 503 and told in json.loads(answer.body)["detail"]
            proxy.set("pass")
    finally:
        proxy.close()
