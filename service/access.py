"""Who may do what: API keys with scopes, and how often each may ask."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from fastapi import Request

from service.problems import Problem
from service.store.keys import PREFIX, SCOPES, Key, digest_of

ANONYMOUS = "anonymous"
ADMIN = "admin-key"


class Allowance:
    """A token bucket: `per_minute` requests a minute, as many at once after a quiet minute."""

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60
        self._most = self._tokens = max(1.0, per_minute)
        self._then = time.monotonic()

    def take(self) -> float:
        """Take one request's token; return 0, or the seconds until there is one."""
        now = time.monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._then) * self._rate)
        self._then = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


class Holder(NamedTuple):
    """Who asks, and what they may do."""

    name: str
    scopes: frozenset[str]
    allowance: Allowance | None


_ANYBODY = Holder(ANONYMOUS, frozenset(SCOPES), None)


class Keys:
    """The keys as this worker knows them; no request waits for the database to learn who asks.

    Parameters
    ----------
    anonymous : bool
        Whether a request without a key may do everything.
    own_name : bool
        Whether a request without a key must call this machine by a name of loopback.
    admin_key : str, optional
        A key of every scope that the store does not know.
    per_minute : float
        Requests a minute of a key that has no limit of its own.
    share : int
        Workers among which a key's requests are spread: each allows its part.
    """

    def __init__(
        self, *, anonymous: bool, own_name: bool, admin_key: str | None, per_minute: float, share: int
    ) -> None:
        self._anonymous = anonymous
        self._own_name = own_name
        self._admin = digest_of(admin_key) if admin_key else None
        self._per_minute = per_minute
        self._share = share
        self._keys: dict[str, tuple[Key, Holder]] = {}
        self._known = False

    def replace(self, keys: Iterable[Key]) -> None:
        """Take over the keys of the store. One that has not changed keeps what is left of its allowance."""
        before = self._keys
        self._keys = {
            key.id: before[key.id] if key.id in before and before[key.id][0] == key else (key, self._holder(key))
            for key in keys
            if key.revoked is None
        }
        self._known = True

    def _holder(self, key: Key) -> Holder:
        limit = (key.requests_per_minute or self._per_minute) / self._share
        return Holder(key.name, frozenset(key.scopes), Allowance(limit))

    def admit(self, scope: str, method: str, headers: Mapping[str, str], noted: dict[str, Any]) -> None:
        """Let a request through that may do what `scope` names, and note whose it is as ``key``.

        Raises
        ------
        Problem
            401 or 403 where it may not, 429 where its key has asked too often, 503 while keys cannot be read.
        """
        authorization = headers.get("authorization")
        if authorization is None and self._own_name:
            _by_own_name(headers)
        if method not in ("GET", "HEAD"):
            _same_origin(headers)
        holder = self.holder(authorization)
        noted["key"] = holder.name
        if scope not in holder.scopes:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"this needs the scope {scope}; the key has {', '.join(sorted(holder.scopes))}",
            )
        if holder.allowance is not None and (seconds := holder.allowance.take()):
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "the key has used up its requests for now",
                headers={"Retry-After": str(math.ceil(seconds))},
            )

    def holder(self, authorization: str | None) -> Holder:
        """Return who sent an ``Authorization`` header.

        Raises
        ------
        Problem
            401 without a key that is known; 503 while the keys cannot be read.
        """
        if authorization is None:
            if self._anonymous:
                return _ANYBODY
            raise _unauthorized("a key is needed: send the header 'Authorization: Bearer KEY'")
        kind, _, secret = authorization.partition(" ")
        if kind.lower() != "bearer":
            raise _unauthorized("authorization: must be 'Bearer KEY'")
        secret = secret.strip()
        if self._admin and hmac.compare_digest(digest_of(secret), self._admin):
            return Holder(ADMIN, frozenset(SCOPES), None)
        prefix, _, rest = secret.partition("_")
        id, _, own = rest.partition("_")
        key, holder = self._keys.get(id, (None, None))
        # Compared whether or not there is such a key, and in constant time.
        right = hmac.compare_digest(digest_of(own), key.digest if key else digest_of(""))
        if prefix != PREFIX or not right or holder is None:
            if not self._known:
                raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "keys cannot be read now", headers={"Retry-After": "2"})
            raise _unauthorized("the key is not known here, or was revoked")
        return holder


class Needs:
    """A dependency that declares, and demands, a route's scope. None is for routes that anyone may call."""

    def __init__(self, scope: str | None) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> None:
        """Let the request through, or raise what :meth:`Keys.admit` does. One that was let through before is not
        counted again."""
        noted = request.scope["stancery"]
        if self.scope is not None and "key" not in noted:
            keys: Keys = request.app.state.service.keys
            keys.admit(self.scope, request.method, request.headers, noted)


def actor_of(request: Request) -> str:
    """Return the name of whoever sent the request."""
    return str(request.scope["stancery"]["key"])


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _by_own_name(headers: Mapping[str, str]) -> None:
    """On loopback, where no key is needed, refuse to be called by another name than this machine's own.

    A page of any site may have its name resolve to 127.0.0.1, and the browser then takes this service for that site.
    """
    if not _names_loopback(headers.get("host", "")):
        raise Problem(
            HTTPStatus.FORBIDDEN,
            "host: without keys this answers to localhost and loopback addresses alone; behind a proxy that passes "
            "another name on, start it with --require-keys or --allow-anonymous",
        )


@lru_cache(maxsize=256)
def _names_loopback(header: str) -> bool:
    return is_loopback(_host_in(f"//{header}").hostname or "")


def _same_origin(headers: Mapping[str, str]) -> None:
    """Refuse what a page of another site has a browser send: on loopback no key would stop it."""
    origin = headers.get("origin")
    if origin is not None and _host_in(origin).netloc != headers.get("host"):
        raise Problem(HTTPStatus.FORBIDDEN, "origin: pages of other sites may not call this")


def _host_in(url: str) -> SplitResult:
    """Take a URL apart; what is none names no host."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _unauthorized(detail: str) -> Problem:
    return Problem(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})
