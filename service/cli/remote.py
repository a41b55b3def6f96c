"""A training on a service elsewhere: asked for, and watched, over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO, Any

from models.errors import StanceryError

_ENDED = "end"


class RemoteError(StanceryError):
    """A service that cannot be reached, or that refuses."""


def start(url: str, key: str | None, request: dict[str, Any]) -> dict[str, Any]:
    """Ask for a training; return the job.

    Raises
    ------
    RemoteError
    """
    with _open(url, "/v1/trainings", key, json.dumps(request).encode()) as response:
        return dict(json.load(response))


def watch(url: str, key: str | None, id: str) -> Iterator[dict[str, Any]]:
    """Yield the job whenever it has moved, at last as it ended.

    Raises
    ------
    RemoteError
        If the service goes away meanwhile; the training may still run.
    """
    event = ""
    try:
        with _open(url, f"/v1/trainings/{id}/events", key) as response:
            for line in response:
                name, _, value = line.decode().strip().partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    yield json.loads(value)
                    if event == _ENDED:
                        return
    except OSError as error:
        raise RemoteError(f"{url}: broke off ({error}); training {id} may still run there") from error
    raise RemoteError(f"{url}: broke off; training {id} may still run there")


def _open(url: str, path: str, key: str | None, body: bytes | None = None) -> IO[bytes]:
    if not url.startswith(("http://", "https://")):
        raise RemoteError(f"{url}: must begin with http:// or https://")
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url.rstrip("/") + path, body, headers)
    try:
        response: IO[bytes] = urllib.request.urlopen(request, timeout=60)
        return response
    except urllib.error.HTTPError as error:
        with error:
            try:
                detail = json.load(error)["detail"]
            except (ValueError, KeyError, TypeError):
                detail = error.reason
        raise RemoteError(f"{url}: {error.code}: {detail}") from None
    except OSError as error:
        raise RemoteError(f"{url}: cannot be reached ({getattr(error, 'reason', error)})") from None
