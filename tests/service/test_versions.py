"""Which version answers: promoted, rolled back, named, and followed by every worker."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from anyio import CapacityLimiter

from benchmarks.drills.harness import wait_for
from models.bundle import Bundle, load_bundle
from models.errors import StanceryError
from service.access import Keys
from service.follow import Follower
from service.observe import Metrics
from service.serving import Serving, first_bundle
from service.settings import Settings
from service.store import versions
from service.store.database import Database
from tests.code.test_bundle import seal
from tests.conftest import ROOT, Answer, Server, free_port, serving

TEXT = "The kettle by the leaf in town was splendid and fair."


class Two(NamedTuple):
    """A home with two bundles, and what each says of TEXT."""

    home: Path
    first: Bundle
    second: Bundle

    def path(self, bundle: Bundle) -> Path:
        return self.home / "bundles" / bundle.manifest.version


@pytest.fixture(scope="module")
def bundles(shared_small: Callable[..., Path]) -> tuple[Path, Path]:
    return shared_small(), shared_small(seed=1)


@pytest.fixture
def two(bundles: tuple[Path, Path], tmp_path: Path) -> Two:
    home = tmp_path / "home"
    loaded = []
    for path in bundles:
        loaded.append(load_bundle(path))
        shutil.copytree(path, home / "bundles" / loaded[-1].manifest.version)
    found = Two(home, *loaded)
    assert score(found.first) != score(found.second)
    return found


@pytest.fixture
def server(two: Two, tmp_path: Path) -> Iterator[Server]:
    with serving(two.path(two.first), tmp_path / "log", "--workers", "2") as running:
        yield running


def score(bundle: Bundle) -> float:
    return float(bundle.scorer.topic_scores([TEXT])[0, bundle.taxonomy.ids.index("tea")])


def stancery(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "stancery", *arguments], cwd=ROOT, capture_output=True, text=True)


def activate(server: Server, bundle: Bundle) -> Answer:
    return server.request(f"/v1/models/{bundle.manifest.version}/activate", b"", method="POST")


def answers(server: Server, bundle: Bundle) -> bool:
    """Tell whether twenty answers in a row, each over a connection of its own, are that version's."""
    for _ in range(20):
        answer = server.post("/v1/classify", {"paragraphs": [TEXT], "topics": ["tea"]}).json
        if answer["model"] != bundle.manifest.version:
            return False
        (topic,) = [each for each in answer["results"][0]["topics"] if each["topic"] == "tea"]
        assert topic["score"] == score(bundle)
    return True


def follows(server: Server, bundle: Bundle, seconds: float = 2.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answers(server, bundle):
            return True
    return False


def states(server: Server) -> dict[str, str]:
    return {model["version"]: model["state"] for model in server.request("/v1/models").json["models"]}


def test_promotion_and_rollback_by_command_and_by_call(two: Two, server: Server) -> None:
    first, second = two.first.manifest.version, two.second.manifest.version
    assert states(server) == {first: "active"} and answers(server, two.first)
    assert activate(server, two.second).status == 404
    done = stancery("models", "activate", second, "--home", str(two.home))
    assert done.returncode == 0, done.stderr
    assert follows(server, two.second)
    assert states(server) == {first: "retired", second: "active"}
    assert activate(server, two.first).json["state"] == "active"
    assert follows(server, two.first)
    assert states(server) == {first: "active", second: "retired"}
    listed = stancery("models", "list", "--home", str(two.home)).stdout
    assert f"{first}  active" in listed and f"{second}  retired" in listed
    assert stancery("models", "activate", "none", "--home", str(two.home)).returncode == 2


def test_requests_meanwhile_are_answered_by_the_one_or_the_other(two: Two, server: Server) -> None:
    assert stancery("models", "activate", two.second.manifest.version, "--home", str(two.home)).returncode == 0
    assert follows(server, two.second)
    over = threading.Event()

    def ask(**options: Any) -> set[tuple[str, float]]:
        body = json.dumps({"paragraphs": [TEXT], **options})
        found = set()
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
            while not over.is_set():
                connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                assert answer.status == 200
                told = json.load(answer)
                found.add((told["model"], told["results"][0]["topics"][0]["score"]))
        return found

    with ThreadPoolExecutor() as pool:
        # Where topics are named a request takes the long way.
        asking = [pool.submit(ask), pool.submit(ask, topics=["tea"])]
        try:
            for bundle in (two.first, two.second) * 3:
                assert activate(server, bundle).status == 200
                assert follows(server, bundle)
        finally:
            over.set()
    both = {(bundle.manifest.version, score(bundle)) for bundle in (two.first, two.second)}
    assert [each.result() for each in asking] == [both, both]


def test_a_request_may_name_a_version(two: Two, server: Server) -> None:
    stancery("models", "activate", two.second.manifest.version, "--home", str(two.home))
    assert follows(server, two.second)
    asked = {"paragraphs": [TEXT], "topics": ["tea"], "model": two.first.manifest.version}
    for _ in range(10):
        answer = server.post("/v1/classify", asked).json
        assert answer["model"] == two.first.manifest.version
        assert answer["results"][0]["topics"][0]["score"] == score(two.first)
    line = server.request(f"/v1/classify/stream?model={two.first.manifest.version}", b'"The kettle."').json
    assert line["model"] == two.first.manifest.version
    refused = server.post("/v1/classify", {**asked, "model": "none"})
    assert refused.status == 422 and "GET /v1/models" in refused.json["detail"]


def test_a_damaged_version_does_not_take_over(two: Two, server: Server) -> None:
    stancery("models", "activate", two.second.manifest.version, "--home", str(two.home))
    assert follows(server, two.second)
    with (two.path(two.first) / "weights.safetensors").open("r+b") as file:
        file.seek(200)
        file.write(b"\0\1\2\3")
    refused = activate(server, two.first)
    assert refused.status == 409 and "damaged" in refused.json["detail"]
    time.sleep(1)
    assert answers(server, two.second)
    ready = server.request("/readyz")
    assert (ready.status, ready.json["status"], ready.json["model"]) == (200, "degraded", two.second.manifest.version)
    assert "could not take over" in ready.json["reason"] and str(two.home) not in ready.json["reason"]
    assert str(two.home) in server.log.read_text()
    assert states(server)[two.second.manifest.version] == "active"
    assert activate(server, two.second).status == 200
    time.sleep(1)
    assert server.request("/readyz").json["status"] == "ok"


def test_a_version_that_breaks_after_it_was_chosen_leaves_the_old_one_serving(two: Two, server: Server) -> None:
    """As where a folder was lost between the service that activated and the one that follows."""
    assert answers(server, two.first)
    database = Database(None, two.home)
    manifest = two.second.manifest
    with database.writing() as connection:
        versions.register(connection, manifest, two.home / "bundles" / "gone", two.home)
        versions.activate(connection, manifest.version, "test")
    database.close()
    time.sleep(1.5)
    assert answers(server, two.first)
    ready = server.request("/readyz").json
    assert ready["status"] == "degraded" and manifest.version in ready["reason"]
    assert str(two.home) not in ready["reason"]


def settings(two: Two, **more: object) -> Settings:
    return Settings(home=two.home, bundle=two.path(two.first), **more)  # type: ignore[arg-type]  # of any type


def test_a_start_serves_what_the_store_says_or_the_nearest_to_it(two: Two) -> None:
    database = Database(None, two.home)
    assert first_bundle(settings(two), database).manifest.version == two.first.manifest.version
    with database.writing() as connection:
        versions.register(connection, two.second.manifest, two.path(two.second), two.home)
        versions.activate(connection, two.second.manifest.version, "test")
    assert first_bundle(settings(two), database).manifest.version == two.second.manifest.version
    (two.path(two.second) / "vocabulary.json").write_bytes(b"{}")
    assert first_bundle(settings(two), database).manifest.version == two.first.manifest.version
    shutil.rmtree(two.path(two.first))
    with pytest.raises(StanceryError, match="damaged"):
        first_bundle(settings(two), database)
    database.close()


def test_a_start_without_its_database_serves_what_served_last(two: Two, tmp_path: Path) -> None:
    with serving(two.path(two.first), tmp_path / "log") as server:
        activated = stancery("models", "activate", two.second.manifest.version, "--home", str(two.home))
        assert activated.returncode == 0 and follows(server, two.second)
    away = "postgresql://nobody@127.0.0.1:9/none"
    with serving(two.path(two.first), tmp_path / "log", "--database-url", away) as server:
        assert answers(server, two.second)
        ready = server.request("/readyz").json
        assert ready["status"] == "degraded" and "database" in ready["reason"]
        refused = server.post("/v1/annotations", {"annotations": [{"text": "x", "topics": {}}]})
        assert refused.status == 503 and refused.headers["retry-after"] == "2"


def test_a_bundle_that_was_replaced_does_not_pass_for_the_old_one(two: Two, tmp_path: Path) -> None:
    home = tmp_path / "other"
    with serving(two.path(two.first), tmp_path / "log0", "--home", str(home)) as server:
        assert server.request("/readyz").json["model"] == two.first.manifest.version
    place = home / "bundles" / two.first.manifest.version
    shutil.rmtree(place)
    shutil.copytree(two.path(two.second), place)
    with serving(two.path(two.second), tmp_path / "log1", "--home", str(home)) as server:
        end = time.monotonic() + 5
        while (ready := server.request("/readyz").json)["status"] == "ok" and time.monotonic() < end:
            time.sleep(0.1)
        assert ready["status"] == "degraded" and two.first.manifest.version in ready["reason"]


def test_a_version_that_is_damaged_cannot_be_named(two: Two, server: Server) -> None:
    version = two.second.manifest.version
    with Database(None, server.log.parent / "home").writing() as connection:
        versions.register(connection, two.second.manifest, two.path(two.second), two.home, "rejected")
        assert versions.find(connection, version).state == "rejected"
        versions.register(connection, two.second.manifest, two.path(two.second), two.home)
        assert versions.find(connection, version).state == "candidate"
    (two.path(two.second) / "taxonomy.json").write_text("{}")
    answer = server.post("/v1/classify", {"text": TEXT, "model": version})
    assert answer.status == 409 and "damaged" in answer.json["detail"]
    assert server.post("/v1/classify", {"text": TEXT}).status == 200


def test_a_service_outlives_the_shell_that_started_it(two: Two, tmp_path: Path) -> None:
    port, home = free_port(), two.home
    serve = f"{sys.executable} -m stancery serve --home {home} --port {port} > {tmp_path / 'log'} 2>&1"
    command = ["sh", "-c", f"{serve} & echo $!; read line"]
    shell = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())

    def is_ready() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
            return bool(answer.status == 200)
        return False

    try:
        wait_for(is_ready, 60, "a service that is ready")
        shell.communicate("\n")
        # Longer than a worker takes to see that its supervisor is gone.
        time.sleep(2.5)
        assert is_ready()
    finally:
        os.kill(pid, signal.SIGTERM)


def test_a_damaged_bundle_is_not_made_active(two: Two, tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "fresh", tmp_path / "image"
    shutil.copytree(two.path(two.first), elsewhere)
    sound = (elsewhere / "weights.safetensors").read_bytes()
    (elsewhere / "weights.safetensors").write_bytes(sound[:-1])
    database, asked = Database(None, home), Settings(home=home, bundle=elsewhere)
    with pytest.raises(StanceryError, match="damaged"):
        first_bundle(asked, database)
    with database.reading() as connection:
        assert versions.wanted(connection) is None and not list(home.glob("bundles/*"))
    (elsewhere / "weights.safetensors").write_bytes(sound)
    assert first_bundle(asked, database).manifest.version == two.first.manifest.version
    database.close()


def test_a_bundle_that_scores_otherwise_than_it_says_does_not_serve(two: Two, tmp_path: Path) -> None:
    lying = tmp_path / "lying"
    shutil.copytree(two.path(two.first), lying)

    def tell_otherwise(manifest: dict[str, Any]) -> None:
        manifest["canaries"][0]["topics"][0] += 0.1

    seal(lying, tell_otherwise)
    database = Database(None, tmp_path / "fresh")
    with pytest.raises(StanceryError, match="canary"):
        first_bundle(Settings(home=tmp_path / "fresh", bundle=lying), database)
    database.close()


def test_a_bundle_that_was_moved_is_activated_where_it_lies(two: Two) -> None:
    database = Database(None, two.home)
    first_bundle(settings(two), database)
    moved = two.home / "bundles" / "moved"
    two.path(two.first).rename(moved)
    os.utime(moved / "manifest.json", (2e9, 2e9))
    done = stancery("models", "activate", "newest", "--home", str(two.home))
    assert done.returncode == 0, done.stderr
    assert first_bundle(settings(two), database).path == moved
    database.close()


def test_a_bundle_from_elsewhere_is_brought_home_and_outlives_its_source(two: Two, tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "image"
    shutil.copytree(two.path(two.first), elsewhere)
    database = Database(None, home)
    asked = Settings(home=home, bundle=elsewhere)
    assert first_bundle(asked, database).manifest.version == two.first.manifest.version
    shutil.rmtree(elsewhere)
    shutil.copytree(two.path(two.second), elsewhere)
    assert first_bundle(asked, database).manifest.version == two.first.manifest.version
    brought = {path.name for path in (home / "bundles").iterdir()}
    assert brought == {two.first.manifest.version, two.second.manifest.version}
    database.close()


def test_of_the_versions_that_are_named_the_one_unasked_for_longest_goes(
    two: Two, shared_small: Callable[..., Path]
) -> None:
    paths = [two.path(two.second), shared_small(seed=2), shared_small(seed=3)]
    names = [load_bundle(path).manifest.version for path in paths]
    serving = Serving(two.first, Settings(home=two.home), Metrics())
    for name, path in zip(names[:2], paths, strict=False):
        serving.load(name, path)
    assert serving.in_memory(names[0]) is not None
    serving.load(names[2], paths[2])
    assert [serving.in_memory(name) is not None for name in names] == [True, False, True]


def test_what_was_loaded_while_another_was_chosen_does_not_take_over(two: Two) -> None:
    settings = Settings(home=two.home)
    database = Database(None, two.home)
    serving = Serving(first_bundle(settings, database), settings, Metrics())
    before = serving.version
    other = two.first if before == two.second.manifest.version else two.second
    with database.writing() as connection:
        versions.register(connection, other.manifest, two.path(other), two.home)
        versions.activate(connection, other.manifest.version, "ann")
        stale = versions.wanted(connection)
        assert stale is not None
        versions.activate(connection, before, "bob")
    keys = Keys(anonymous=True, own_name=False, admin_key=None, per_minute=1.0, share=1)
    follower = Follower(settings, database, serving, keys, CapacityLimiter(1))
    asyncio.run(follower._follow(stale))
    assert serving.version == before
