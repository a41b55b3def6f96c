"""``POST /v1/classify``: from a body to results."""

from __future__ import annotations

from email.message import Message
from http import HTTPStatus

import msgspec

from models.bundle import Bundle
from models.paragraphs import split_paragraphs, text_fault
from models.results import Result
from service.context import Service
from service.problems import Fault, Problem, invalid, undecodable
from service.schemas import ClassifyRequest, ClassifyResponse, ParagraphIn
from service.settings import Settings

MAX_ID_CHARS = 256
_CHARSETS = ("utf-8", "utf8", "us-ascii")
_decoder = msgspec.json.Decoder(ClassifyRequest)


def decode(body: bytes, content_type: str) -> ClassifyRequest:
    """Read a request: JSON, or an article as plain text.

    Raises
    ------
    Problem
        400 if it cannot be read, 415 if it says that it is in another encoding, 422 if it is JSON of another shape.
    """
    if content_type.partition(";")[0].strip().lower() == "text/plain":
        header = Message()
        header["content-type"] = content_type
        if header.get_content_charset("utf-8") not in _CHARSETS:
            detail = "content-type: only the charsets utf-8 and us-ascii are allowed"
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
        try:
            return ClassifyRequest(text=body.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise undecodable(error, ClassifyRequest) from None
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise undecodable(error, ClassifyRequest) from None


def answer(service: Service, bundle: Bundle, request: ClassifyRequest) -> tuple[bytes, int]:
    """Return the body of the answer, and how many paragraphs it is about; they are counted. Raises as `classify`."""
    given = classify(bundle, request, service.settings)
    service.metrics.count(given.results)
    return msgspec.json.encode(given), len(given.results)


def classify(bundle: Bundle, request: ClassifyRequest, settings: Settings) -> ClassifyResponse:
    """Check a request and label its paragraphs, for an answer in JSON.

    Raises
    ------
    Problem
        422 naming every paragraph at fault, or the option at fault.
    """
    bundle.scorer.check_topics(request.topics)
    if request.topics:
        request = msgspec.structs.replace(request, topics=list(dict.fromkeys(request.topics)))
    if (request.text is None) == (request.paragraphs is None):
        raise invalid("text", "either text or paragraphs is needed, and not both")
    if request.explain and (length := _length(request)) > settings.max_explained_chars:
        limit = settings.max_explained_chars
        raise invalid("explain", f"{length:,} characters of text; at most {limit:,} are explained in one request")
    results = (
        _article(bundle, request.text, request, settings)
        if request.text is not None
        else _paragraphs(bundle, request.paragraphs or [], request, settings)
    )
    return ClassifyResponse(bundle.manifest.version, bundle.manifest.taxonomy_hash, results)


def _length(request: ClassifyRequest) -> int:
    if request.text is not None:
        return len(request.text)
    return sum(len(item if isinstance(item, str) else item.text) for item in request.paragraphs or [])


def paragraph_fault(text: str, settings: Settings) -> str | None:
    """Say why a paragraph cannot be taken, or return None."""
    if len(text) > settings.max_paragraph_chars:
        return f"longer than {settings.max_paragraph_chars:,} characters, which is the limit for a paragraph"
    return text_fault(text)


def id_fault(id: str | None) -> str | None:
    """Say why a paragraph's id cannot be taken, or return None."""
    return f"longer than {MAX_ID_CHARS} characters, which is the limit" if id and len(id) > MAX_ID_CHARS else None


def _article(bundle: Bundle, text: str, request: ClassifyRequest, settings: Settings) -> list[Result]:
    if fault := text_fault(text):
        raise invalid("text", fault)
    paragraphs = split_paragraphs(text)
    _check_count("text", len(paragraphs), settings)
    faults = [
        Fault(f"text, paragraph {number}", fault)
        for number, paragraph in enumerate(paragraphs, 1)
        if (fault := paragraph_fault(paragraph.text, settings))
    ]
    _raise(faults)
    return bundle.scorer.classify_article(paragraphs, topics=request.topics, explain=request.explain, encoded=True)


def _paragraphs(
    bundle: Bundle, given: list[str | ParagraphIn], request: ClassifyRequest, settings: Settings
) -> list[Result]:
    if not given:
        raise invalid("paragraphs", "empty; at least one is needed")
    _check_count("paragraphs", len(given), settings)
    items = [item if isinstance(item, ParagraphIn) else ParagraphIn(item) for item in given]
    faults = []
    for place, (item, raw) in enumerate(zip(items, given, strict=True)):
        where = f"paragraphs[{place}]"
        if fault := paragraph_fault(item.text, settings):
            faults.append(Fault(where if isinstance(raw, str) else f"{where}.text", fault))
        if fault := id_fault(item.id):
            faults.append(Fault(f"{where}.id", fault))
    _raise(faults)
    return bundle.scorer.classify_all(
        [item.text for item in items],
        ids=[f"p{number}" if item.id is None else item.id for number, item in enumerate(items, 1)],
        topics=request.topics,
        explain=request.explain,
        encoded=True,
    )


def _check_count(field: str, count: int, settings: Settings) -> None:
    if count > settings.max_paragraphs:
        raise invalid(field, f"{count:,} paragraphs; at most {settings.max_paragraphs:,} are allowed in one request")


def _raise(faults: list[Fault]) -> None:
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        detail = f"{faults[0].field}: {faults[0].message}{more}"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, faults)
