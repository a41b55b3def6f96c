"""The OpenAPI document: schemas straight from the structs of ``service.schemas``, examples scored by the bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from models.bundle import Bundle
from models.examples import Example
from service import problems, stream
from service.access import Needs
from service.idempotency import HEADER
from service.importing import ImportReport
from service.routes import ROUTERS
from service.routes.trainings import EVENTS
from service.schemas import (
    AnnotationsRequest,
    ClassifyRequest,
    ClassifyResponse,
    DisagreementsResponse,
    ExampleIn,
    Health,
    ModelDetail,
    ModelsResponse,
    ModelSummary,
    ParagraphIn,
    StreamLine,
    TaxonomyResponse,
    TrainingRequest,
    TrainingsResponse,
)
from service.serving import Serving
from service.store.trainings import Training

_JSON = "application/json"
_SCHEME = "key"
_ANSWERS: dict[tuple[str, str], tuple[int, str, Any]] = {
    ("/v1/classify", "post"): (200, _JSON, ClassifyResponse),
    ("/v1/classify/stream", "post"): (200, stream.MEDIA_TYPE, StreamLine),
    ("/v1/annotations", "post"): (201, _JSON, ImportReport),
    ("/v1/annotations", "get"): (200, stream.MEDIA_TYPE, Example),
    ("/v1/annotations/disagreements", "get"): (200, _JSON, DisagreementsResponse),
    ("/v1/trainings", "post"): (202, _JSON, Training),
    ("/v1/trainings", "get"): (200, _JSON, TrainingsResponse),
    ("/v1/trainings/{id}", "get"): (200, _JSON, Training),
    ("/v1/trainings/{id}", "delete"): (202, _JSON, Training),
    ("/v1/trainings/{id}/events", "get"): (200, EVENTS, Training),
    ("/v1/taxonomy", "get"): (200, _JSON, TaxonomyResponse),
    ("/v1/models", "get"): (200, _JSON, ModelsResponse),
    ("/v1/models/{version}", "get"): (200, _JSON, ModelDetail),
    ("/v1/models/{version}/activate", "post"): (200, _JSON, ModelSummary),
    ("/healthz", "get"): (200, _JSON, Health),
    ("/readyz", "get"): (200, _JSON, Health),
    ("/metrics", "get"): (200, "text/plain", str),
}
# What else is no refusal: the status, what it says, and what comes with it.
_ALSO: dict[tuple[str, str], tuple[int, str, Any]] = {
    ("/v1/annotations", "post"): (200, "With dry_run: what would come in", ImportReport),
    ("/v1/annotations", "get"): (304, "The labels are those of If-None-Match", None),
    ("/readyz", "get"): (503, "Scores cannot be trusted", Health),
}
# Beside those of every operation that takes a key, and of all under /v1.
_PROBLEMS: dict[tuple[str, str], tuple[int, ...]] = {
    ("/v1/classify", "post"): (400, 408, 409, 413, 415),
    ("/v1/classify/stream", "post"): (409, 415),
    ("/v1/annotations", "post"): (400, 408, 409, 413, 415, 507),
    ("/v1/trainings", "post"): (400, 408, 409, 413, 415, 507),
    ("/v1/trainings/{id}", "get"): (404,),
    ("/v1/trainings/{id}", "delete"): (404, 409, 507),
    ("/v1/trainings/{id}/events", "get"): (404,),
    ("/v1/models/{version}", "get"): (404, 409),
    ("/v1/models/{version}/activate", "post"): (404, 409, 507),
}
_STREAM_PARAMETERS = (
    ("topics", "Topics to answer for whether or not they are present, parted by commas.", {"type": "string"}),
    ("explain", "Give every chunk that carries weight, and the bias.", {"type": "boolean", "default": False}),
    ("model", "The version that must answer.", {"type": "string"}),
)
_ANNOTATIONS_PARAMETERS = (
    ("dry_run", "Tell what would come in, and change nothing.", {"type": "boolean", "default": False}),
    ("annotator", "Whose labels they are, where they do not say.", {"type": "string"}),
)
_ONCE = {
    "name": HEADER,
    "in": "header",
    "description": "The same key and body get the same answer, and are done once.",
    "schema": {"type": "string"},
}


def describe(app: FastAPI, serving: Serving) -> Callable[[], dict[str, Any]]:
    """Return what FastAPI calls for ``/openapi.json``; the document is made once for each version that serves."""
    made: dict[str, dict[str, Any]] = {}

    def document() -> dict[str, Any]:
        bundle = serving.active
        version = bundle.manifest.version
        if version not in made:
            made.clear()
            made[version] = _document(app, bundle)
        return made[version]

    return document


def scopes() -> dict[tuple[str, str], str | None]:
    """Return the scope that each operation declares, by path and method; one that declares none is missing."""
    return {
        (route.path, method.lower()): dependency.dependency.scope
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
        for dependency in route.dependencies
        if isinstance(dependency.dependency, Needs)
    }


def _document(app: FastAPI, bundle: Bundle) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    structs: list[Any] = [ClassifyRequest, ParagraphIn, AnnotationsRequest, ExampleIn, TrainingRequest]
    structs += [problems.ProblemBody, *dict.fromkeys(struct for _, _, struct in _ANSWERS.values())]
    references, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    reference = dict(zip(structs, references, strict=True))
    document["components"] = {"schemas": components, "securitySchemes": {_SCHEME: {"type": "http", "scheme": "bearer"}}}
    declared = scopes()
    for (path, method), (status, media_type, struct) in _ANSWERS.items():
        operation = document["paths"][path][method]
        refusals = _PROBLEMS.get((path, method), ())
        if scope := declared[path, method]:
            # Without a key as well, where the service is open.
            operation["security"] = [{_SCHEME: []}, {}]
            operation["description"] += f"\n\nScope: `{scope}`."
            refusals = (*refusals, 401, 403, 429, 503)
        if path.startswith("/v1/"):
            refusals = (*refusals, 422)
        answers = {status: _answer("Success", media_type, reference[struct])}
        if (path, method) in _ALSO:
            status, told, struct = _ALSO[path, method]
            answers[status] = _answer(told, media_type, reference[struct]) if struct else {"description": told}
        wrong = _answer("What is wrong, and what is allowed", problems.MEDIA_TYPE, reference[problems.ProblemBody])
        answers |= dict.fromkeys(refusals, wrong)
        operation["responses"] = {str(status): answers[status] for status in sorted(answers)}
    _add_classify(document["paths"], reference, bundle)
    _add_loop(document["paths"], reference, bundle)
    return document


def _answer(description: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _add_loop(paths: dict[str, Any], reference: dict[Any, dict[str, Any]], bundle: Bundle) -> None:
    """Describe what the routes of the retraining loop take, with the bundle's own topics."""
    topic = next((topic for topic in bundle.taxonomy.topics if topic.proposition), None)
    labels: Any = {topic.id: "favor"} if topic else [bundle.taxonomy.topics[0].id]
    example = {"text": bundle.manifest.canaries[0].text, "topics": labels}
    post = paths["/v1/annotations"]["post"]
    post["parameters"] = [*_query(_ANNOTATIONS_PARAMETERS), _ONCE]
    post["requestBody"] = {
        "required": True,
        "content": {
            _JSON: {"schema": reference[AnnotationsRequest], "example": {"annotations": [example]}},
            stream.MEDIA_TYPE: {"schema": reference[ExampleIn], "example": example},
            "text/csv": {"schema": {"type": "string"}},
        },
    }
    post = paths["/v1/trainings"]["post"]
    post["parameters"] = [_ONCE]
    post["requestBody"] = {
        "required": False,
        "content": {_JSON: {"schema": reference[TrainingRequest], "example": {"family": bundle.manifest.family}}},
    }


def _query(parameters: Sequence[tuple[str, str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "description": description, "schema": schema}
        for name, description, schema in parameters
    ]


def _add_classify(paths: dict[str, Any], reference: dict[Any, dict[str, Any]], bundle: Bundle) -> None:
    """Describe what the two classify routes take, with a paragraph that the model knows and its real answer."""
    text = bundle.manifest.canaries[0].text
    results = [bundle.scorer.classify(text)]
    answer = msgspec.to_builtins(ClassifyResponse(bundle.manifest.version, bundle.taxonomy.hash, results))
    post = paths["/v1/classify"]["post"]
    post["requestBody"] = {
        "required": True,
        "content": {
            _JSON: {"schema": reference[ClassifyRequest], "example": {"paragraphs": [text]}},
            "text/plain": {"schema": {"type": "string"}, "example": text},
        },
    }
    post["responses"]["200"]["content"][_JSON]["example"] = answer
    line = {"line": 1, "id": "a", "model": answer["model"], "result": {**answer["results"][0], "id": "a"}}
    post = paths["/v1/classify/stream"]["post"]
    post["parameters"] = _query(_STREAM_PARAMETERS)
    post["requestBody"] = {
        "required": True,
        "content": {
            stream.MEDIA_TYPE: {
                "schema": {"anyOf": [{"type": "string"}, reference[ParagraphIn]]},
                "example": {"id": "a", "text": text},
            }
        },
    }
    post["responses"]["200"]["content"][stream.MEDIA_TYPE]["example"] = line
