"""The OpenAPI document: schemas straight from the structs that decode and encode, examples scored by the bundle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from models.bundle import Bundle
from service import problems, stream
from service.schemas import (
    ClassifyRequest,
    ClassifyResponse,
    Health,
    ModelDetail,
    ModelsResponse,
    ParagraphIn,
    StreamLine,
    TaxonomyResponse,
)

_JSON = "application/json"
_ANSWERS: dict[tuple[str, str], tuple[str, type]] = {
    ("/v1/classify", "post"): (_JSON, ClassifyResponse),
    ("/v1/classify/stream", "post"): (stream.MEDIA_TYPE, StreamLine),
    ("/v1/taxonomy", "get"): (_JSON, TaxonomyResponse),
    ("/v1/models", "get"): (_JSON, ModelsResponse),
    ("/v1/models/{version}", "get"): (_JSON, ModelDetail),
    ("/healthz", "get"): (_JSON, Health),
    ("/readyz", "get"): (_JSON, Health),
}
_PROBLEMS = {
    "/v1/classify": (400, 413, 415, 422),
    "/v1/classify/stream": (422,),
    "/v1/models/{version}": (404,),
}
_STREAM_PARAMETERS = (
    ("topics", "Topics to answer for whether or not they are present, parted by commas.", {"type": "string"}),
    ("explain", "Give every chunk that carries weight, and the bias.", {"type": "boolean", "default": False}),
    ("model", "The version that must answer.", {"type": "string"}),
)


def describe(app: FastAPI, bundle: Bundle) -> Callable[[], dict[str, Any]]:
    """Return what FastAPI calls for ``/openapi.json``; the document is made at the first call."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, bundle)
        return app.openapi_schema

    return document


def _document(app: FastAPI, bundle: Bundle) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    structs = [ClassifyRequest, ParagraphIn, problems.ProblemBody, *(struct for _, struct in _ANSWERS.values())]
    references, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    reference = dict(zip(structs, references, strict=True))
    document["components"] = {"schemas": components}
    for (path, method), (media_type, struct) in _ANSWERS.items():
        operation = document["paths"][path][method]
        operation["responses"] = {
            "200": {"description": "Success", "content": {media_type: {"schema": reference[struct]}}},
            **{
                str(status): {
                    "description": "What is wrong, and what is allowed",
                    "content": {problems.MEDIA_TYPE: {"schema": reference[problems.ProblemBody]}},
                }
                for status in _PROBLEMS.get(path, ())
            },
        }
    _add_classify(document["paths"], reference, bundle)
    return document


def _add_classify(paths: dict[str, Any], reference: dict[type, dict[str, Any]], bundle: Bundle) -> None:
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
    post["parameters"] = [
        {"name": name, "in": "query", "description": description, "schema": schema}
        for name, description, schema in _STREAM_PARAMETERS
    ]
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
