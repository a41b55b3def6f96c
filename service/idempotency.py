"""The ``Idempotency-Key`` header."""

from __future__ import annotations

import re

from fastapi import Request

from service.problems import invalid

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[\x21-\x7e]{1,200}")


def key_of(request: Request) -> str | None:
    """Return the key that a request is to be answered once under, if it has one.

    Raises
    ------
    Problem
        422 if it is blank, too long, or holds more than visible ASCII.
    """
    key = request.headers.get(HEADER)
    if key is not None and not _KEY.fullmatch(key):
        raise invalid("idempotency-key", "must be 1 to 200 visible ASCII characters")
    return key
