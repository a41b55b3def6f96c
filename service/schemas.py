"""What requests and answers look like, which is also where the OpenAPI page has them from.

msgspec decodes and encodes by them; but for annotations, which ``service.importing`` checks by its own rules, so that
every fault of a batch is named and not the first alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from models.results import Result
from models.taxonomy import Topic
from service.problems import ProblemBody
from service.store.corpus import Conflict
from service.store.trainings import Training


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


class StreamLine(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
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


class ExampleIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of an examples file.

    ``topics`` maps topics to stances, or lists topics without; ``{}`` says off topic. ``document_id`` keeps the
    paragraphs of one document on one side of every split.
    """

    text: str
    topics: dict[str, str | None] | list[str]
    id: str | msgspec.UnsetType = msgspec.UNSET
    speaker: str | None = None
    document_id: str | None = None
    language: str | None = None
    source: str | None = None


class AnnotationIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody says of a paragraph: a line of an examples file, and whose words it is."""

    text: str
    topics: dict[str, str | None] | list[str]
    id: str | None = None
    speaker: str | None = None
    document_id: str | None = None
    language: str | None = None
    source: str | None = None
    annotator: str | None = None


class AnnotationsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch of annotations, taken whole or not at all."""

    annotations: list[AnnotationIn]


class DisagreementsResponse(msgspec.Struct, frozen=True):
    """How many paragraphs annotators disagree on, and the first of them."""

    count: int
    disagreements: list[Conflict]


class TrainingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to train. ``family`` is the active version's if null; an encoder is taken from the active version. ``seed``
    deals documents to folds and draws the intervals."""

    family: Literal["linear", "encoder", "tuned", "crossencoder"] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0


class TrainingsResponse(msgspec.Struct, frozen=True):
    """The latest trainings, newest first."""

    trainings: list[Training]


class ModelSummary(msgspec.Struct, frozen=True):
    """A model version. ``metrics`` are its headline figures on its held-out part, each with its interval."""

    version: str
    state: str
    family: str
    created: str
    parent: str | None
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
