"""Who may do what, over a real socket; the keys are made as people make them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from service.access import Needs, is_loopback
from service.openapi import scopes
from service.routes import ROUTERS
from service.store.keys import SCOPES
from tests.conftest import ROOT, Answer, Server, serving

LABELS = {"annotations": [{"text": "The kettle was splendid and fair.", "topics": {"tea": "favor"}}]}
SECRET = "an-operators-own-secret-of-enough-characters"


def stancery(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stancery", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access") / "home"


@pytest.fixture(scope="module")
def key(home: Path) -> Callable[..., str]:
    def make(name: str, scopes: str, *more: str) -> str:
        done = stancery("keys", "create", name, "--scopes", scopes, "--home", str(home), *more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return make


@pytest.fixture(scope="module")
def desks(key: Callable[..., str]) -> dict[str, str]:
    """A key of each scope."""
    return {scope: key(f"{scope}-desk", scope) for scope in SCOPES}


@pytest.fixture(scope="module")
def guarded(shared_small: Callable[..., Path], home: Path, desks: dict[str, str]) -> Iterator[Server]:
    """A service that needs keys, and knows those of the desks."""
    assert desks
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STANCERY_ADMIN_KEY", SECRET)
        with serving(shared_small(), home.parent / "log", "--home", str(home), "--require-keys") as running:
            patch.undo()
            yield running


def ask(server: Server, path: str, key: str | None, method: str = "GET", body: bytes | None = None) -> Answer:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return server.request(path, body, headers, method)


def undeclared(routers: tuple[APIRouter, ...]) -> list[str]:
    return [
        route.path
        for router in routers
        for route in router.routes
        if not isinstance(route, APIRoute)
        or sum(isinstance(dependency.dependency, Needs) for dependency in route.dependencies) != 1
    ]


def test_every_route_declares_one_scope() -> None:
    assert undeclared(ROUTERS) == []
    careless = APIRouter()
    careless.add_api_route("/v1/careless", lambda: None)
    assert undeclared((careless,)) == ["/v1/careless"]


def test_nothing_is_served_that_is_not_in_the_list(guarded: Server) -> None:
    """What the routers declare is all there is beside the page of the docs."""
    document = guarded.request("/openapi.json").json
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == set(scopes())


@pytest.mark.parametrize(("operation", "scope"), sorted(scopes().items()))
def test_every_route_asks_for_its_scope(
    guarded: Server, desks: dict[str, str], operation: tuple[str, str], scope: str | None
) -> None:
    path, method = operation[0].replace("{id}", "none").replace("{version}", "none"), operation[1].upper()
    without = ask(guarded, path, None, method)
    if scope is None:
        assert without.status == 200
        return
    assert without.status == 401 and without.headers["www-authenticate"] == "Bearer"
    assert ask(guarded, path, f"stancery_{'0' * 12}_wrong", method).status == 401
    for other in SCOPES:
        status = ask(guarded, path, desks[other], method).status
        assert (status == 403) == (other != scope), (other, status)
    assert ask(guarded, path, SECRET, method).status not in (401, 403)


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic abc", "Bearer stancery__", "Bearer \xe9", "bearer x y"])
def test_a_header_that_is_no_key_is_refused(guarded: Server, header: str) -> None:
    assert guarded.request("/v1/models", headers={"Authorization": header}).status == 401


def test_a_right_id_with_a_wrong_secret_is_refused(guarded: Server, desks: dict[str, str]) -> None:
    right = desks["classify"]
    assert ask(guarded, "/v1/models", right[:-1] + ("A" if right[-1] != "A" else "B")).status == 401


def test_labels_carry_the_name_of_the_key(guarded: Server, desks: dict[str, str], home: Path) -> None:
    answer = ask(guarded, "/v1/annotations", desks["label"], "POST", json.dumps(LABELS).encode())
    assert answer.status == 201 and answer.json["new"] == 1
    other = json.dumps(LABELS).replace("favor", "against").encode()
    assert ask(guarded, "/v1/annotations", SECRET, "POST", other).json["conflicting"] == 1
    (conflict,) = ask(guarded, "/v1/annotations/disagreements", SECRET).json["disagreements"]
    assert set(conflict["annotations"]) == {"label-desk", "admin-key"}
    log = (home.parent / "log").read_text()
    assert '"key":"label-desk"' in log and SECRET not in log and desks["label"] not in log


def test_a_key_is_known_soon_after_it_is_made_and_forgotten_soon_after_it_is_revoked(
    guarded: Server, key: Callable[..., str], home: Path
) -> None:
    made = key("visitor", "classify")

    def soon(status: int) -> bool:
        return any(
            ask(guarded, "/v1/models", made).status == status or time.sleep(0.1)  # type: ignore[func-returns-value]  # falsy
            for _ in range(20)
        )

    assert soon(200)
    assert stancery("keys", "revoke", "visitor", "--home", str(home)).returncode == 0
    assert soon(401)
    assert "visitor" in stancery("keys", "list", "--home", str(home)).stdout


def test_a_key_may_ask_so_often(guarded: Server, desks: dict[str, str], key: Callable[..., str]) -> None:
    made = key("eager", "classify", "--requests-per-minute", "5")
    time.sleep(1)
    answers = [ask(guarded, "/v1/models", made) for _ in range(8)]
    assert [answer.status for answer in answers] == [200] * 5 + [429] * 3
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 12
    assert ask(guarded, "/v1/models", desks["classify"]).status == 200


def test_pages_of_other_sites_may_not_change_anything(shared_small: Callable[..., Path], tmp_path: Path) -> None:
    with serving(shared_small(), tmp_path / "log") as server:
        foreign = server.request("/v1/trainings", b"", {"Origin": "https://elsewhere.example"})
        assert foreign.status == 403
        assert server.request("/v1/trainings", b"", {"Origin": "http://[::1"}).status == 403
        own = server.request("/v1/trainings", b"", {"Origin": f"http://127.0.0.1:{server.port}"})
        assert own.status == 409
        assert server.request("/v1/models").status == 200


def test_beyond_loopback_a_key_is_needed_to_start(shared_small: Callable[..., Path], tmp_path: Path) -> None:
    bundle, home = str(shared_small()), str(tmp_path / "home")
    refused = stancery("serve", "--bundle", bundle, "--home", home, "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 1 and "--allow-anonymous" in refused.stderr and "keys create" in refused.stderr
    short = stancery("serve", "--bundle", bundle, "--home", home, STANCERY_ADMIN_KEY="short")
    assert short.returncode == 2 and "32 characters" in short.stderr
    with serving(Path(bundle), tmp_path / "log", "--host", "0.0.0.0", "--allow-anonymous") as server:
        assert server.request("/v1/models").status == 200
    stancery("keys", "create", "desk", "--scopes", "classify", "--home", home)
    with serving(Path(bundle), tmp_path / "log", "--home", home, "--host", "0.0.0.0") as server:
        assert server.request("/v1/models").status == 401


def test_keys_are_checked_when_made(home: Path) -> None:
    for arguments in (["x", "--scopes", "everything"], ["x", "--scopes", ""], [" ", "--scopes", "label"], ["x"]):
        done = stancery("keys", "create", *arguments, "--home", str(home))
        assert done.returncode == 2 and re.search("Error|Usage", done.stderr)


def test_loopback_is_told_from_other_addresses() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org")] == [False] * 4


def test_without_keys_only_this_machines_own_names_are_answered(
    shared_small: Callable[..., Path], tmp_path: Path
) -> None:
    with serving(shared_small(), tmp_path / "log") as server:
        for host, status in (
            ("evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost:1", 200),
            ("[::1]", 200),
            ("[::1", 403),
        ):
            assert server.request("/v1/annotations", headers={"Host": host}).status == status, host
        assert server.request("/readyz", headers={"Host": "evil.example"}).status == 200
