"""Trainings asked for, watched, cancelled, judged and lived through, with the real trainer as a child process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from models.bundle import load_bundle
from service import processes
from service.store import corpus, trainings
from service.store.corpus import Incoming
from service.store.database import Database
from tests.conftest import ROOT, Server, serving, write_small

TEXT = "The kettle by the leaf in town was splendid and fair."
ENDED = {"succeeded", "failed", "cancelled", "interrupted"}


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("labels")
    write_small(folder)
    return (folder / "examples.jsonl").read_bytes()


@pytest.fixture
def start(shared_small: Callable[..., Path], tmp_path: Path, labels: bytes) -> Iterator[Callable[..., Server]]:
    """Start a service with labels in its store; again, and it finds what the one before left."""
    running = []

    def make(*arguments: str) -> Server:
        context = serving(shared_small(), tmp_path / f"log{len(running)}", "--home", str(tmp_path / "home"), *arguments)
        server = context.__enter__()
        running.append(context)
        added = server.request("/v1/annotations", labels, {"Content-Type": "application/x-ndjson"})
        assert added.status == 201, added.body
        return server

    yield make
    for context in running:
        context.__exit__(None, None, None)


def ask(server: Server, **request: Any) -> str:
    answer = server.post("/v1/trainings", request)
    assert answer.status == 202, answer.body
    assert answer.headers["location"] == f"/v1/trainings/{answer.json['id']}"
    assert answer.json["state"] == "queued"
    return str(answer.json["id"])


def job(server: Server, id: str) -> dict[str, Any]:
    return dict(server.request(f"/v1/trainings/{id}").json)


def wait(server: Server, id: str, *states: str, seconds: float = 90) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = job(server, id)
        if found["state"] in states:
            return found
        assert found["state"] not in ENDED, found
        time.sleep(0.05)
    raise AssertionError(f"not {states} after {seconds} s: {job(server, id)}")


def trainers(home: Path) -> list[int]:
    """Return the trainers, and their workers, that write below this home."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(home).encode() in (line := (entry / "cmdline").read_bytes()) and b"training" in line:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def states(server: Server) -> dict[str, str]:
    return {model["version"]: model["state"] for model in server.request("/v1/models").json["models"]}


def test_the_whole_loop(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    old = server.request("/readyz").json["model"]
    id = ask(server)
    phases, event, last = [], "", {}
    for line in server.request(f"/v1/trainings/{id}/events").body.decode().splitlines():
        name, _, value = line.partition(": ")
        event = value if name == "event" else event
        if name == "data":
            last = json.loads(value)
            phases.append((event, last["state"], (last["progress"] or {}).get("phase")))
    assert phases[0][:2] == ("progress", "queued") and phases[-1][:2] == ("end", "succeeded")
    # Which ones are seen hangs on how fast the trainer is.
    assert {phase for _, _, phase in phases} - {None, "done"}
    assert last == job(server, id) and last["progress"]["fraction"] == 1.0
    assert last["audit"]["examples"] == 120
    gate = last["gate"]
    assert gate["champion"] == old and gate["challenger"] == last["model"] != old
    assert {check["rows"] for check in gate["checks"]} >= {"held_out", "frozen"}
    assert gate["passed"], gate["reasons"]
    assert "activated" in last["reason"]
    time.sleep(1)
    assert server.post("/v1/classify", {"paragraphs": [TEXT]}).json["model"] == last["model"]
    assert states(server) == {old: "retired", last["model"]: "active"}
    manifest = load_bundle(tmp_path / "home" / "bundles" / last["model"]).manifest
    export = server.request("/v1/annotations").headers["x-examples-hash"]
    assert (manifest.parent, manifest.examples_hash) == (old, export)
    assert server.request(f"/v1/models/{old}/activate", b"").status == 200
    assert server.post("/v1/classify", {"paragraphs": [TEXT]}).json["model"] == old
    assert server.request(f"/v1/models/{last['model']}").json["manifest"]["parent"] == old


def test_a_worse_model_is_rejected_and_the_table_says_why(start: Callable[..., Server], labels: bytes) -> None:
    server = start()
    old = server.request("/readyz").json["model"]
    turned = labels.replace(b'"favor"', b'"x"').replace(b'"against"', b'"favor"').replace(b'"x"', b'"against"')
    sent = server.request("/v1/annotations", turned, {"Content-Type": "application/x-ndjson"})
    assert sent.status == 201 and sent.json["changed"] > 40
    ended = wait(server, ask(server), "succeeded")
    assert not ended["gate"]["passed"] and ended["reason"].startswith("rejected by the gate: stance")
    assert any(check["passed"] is False for check in ended["gate"]["checks"])
    assert states(server) == {old: "active", ended["model"]: "rejected"}
    assert server.post("/v1/classify", {"paragraphs": [TEXT]}).json["model"] == old


def test_promotion_by_hand_and_a_remote_command(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--promote", "manual")
    old = server.request("/readyz").json["model"]
    command = [sys.executable, "-m", "stancery", "train", "--remote", f"http://127.0.0.1:{server.port}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "waits to be activated by hand" in done.stdout and "topic macro-F1" in done.stdout
    assert "%" in done.stderr
    (new,) = states(server).keys() - {old}
    assert states(server) == {old: "active", new: "candidate"}
    (counts,) = (tmp_path / "home" / "cache").iterdir()
    written = counts.stat().st_mtime_ns
    again = wait(server, ask(server), "succeeded")
    assert again["model"] == new
    assert counts.stat().st_mtime_ns == written, "texts that were counted before were counted again"
    assert not list((tmp_path / "home" / "trainings").iterdir())


def test_a_family_that_needs_a_checkpoint_is_refused_at_once(start: Callable[..., Server]) -> None:
    server = start()
    for family in ("encoder", "tuned", "crossencoder"):
        refused = server.post("/v1/trainings", {"family": family})
        assert refused.status == 409 and "allowed are linear" in refused.json["detail"]
    assert server.request("/v1/trainings").json["trainings"] == []


def test_one_runs_and_the_rest_wait(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--workers", "2")
    first, second, third = ask(server), ask(server), ask(server)
    wait(server, first, "running")
    assert [job(server, id)["state"] for id in (second, third)] == ["queued", "queued"]
    assert server.request(f"/v1/trainings/{third}", method="DELETE").json["state"] == "cancelled"
    began = time.monotonic()
    assert server.request(f"/v1/trainings/{first}", method="DELETE").status == 202
    cancelled = wait(server, first, "cancelled")
    assert time.monotonic() - began < 2 and cancelled["reason"] == "cancelled by anonymous"
    wait(server, second, "running")
    assert server.request(f"/v1/trainings/{second}", method="DELETE").status == 202
    wait(server, second, "cancelled")
    assert server.request(f"/v1/trainings/{second}", method="DELETE").status == 202
    assert trainers(tmp_path / "home") == []
    assert [each["id"] for each in server.request("/v1/trainings").json["trainings"]] == [third, second, first]


def test_a_service_that_dies_leaves_a_job_that_says_so(start: Callable[..., Server], tmp_path: Path) -> None:
    server, home = start(), tmp_path / "home"
    id = ask(server)
    wait(server, id, "running")
    end = time.monotonic() + 20
    while not trainers(home) and time.monotonic() < end:
        time.sleep(0.05)
    assert trainers(home)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    while trainers(home) and time.monotonic() < end:
        time.sleep(0.05)
    assert trainers(home) == []
    server = start()
    assert "ended before it did" in wait(server, id, "interrupted", seconds=5)["reason"]
    assert not list((home / "trainings").iterdir())
    for bundle in (home / "bundles").glob("*"):
        load_bundle(bundle)


def test_a_training_that_its_service_lost_hold_of_is_given_up(start: Callable[..., Server], tmp_path: Path) -> None:
    server, database = start(), Database(None, tmp_path / "home")
    machine = processes.identity().rsplit(" ", 2)[0]
    started = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    # As if the claim had been committed after the service stopped waiting for it.
    with database.writing() as connection:
        id = trainings.create(connection, "linear", 0, "ann").id
        assert trainings.claim(connection, f"{machine} {server.process.pid} {started}") is not None
    database.close()
    wait(server, id, "interrupted", seconds=5)
    wait(server, ask(server), "running", "succeeded")


def test_what_an_ended_training_left_is_removed(start: Callable[..., Server], tmp_path: Path) -> None:
    server, database = start(), Database(None, tmp_path / "home")
    with database.writing() as connection:
        ids = [trainings.create(connection, "linear", 0, "ann").id for _ in range(2)]
        claimed = trainings.claim(connection, "elsewhere 1 1")
        assert claimed is not None
        trainings.finish(connection, claimed.id, "interrupted", reason="")
        assert trainings.claim(connection, "elsewhere 1 1") is not None
    database.close()
    server.process.terminate()
    server.process.wait(30)
    folders = [tmp_path / "home" / "trainings" / id for id in (*ids, "not-ours")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    start()
    end = time.monotonic() + 5
    while folders[0].exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_labels_that_the_taxonomy_has_no_topic_for_are_left_out(start: Callable[..., Server], tmp_path: Path) -> None:
    server, database = start(), Database(None, tmp_path / "home")
    said = [
        Incoming(text="A dog barked at the kettle.", topics={"dogs": None, "tea": "neutral"}, annotator="ann"),
        Incoming(text="A dog barked.", topics={"dogs": "favor"}, annotator="ann"),
    ]
    with database.writing() as connection:
        corpus.add(connection, said, "test")
    database.close()
    ended = wait(server, ask(server), "succeeded")
    assert ended["audit"]["examples"] == 121 and "2 labels of topics" in ended["reason"]


def test_a_watcher_does_not_hold_up_a_stop(start: Callable[..., Server]) -> None:
    server = start()
    id = ask(server)
    wait(server, id, "running")
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(server.request, f"/v1/trainings/{id}/events")
        time.sleep(0.5)
        begin = time.monotonic()
        server.process.terminate()
        server.process.wait(30)
        assert time.monotonic() - begin < 8
        assert watching.exception() is not None or b"event: end" not in watching.result().body


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_trainer_that_memory_ended_is_said_to(
    start: Callable[..., Server], tmp_path: Path, number: signal.Signals
) -> None:
    trainer = tmp_path / "trainer"
    trainer.write_text(f"#!/bin/sh\nkill -{number.value} $$\n")
    trainer.chmod(0o755)
    server = start("--trainer", str(trainer))
    reason = wait(server, ask(server), "failed")["reason"]
    assert number.name in reason and "memory" in reason


def test_a_failure_says_why(start: Callable[..., Server]) -> None:
    # Where OpenBLAS finds no room to begin with, it tries for ever.
    for megabytes in (64, 120, 200):
        server = start("--train-memory-mb", str(megabytes))
        assert "out of memory" in wait(server, ask(server), "failed")["reason"]
        server.process.terminate()
    server = start("--trainer", "/nowhere/python")
    assert "/nowhere/python cannot be started" in wait(server, ask(server), "failed")["reason"]
    server.process.terminate()
    server = start("--train-seconds", "1")
    assert "--train-seconds" in wait(server, ask(server), "failed")["reason"]


def test_what_is_no_request_for_a_training_is_refused(shared_small: Callable[..., Path], tmp_path: Path) -> None:
    with serving(shared_small(), tmp_path / "log") as server:
        assert server.post("/v1/trainings", {}).status == 409
        for body in (b'{"family": "Qzxjw"}', b'{"seed": -1}', b'{"speed": 1}', b"[]"):
            answer = server.request("/v1/trainings", body, {"Content-Type": "application/json"})
            assert answer.status == 422 and b"Qzxjw" not in answer.body, body
            if b"family" in body:
                assert answer.json["detail"] == "family: must be one of crossencoder, encoder, linear, tuned"
        assert server.request("/v1/trainings", b"{").status == 400
        for path in ("/v1/trainings/none", "/v1/trainings/none/events"):
            assert server.request(path).status == 404
        assert server.request("/v1/trainings/none", method="DELETE").status == 404
        assert server.request("/v1/trainings").json == {"trainings": []}
