"""The HTTP API, over a real socket to a real process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import io
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Bundle
from models.examples import Example
from service.observe import Metrics, RequestLog, log
from tests.conftest import ROOT, Server, serving

DIALOGUE = (
    "We are in favour of continuing the dialogue with Washington and of moving on to the irritants in Russia-US "
    "relations, since regular contacts meet the interests of both countries, Ryabkov said."
)
RAIN = "Rain is expected along the coast until Thursday, with gusts of up to 20 metres a second."


def test_an_article_comes_back_paragraph_by_paragraph(server: Server, bundle: Bundle) -> None:
    article = f"{DIALOGUE}\n\n{RAIN}\n"
    answer = server.post("/v1/classify", {"text": article})
    assert answer.status == 200
    assert answer.json["model"] == bundle.manifest.version
    assert answer.json["taxonomy"] == bundle.taxonomy.hash
    first, second = answer.json["results"]
    assert article[first["start"] : first["end"]] == first["text"] == DIALOGUE
    assert [first["id"], second["id"]] == ["p1", "p2"]
    assert first["decision"] == "on_topic" and second["decision"] == "off_topic"
    topic = first["topics"][0]
    assert topic["topic"] == "bilateral_dialogue" and topic["decision"] == "present"
    assert topic["stance"]["label"] == "favor" and topic["evidence"]
    for span in topic["evidence"] + topic["stance"]["evidence"]:
        assert DIALOGUE[span["start"] : span["end"]] == span["text"]


def test_the_readme_tells_the_truth(server: Server) -> None:
    readme = (ROOT / "README.md").read_text()
    request, printed = re.findall(r"-d '(\{.*?\})'\n```.*?```json\n(\{.*?\})\n```", readme, re.DOTALL)[0]
    expected = json.loads(printed)
    answer = server.request("/v1/classify", request.encode(), {"Content-Type": "application/json"}).json

    def agree(one: Any, other: Any) -> bool:
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(agree(one[key], other[key]) for key in one)
        if isinstance(one, list):
            return len(one) == len(other) and all(map(agree, one, other))
        return abs(one - other) < 0.01 if isinstance(one, float) else bool(one == other)

    assert agree(expected["results"], answer["results"])


def test_plain_text_is_an_article_too(server: Server) -> None:
    posted = server.request("/v1/classify", f"{DIALOGUE}\r\n{RAIN}".encode(), {"Content-Type": "text/plain"})
    assert [result["text"] for result in posted.json["results"]] == [DIALOGUE, RAIN]


def test_paragraphs_keep_their_names_and_their_order(server: Server) -> None:
    answer = server.post("/v1/classify", {"paragraphs": [RAIN, {"id": "mine", "text": DIALOGUE}, {"text": RAIN}]})
    assert [result["id"] for result in answer.json["results"]] == ["p1", "mine", "p3"]
    assert all("text" not in result for result in answer.json["results"])


def test_options(server: Server, bundle: Bundle) -> None:
    (result,) = server.classify(RAIN, topics=["energy"], explain=True, model=bundle.manifest.version)
    (topic,) = result["topics"]
    assert (topic["topic"], topic["decision"]) == ("energy", "absent")
    assert "bias" in topic and "bias" in topic["stance"]
    assert abs(sum(topic["stance"][name] for name in ("favor", "against", "neutral")) - 1) < 1e-9


def test_the_service_gives_the_scores_of_the_library(server: Server, bundle: Bundle, seeds: list[Example]) -> None:
    texts = [example.text for example in seeds[:200]]
    for text, result in zip(texts, server.classify(*texts), strict=True):
        index = {name: place for place, name in enumerate(bundle.taxonomy.ids)}
        for topic in result["topics"]:
            expected = bundle.scorer.topic_scores([text])[0, index[topic["topic"]]]
            assert topic["score"] == pytest.approx(expected, abs=1e-12)


def test_taxonomy_models_health_and_metrics(server: Server, bundle: Bundle) -> None:
    taxonomy = server.request("/v1/taxonomy").json
    assert [topic["id"] for topic in taxonomy["topics"]] == list(bundle.taxonomy.ids)
    assert taxonomy["topics"][0]["proposition"] == "Crimea is legitimately part of Russia."
    (summary,) = server.request("/v1/models").json["models"]
    assert summary["state"] == "active" and re.fullmatch(r"0\.\d+ \[.*\]", summary["metrics"]["topic macro-F1"])
    detail = server.request(f"/v1/models/{summary['version']}").json
    assert detail["card"].startswith(f"# {summary['version']}") and detail["manifest"]["format"] == 1
    assert server.request("/v1/models/none").status == 404
    assert server.request("/healthz").json["status"] == "ok"
    assert server.request("/readyz").json["model"] == summary["version"]
    server.classify(DIALOGUE)
    metrics = server.request("/metrics").body.decode()
    assert re.search(r'stancery_requests_total{method="POST",route="/v1/classify",status="200"} \d', metrics)
    assert re.search(r'stancery_topics_total{stance="favor",topic="bilateral_dialogue"} \d', metrics)
    assert f'stancery_model{{version="{summary["version"]}"}} 1.0' in metrics


def test_the_docs_page_needs_nothing_from_outside_and_its_examples_are_true(server: Server) -> None:
    page = server.request("/docs").body.decode()
    assert "://" not in re.sub(r"<!--.*?-->", "", page)
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        assert server.request(path).status == 200
    document = server.request("/openapi.json").json
    post = document["paths"]["/v1/classify"]["post"]
    example = post["requestBody"]["content"]["application/json"]["example"]
    assert (
        server.post("/v1/classify", example).json == post["responses"]["200"]["content"]["application/json"]["example"]
    )
    post = document["paths"]["/v1/classify/stream"]["post"]
    line = post["requestBody"]["content"]["application/x-ndjson"]["example"]
    answer = server.request("/v1/classify/stream", json.dumps(line).encode()).json
    assert answer == post["responses"]["200"]["content"]["application/x-ndjson"]["example"]
    assert {"/v1/taxonomy", "/v1/models", "/v1/models/{version}", "/healthz", "/readyz"} <= set(document["paths"])


def test_every_schema_reference_of_the_openapi_document_resolves(server: Server) -> None:
    document = server.request("/openapi.json").json
    found = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document))
    assert found
    assert set(found) <= set(document["components"]["schemas"])


def test_one_json_log_line_a_request_with_no_text_in_it(bundle_path: Path, tmp_path: Path) -> None:
    with serving(bundle_path, tmp_path / "log") as server:
        before = len(server.log.read_text().splitlines())
        server.classify("Zebrafinch diplomacy: " + DIALOGUE)
        server.request("/v1/zebrafinch?zebrafinch=1", b"{}")
        server.post("/v1/classify", {"zebrafinch": "zebrafinch"})
        time.sleep(0.2)
        lines = [json.loads(line) for line in server.log.read_text().splitlines()[before:]]
    # The line of the last readiness probe may come after its answer.
    requests = [line for line in lines if line["message"] == "request" and line["route"] != "/readyz"]
    assert [(line["route"], line["status"]) for line in requests] == [
        ("/v1/classify", 200),
        ("(none)", 404),
        ("/v1/classify", 422),
    ]
    assert requests[0]["paragraphs"] == 1 and requests[0]["milliseconds"] > 0
    assert "zebrafinch" not in (tmp_path / "log").read_text().lower()


def test_answers_belong_to_their_requests_under_load(server: Server, seeds: list[Example]) -> None:
    texts = [example.text for example in seeds[:120]]
    alone = [server.classify(text)[0]["topics"] for text in texts]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda text: server.classify(text)[0]["topics"], texts))
    assert together == alone


def test_a_stop_answers_what_is_in_flight(bundle_path: Path, seeds: list[Example], tmp_path: Path) -> None:
    texts = [example.text for example in seeds[:1000]]
    with serving(bundle_path, tmp_path / "log") as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(server.post, "/v1/classify", {"paragraphs": texts}) for _ in range(8)]
        # By the first answer all have come, and most wait for their turn.
        next(concurrent.futures.as_completed(answers))
        server.process.send_signal(signal.SIGTERM)
        assert [len(answer.result(60).json["results"]) for answer in answers] == [len(texts)] * 8
        assert server.process.wait(20) in {0, -signal.SIGTERM}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: (path / "weights.safetensors").write_bytes(b"x"), "does not match its digest"),
        (lambda path: (path / "vocabulary.json").unlink(), "cannot be read"),
    ],
)
def test_a_damaged_bundle_is_refused_at_start(
    shared_small: Callable[..., Path], tmp_path: Path, change: Callable[[Path], Any], reason: str
) -> None:
    path = shutil.copytree(shared_small(), tmp_path / "bundle")
    change(path)
    command = [sys.executable, "-m", "stancery", "serve", "--bundle", str(path), "--home", str(tmp_path / "home")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert reason in run.stderr


def test_a_line_of_the_log_that_cannot_be_written_is_lost_and_the_next_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(text)

    async def answer(requests: RequestLog) -> None:
        requests.end(requests.begin({}), "POST", "/v1/classify", 200, 1, is_whole=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def three() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        requests = RequestLog(Metrics())
        await answer(requests)
        disk.full = False
        await answer(requests)
        await answer(requests)

    disk = Disk()
    monkeypatch.setattr(sys, "stdout", disk)
    before = log.level
    log.setLevel(logging.INFO)
    try:
        asyncio.run(three())
    finally:
        log.setLevel(before)
    assert disk.getvalue().count("\n") == 2
