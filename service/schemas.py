"""What requests and answers look like. Decoded by msgspec, which is also where the OpenAPI page has them from."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from models.results import Result
from models.taxonomy import Topic
from service.problems import ProblemBody


class ParagraphIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A paragraph with a name of the sender's own, given back with its result."""

    text: str
    id: str | None = None


class ClassifyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either ``text``, an article that is split into its paragraphs, or ``paragraphs``.

    ``topics`` are answered for whether or not they are present. ``explain`` gives every chunk that carries weight and
    the bias, so that they add up to the logit. ``model`` names the version that must answer.
    """

    text: str | None = None
    paragraphs: list[str | ParagraphIn] | None = None
    topics: list[str] = []
    explain: bool = False
    model: str | None = None


class ClassifyResponse(msgspec.Struct, frozen=True):
    """The results in the order of the paragraphs, with the version that scored them and its taxonomy's hash."""

    model: str
    taxonomy: str
    results: list[Result]


class StreamLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a stream's answer: a result, or what is wrong with the line."""

    line: int
    id: str | None
    model: str
    result: Result | None = None
    error: ProblemBody | None = None


class TaxonomyResponse(msgspec.Struct, frozen=True):
    """The topics of the active model, in order."""

    model: str
    taxonomy: str
    topics: tuple[Topic, ...]


class ModelSummary(msgspec.Struct, frozen=True):
    """A model version. ``metrics`` are its headline figures on its held-out part, each with its interval."""

    version: str
    state: Literal["candidate", "active", "retired", "rejected"]
    family: str
    created: str
    taxonomy: str
    metrics: dict[str, str]


class ModelsResponse(msgspec.Struct, frozen=True):
    """The versions that this service has."""

    models: list[ModelSummary]


class ModelDetail(msgspec.Struct, frozen=True):
    """A model version in full: its manifest and its card, Markdown."""

    summary: ModelSummary
    manifest: dict[str, Any]
    card: str


class Health(msgspec.Struct, frozen=True):
    """Whether the service is well."""

    status: Literal["ok", "degraded"]
    model: str | None = None
    reason: str | None = None
