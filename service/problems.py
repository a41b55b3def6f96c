"""Errors as ``application/problem+json`` (RFC 9457): one table from error to status, and never the input in them."""

from __future__ import annotations

import re
from http import HTTPStatus

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from models.errors import InvalidParagraph
from service.store.database import StoreFull, StoreSilent, StoreUnavailable
from service.store.requests import KeyReused

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER = "2"
_AT = re.compile(r"(?P<message>.*?)(?: - at `(?P<path>\$(?:\.[A-Za-z_]+|\[(?:\d+|\.\.\.)\])*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")


class Fault(msgspec.Struct, frozen=True):
    """One thing wrong with a request: the field it is about, and what is wrong and what is allowed."""

    field: str
    message: str


class ProblemBody(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    title: str
    status: int
    detail: str
    errors: list[Fault] = []
    type: str = "about:blank"


class Problem(Exception):
    """An error that goes to whoever asked."""

    def __init__(
        self, status: HTTPStatus, detail: str, faults: list[Fault] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.body = ProblemBody(title=status.phrase, status=int(status), detail=detail, errors=faults or [])
        self.headers = headers or {}

    def response(self) -> Response:
        return Response(msgspec.json.encode(self.body), self.body.status, self.headers, MEDIA_TYPE)


def invalid(field: str, message: str) -> Problem:
    """Return the problem of one field that breaks a rule."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{field}: {message}", [Fault(field, message)])


def undecodable(error: Exception, wanted: type[msgspec.Struct]) -> Problem:
    """Return the problem of a body that is not JSON, or not the JSON that is wanted.

    Parameters
    ----------
    error : Exception
        What msgspec raised.
    wanted : type of Struct
        What the body was to be.
    """
    if isinstance(error, UnicodeDecodeError):
        return Problem(HTTPStatus.BAD_REQUEST, "body: not valid UTF-8", [Fault("body", "not valid UTF-8")])
    if not isinstance(error, msgspec.ValidationError):
        message = "not valid JSON: cut short, a lone surrogate, NaN, Infinity or another thing that JSON has not"
        return Problem(HTTPStatus.BAD_REQUEST, f"body: {message}", [Fault("body", message)])
    match = _AT.fullmatch(str(error))
    assert match is not None
    message, path = match["message"], (match["path"] or "$").removeprefix("$").removeprefix(".")
    if message.startswith("Invalid enum value"):
        message = f"must be one of {', '.join(_values(wanted, path))}"
    elif unknown := _UNKNOWN.fullmatch(message):
        # The name of an unknown field is input too: it is given back only where it looks like a name.
        name = unknown[1] if _NAME.fullmatch(unknown[1]) else "(unnamed)"
        path = f"{path}.{name}" if path else name
        message = "unknown field"
        if path == name:
            message = f"unknown field; allowed are {', '.join(wanted.__struct_fields__)}"
    return invalid(path or "body", message)


def _values(wanted: type[msgspec.Struct], field: str) -> list[str]:
    """Return the values that a field may have, which is of a few."""
    described = msgspec.inspect.type_info(wanted)
    assert isinstance(described, msgspec.inspect.StructType)
    (kind,) = (each.type for each in described.fields if each.encode_name == field)
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    return [str(value) for each in kinds if isinstance(each, msgspec.inspect.LiteralType) for value in each.values]


def answer_to(error: Exception) -> Response | None:
    """Return what an error is answered with, None where it is none of these."""
    match error:
        case Problem():
            return error.response()
        case InvalidParagraph():
            return invalid(error.field, error.message).response()
        case StoreUnavailable():
            status = HTTPStatus.INSUFFICIENT_STORAGE if isinstance(error, StoreFull) else HTTPStatus.SERVICE_UNAVAILABLE
            detail = f"{error}; nothing was changed: send it again"
            if isinstance(error, StoreSilent):
                detail = (
                    f"{error}, and may have stored it: send it again, under the same Idempotency-Key if there was one"
                )
            return Problem(status, detail, headers={"Retry-After": _RETRY_AFTER}).response()
        case KeyReused():
            return Problem(HTTPStatus.CONFLICT, str(error)).response()
        case HTTPException():
            status = HTTPStatus(error.status_code)
            detail = status.description or status.phrase
            return Problem(status, detail, headers=dict(error.headers or {})).response()
    return None


def unexpected() -> Response:
    """Return what an error that nobody expected is answered with."""
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of ours; the log has it").response()


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""

    async def known(_: Request, error: Exception) -> Response:
        found = answer_to(error)
        assert found is not None
        return found

    async def unknown(_: Request, __: Exception) -> Response:
        return unexpected()

    for kind in (Problem, InvalidParagraph, StoreUnavailable, KeyReused, HTTPException):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(Exception, unknown)
