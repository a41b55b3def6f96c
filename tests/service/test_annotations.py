"""Labels in and out, over a real socket."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.examples import examples_hash, read_examples
from models.taxonomy import read_taxonomy
from tests.conftest import Answer, Server, serving, write_small

CSV = 'text,topic,stance,document_id\nThe leaf was dreadful.,tea,con,d1\n"The cup, too.",tea,pro,d1\n'


@pytest.fixture
def server(shared_small: Callable[..., Path], tmp_path: Path) -> Iterator[Server]:
    with serving(shared_small(), tmp_path / "log") as running:
        yield running


def post(server: Server, value: Any, key: str | None = None, query: str = "") -> Answer:
    headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    return server.request(f"/v1/annotations{query}", json.dumps(value).encode(), headers)


def batch(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"annotations": list(rows)}


def exported(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.request("/v1/annotations").body.splitlines()]


ONE = {"text": "The kettle was splendid.", "topics": {"tea": "pro"}, "id": "one", "speaker": "the mayor"}


def test_a_batch_comes_out_as_an_examples_file(server: Server, tmp_path: Path) -> None:
    answer = post(server, batch(ONE, {"text": "The paw was wet.", "topics": ["cats"]}, {"text": "Rain.", "topics": {}}))
    assert answer.status == 201
    assert (answer.json["received"], answer.json["new"], answer.json["off_topic"]) == (3, 3, 1)
    export = server.request("/v1/annotations")
    assert export.headers["content-type"] == "application/x-ndjson"
    write_small(tmp_path)
    (tmp_path / "out.jsonl").write_bytes(export.body)
    read = read_examples(tmp_path / "out.jsonl", read_taxonomy(tmp_path / "taxonomy.toml"))
    assert [example.topics for example in read] == [{"tea": "favor"}, {"cats": None}, {}]
    assert (read[0].id, read[0].speaker) == ("one", "the mayor")
    assert export.headers["x-examples-hash"] == examples_hash(read)
    unchanged = server.request("/v1/annotations", headers={"If-None-Match": export.headers["etag"]})
    assert (unchanged.status, unchanged.body) == (304, b"")


def test_an_id_that_is_null_is_none(server: Server) -> None:
    assert post(server, batch({"text": "The cup.", "topics": {}, "id": None, "speaker": None})).status == 201
    (row,) = exported(server)
    assert row["id"] and row["text"] == "The cup."


def test_the_same_key_and_body_get_the_same_answer(server: Server) -> None:
    first, again = post(server, batch(ONE), "k1"), post(server, batch(ONE), "k1")
    assert (first.status, first.body) == (again.status, again.body) and first.json["new"] == 1
    assert post(server, batch({**ONE, "topics": {}}), "k1").status == 409
    assert post(server, batch(ONE), "k2").json["duplicate"] == 1
    assert [row["topics"] for row in exported(server)] == [{"tea": "favor"}]


def test_every_fault_is_named_and_nothing_is_taken(server: Server) -> None:
    rows = [ONE, {"text": " ", "topics": {}}, {"text": "x", "topics": {"coffee": "pro"}}, {"text": "x"}]
    rows += [{"text": "x", "topics": {"tea": "maybe"}}, {"text": "x", "topics": {}, "colour": 1}]
    rows += [{"text": "x", "topics": {}, "id": "i" * 300}, {"text": "x", "topics": {}, "annotator": 3}]
    answer = post(server, batch(*rows))
    assert answer.status == 422
    fields = [fault["field"] for fault in answer.json["errors"]]
    for field in ("annotations[1].text", "annotations[2].topics", "annotations[3].topics", "annotations[4].topics.tea"):
        assert field in fields
    assert "annotations[5].colour" in fields and "annotations[7].annotator" in fields
    assert exported(server) == []


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b"", "body", "no labelled file"),
        (b"Rain: it fell.", "body", "no labelled file"),
        (b"\0\1\2" * 9, "body", "not text: "),
        (
            b'{"text": "a", "topics": {}}\n{"text": "' + b"a" * 20_001 + b'", "topics": {}}',
            "line 2",
            "text: longer than",
        ),
        (b"text,topic\n,tea\n", "row 1 (line 2)", "text: "),
    ],
)
def test_a_fault_of_a_file_names_its_place(server: Server, body: bytes, field: str, message: str) -> None:
    answer = server.request("/v1/annotations", body, method="POST")
    (fault,) = answer.json["errors"]
    assert (answer.status, fault["field"]) == (422, field) and fault["message"].startswith(message)


def test_a_fault_of_a_batch_names_its_field(server: Server) -> None:
    rows: list[tuple[dict[str, Any], str, str]] = [
        ({"text": "a" * 20_001}, "text", "longer than 20,000"),
        ({"id": "\0"}, "id", "holds NUL"),
        ({"speaker": "s" * 257}, "speaker", "longer than 256"),
        ({"anotator": "ann"}, "anotator", "source, annotator"),
        ({"a: b": 1}, "(unnamed)", "unknown field"),
        ({"annotator": " "}, "annotator", "must be 1 to 256"),
    ]
    answer = post(server, batch(*({"text": "Rain.", "topics": {}, **row} for row, _, _ in rows)))
    assert answer.status == 422
    for place, (fault, (_, field, message)) in enumerate(zip(answer.json["errors"], rows, strict=True)):
        assert fault["field"] == f"annotations[{place}].{field}" and message in fault["message"]


def test_an_annotator_is_refused_in_the_query_as_in_the_body(server: Server) -> None:
    (told,) = post(server, batch({**ONE, "annotator": " "})).json["errors"]
    for name in ("%20", "", "%00", "a" * 257):
        answer = post(server, batch(ONE), query=f"?annotator={name}")
        assert answer.status == 422 and answer.json["errors"] == [{"field": "annotator", "message": told["message"]}]
    for name in ("%ED%A0%80", "%E9", "%D0"):
        answer = post(server, batch(ONE), query=f"?annotator={name}")
        assert answer.status == 422 and "UTF-8" in answer.json["detail"]
    assert exported(server) == []
    assert post(server, batch(ONE), query="?annotator=%D0%AF").status == 201


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/vnd.api+json", "application/json"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_batch_is_told_by_what_it_holds(server: Server, kind: str, mark: bytes) -> None:
    answer = server.request("/v1/annotations", mark + json.dumps(batch(ONE)).encode(), {"Content-Type": kind})
    assert answer.status == 201 and answer.json["format"] == "annotations"


def test_a_tag_that_is_known_is_not_sent_again(server: Server) -> None:
    post(server, batch(ONE))
    tag = server.request("/v1/annotations").headers["etag"]
    for known in ("*", f"W/{tag}", f'"a, b" ,W/"c",{tag}'):
        assert server.request("/v1/annotations", headers={"If-None-Match": known}).status == 304, known
    for other in ('"*"', tag.strip('"'), f'{tag[:-2]}"'):
        assert server.request("/v1/annotations", headers={"If-None-Match": other}).status == 200, other


def test_an_answer_repeats_little_of_what_is_wrong(server: Server) -> None:
    long = "x" * 100_000
    rows = [{"topics": {long: None}}, {"topics": [[long]]}, {"topics": {"tea": long}}, {"topics": {}, long: 1}]
    for row in rows:
        answer = post(server, batch({"text": "a", **row}))
        assert answer.status == 422 and "xxx…" in answer.json["detail"]
        assert len(answer.body) < 2000
    assert post(server, {long: []}).json["detail"] == "(unnamed): unknown field; allowed are annotations"


def test_what_is_no_batch_is_refused(server: Server) -> None:
    no_json = [b"", b"{", b'{"annotations": [', b'{"annotations": [{"text": NaN}]}', b'{"annotations": ["\\ud800"]}']
    no_batch = [b"[]", b"{}", b'{"annotations": 3}', b'{"annotations": []}', b"\xff\xfe\x00", b"[" * 100_000]
    for status, bodies in (400, no_json), (422, no_batch):
        for body in bodies:
            answer = server.request("/v1/annotations", body, {"Content-Type": "application/json"}, "POST")
            assert answer.status == status and answer.json["errors"], body[:20]
    for key in (" ", "a b", "x" * 201):
        assert post(server, batch(ONE), key).status == 422
    assert exported(server) == []


def test_a_file_is_read_by_its_content(server: Server) -> None:
    answer = server.request("/v1/annotations?annotator=desk", CSV.encode("utf-16"), {"Content-Type": "text/csv"})
    assert answer.status == 201, answer.body
    assert (answer.json["format"], answer.json["encoding"], answer.json["new"]) == ("csv", "utf-16", 2)
    assert [row["topics"] for row in exported(server)] == [{"tea": "against"}, {"tea": "favor"}]
    unknown = server.request("/v1/annotations", CSV.replace("tea", "teas").encode(), {"Content-Type": "text/csv"})
    assert unknown.status == 422 and "nearest: tea" in unknown.json["detail"]


def test_ndjson_of_examples(server: Server) -> None:
    lines = b'{"text": "The leaf was fair.", "topics": {"tea": "favor"}}\n{"text": "Rain.", "topics": {}}\n'
    answer = server.request("/v1/annotations", lines, {"Content-Type": "application/x-ndjson"})
    assert answer.status == 201 and answer.json["format"] == "examples" and answer.json["new"] == 2


def test_a_dry_run_changes_nothing(server: Server) -> None:
    answer = post(server, batch(ONE), "k", "?dry_run=true")
    assert (answer.status, answer.json["new"], answer.json["dry_run"]) == (200, 1, True)
    assert exported(server) == []
    assert post(server, batch(ONE), "k").json["new"] == 1
    assert post(server, batch(ONE), query="?dry_run=maybe").status == 422
    assert post(server, batch(ONE), query="?dryrun=true").status == 422


def test_annotators_may_disagree(server: Server) -> None:
    post(server, batch({**ONE, "annotator": "ann"}))
    assert post(server, batch({**ONE, "topics": {"tea": "con"}, "annotator": "bob"})).json["conflicting"] == 1
    answer = server.request("/v1/annotations/disagreements").json
    assert answer["count"] == 1
    assert answer["disagreements"][0]["annotations"] == {"ann": {"tea": "favor"}, "bob": {"tea": "against"}}
    assert [row["topics"] for row in exported(server)] == [{"tea": "against"}]


def test_a_long_body_is_refused(shared_small: Callable[..., Path], tmp_path: Path) -> None:
    with serving(shared_small(), tmp_path / "log", "--max-labels-bytes", "2000") as server:
        assert post(server, batch(*[ONE] * 50)).status == 413
        assert post(server, batch(ONE)).status == 201


def test_a_store_of_a_thousand_is_streamed_whole(server: Server) -> None:
    rows = [{"text": f"Paragraph {number}.", "topics": {}, "id": f"n{number}"} for number in range(2300)]
    assert post(server, batch(*rows)).json["new"] == 2300
    assert [row["id"] for row in exported(server)] == [row["id"] for row in rows]


def test_what_was_acknowledged_is_on_disk(server: Server, tmp_path: Path) -> None:
    assert post(server, batch(ONE)).status == 201
    server.process.kill()
    server.process.wait()
    with sqlite3.connect(tmp_path / "home" / "stancery.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        ((digest, origin),) = database.execute(
            "SELECT paragraphs.digest, origin FROM annotations JOIN paragraphs ON paragraphs.number = paragraph"
        )
    database.close()
    assert digest == hashlib.sha256(ONE["text"].encode()).hexdigest() and origin == "http anonymous"
