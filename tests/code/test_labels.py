"""Labelled files of other tools: told by content, read whole, with every fault and every unknown label."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.taxonomy import Taxonomy, Topic, read_taxonomy
from service.importing import Faulty, read
from service.labels.reading import FORMATS, Label, Reading, read_labels
from tests.conftest import TAXONOMY

RUSSIAN = "Песков заявил, что вопрос Крыма закрыт: «Тема не обсуждается», — сказал он."
TOPICS = read_taxonomy(TAXONOMY)


def jsonl(*rows: object) -> bytes:
    return b"".join((row.encode() if isinstance(row, str) else json.dumps(row).encode()) + b"\n" for row in rows)


def array(*rows: object) -> bytes:
    return json.dumps(rows, indent=2).encode()


def only(reading: Reading) -> Label:
    assert (reading.faults, reading.unknown) == ([], [])
    (label,) = reading.labels
    return label


def topics(reading: Reading) -> list[dict[str, str | None]]:
    return [label.topics for label in reading.labels]


def result(control: str, *choices: object, kind: str = "choices") -> dict[str, Any]:
    value = {kind: list(choices)}
    return {"value": value, "id": "Xq1", "from_name": control, "to_name": "text", "type": kind, "origin": "manual"}


def annotation(*results: object, **more: Any) -> dict[str, Any]:
    return {"id": 9, "completed_by": 1, "result": list(results), "was_cancelled": False, "lead_time": 4.2, **more}


def task(*annotations: object, **data: Any) -> dict[str, Any]:
    held = {"text": "Crimea is ours.", **data}
    return {"id": 3, "annotations": list(annotations), "drafts": [], "predictions": [], "data": held, "meta": {}}


def test_our_own_examples_come_in_as_lines_or_as_an_array(taxonomy: Taxonomy) -> None:
    about = {"speaker": None, "document_id": "a", "language": "en", "source": "wire"}
    row = {"id": "a-1", "text": "Crimea is ours.", "topics": {"crimea": "pro", "sanctions": None}, **about}
    places = {"line 2": jsonl("", row), "item 1": array(row), "line 1": jsonl(row).replace(b"\n", b"\r\n")}
    for where, data in places.items():
        reading = read_labels(data, taxonomy)
        assert (reading.format, reading.encoding) == ("examples", "utf-8")
        meant = {"crimea": "favor", "sanctions": None}
        assert only(reading) == Label(where, "Crimea is ours.", meant, "a-1", None, "a", "en", "wire")
    listed = jsonl({"text": "a", "topics": ["crimea", "energy"]}, {"text": "b", "topics": {}})
    assert topics(read_labels(listed, taxonomy)) == [{"crimea": None, "energy": None}, {}]
    assert only(read_labels(json.dumps(row, indent=2).encode(), taxonomy)).where == "item 1"


def test_json_on_one_line_is_no_table_whatever_words_it_holds(taxonomy: Taxonomy) -> None:
    row = {"id": "a", "text": "Two columns, text, topics, and nothing else.", "topics": {"crimea": "pro"}}
    for data in (jsonl(row), array(row)):
        reading = read_labels(data, taxonomy)
        assert reading.format == "examples" and only(reading).topics == {"crimea": "favor"}


def test_every_fault_of_every_line_is_told(taxonomy: Taxonomy) -> None:
    rows = [
        {"text": "Fine.", "topics": {"crimea": "pro"}},
        "{not json",
        "[1]",
        {"text": " ", "topics": {"crimea": True}, "colour": 1},
        {"id": 3, "topics": "crimea"},
        {"text": "a\0b", "topics": [{"topic": "crimea"}]},
        {"id": "x", "text": "One.", "topics": {}},
        {"id": "x", "text": "Two.", "topics": {}},
        '{"text": "lone \\ud800", "topics": {}}',
        "[" * 100_000,
        {"text": "Both.", "topics": ["crimea: favor", "crimea: against"]},
    ]
    reading = read_labels(jsonl(*rows), taxonomy)
    assert [label.text for label in reading.labels] == ["Fine.", "One."]
    assert reading.faults == [
        "line 2: not JSON: JSON is malformed: object keys must be strings",
        "line 3: not a JSON object but list",
        "line 4: colour: unknown field; allowed are id, text, topics, speaker, document_id, language, source",
        "line 4: text: is blank; text is needed",
        "line 4: topics.crimea: a stance must be one of favor, against, neutral, not bool",
        "line 5: id: must be text, not int",
        "line 5: topics: must be an object of topic: stance or a list of topics, not str",
        "line 5: text: missing",
        "line 6: text: holds a NUL character",
        "line 6: label: must be text that is not blank, not dict",
        "line 8: id: 'x' stands at line 7 already",
        "line 9: not JSON: JSON is malformed: unexpected end of escaped utf-16 surrogate pair",
        "line 10: not JSON: nested too deeply",
        "line 11: topics.crimea: is said to be favor and against; only one can be",
    ]


def test_a_hundred_faults_are_listed_and_the_rest_counted(taxonomy: Taxonomy) -> None:
    faults = read_labels(jsonl({"text": "a", "topics": {}}, *["x" * 500] * 250), taxonomy).faults
    assert (len(faults), faults[-1], "xxx" in str(faults)) == (101, "and 150 more", False)


def test_faults_of_names_are_listed_and_counted_beside_the_others(taxonomy: Taxonomy) -> None:
    rows = jsonl(*[{"text": f"t{n}", "topics": {}, "speaker": "s" * 300} for n in range(250)], *["x"] * 250)
    with pytest.raises(Faulty) as caught:
        read(rows, taxonomy)
    assert (len(caught.value.faults), caught.value.faults[100], caught.value.faults[-1]) == (
        202,
        "and 150 more",
        "and 150 more",
    )


def test_a_stance_on_a_topic_without_a_proposition_is_a_fault() -> None:
    grain = Taxonomy((Topic("tea", "Tea", proposition="Tea should be free."), Topic("grain", "Grain")))
    assert topics(read_labels(b"__label__grain The harvest.", grain)) == [{"grain": None}]
    assert read_labels(b"__label__grain:favor The harvest.", grain).faults == [
        "line 1: topics.grain: has a stance, but the taxonomy gives this topic no proposition"
    ]


@pytest.mark.parametrize(
    ("results", "meant"),
    [
        ([], {}),
        ([result("topic", "crimea", "sanctions")], {"crimea": None, "sanctions": None}),
        ([result("topic", "Russian energy: con")], {"energy": "against"}),
        *(([result("topic", f"crimea{mark}favor")], {"crimea": "favor"}) for mark in (": ", "/", "=", "_", " - ", " ")),
        ([result("crimea", "favor")], {"crimea": "favor"}),
        ([result("stance_crimea", "con"), result("energy_stance", "pro")], {"crimea": "against", "energy": "favor"}),
        ([result("crimea", "yes"), result("energy", "no")], {"crimea": None}),
        ([result("topic", "crimea"), result("stance", "favor")], {"crimea": "favor"}),
        ([result("t", ["crimea", "favor"], kind="taxonomy")], {"crimea": "favor"}),
        ([result("t", ["US", "Energy", "con"], ["Crimea"], kind="taxonomy")], {"energy": "against", "crimea": None}),
        ([result("topic", "Off topic")], {}),
        ([result("topic", "none of these")], {}),
        ([result("topic", "crimea"), {**result("energy"), "value": {"choices": None}}], {"crimea": None}),
    ],
)  # fmt: skip
def test_label_studio_has_many_ways_to_say_a_stance(results: list[Any], meant: object, taxonomy: Taxonomy) -> None:
    reading = read_labels(array(task(annotation(*results))), taxonomy)
    assert (reading.format, only(reading).topics) == ("label-studio", meant)


def test_every_annotation_of_a_label_studio_task_is_a_label_of_its_own(taxonomy: Taxonomy) -> None:
    crimea = result("topic", "crimea")
    older = {"id": 4, "completions": [annotation(crimea)], "data": {"body": "Crimea again.", "source": "wire"}}
    rows = [
        task(
            annotation(crimea, completed_by={"id": 7, "email": "ann@example.org"}),
            annotation(crimea, completed_by=2, was_cancelled=True),
            annotation(crimea, completed_by={"id": 8}),
            speaker="Peskov",
        ),
        task(),
        older,
        task(annotation({"type": "rating", "value": {"rating": 3}, "from_name": "r", "to_name": "text"})),
    ]
    reading = read_labels(array(*rows), taxonomy)
    assert [label.where for label in reading.labels] == ["item 1, annotation 1", "item 1, annotation 3", "item 3"]
    assert [label.annotator for label in reading.labels] == ["ann@example.org", "8", "1"]
    assert [label.id for label in reading.labels] == [None] * 3
    assert [reading.labels[0].speaker, reading.labels[2].source] == ["Peskov", "wire"]
    assert (reading.skipped, reading.skipped_why, reading.faults) == (3, {"cancelled": 1, "unlabelled": 2}, [])


def test_a_choice_that_is_null_is_not_off_topic(taxonomy: Taxonomy) -> None:
    empty = {**result("topic"), "value": {"choices": None}}
    reading = read_labels(array(task(annotation(empty)), task(annotation({**empty, "value": {}}))), taxonomy)
    assert (reading.labels, reading.skipped_why, reading.faults) == ([], {"unlabelled": 2}, [])
    flat = [{"text": "One.", "topic": topic, "annotation_id": 5, "lead_time": 1} for topic in ("crimea", None, [])]
    reading = read_labels(array(*flat), taxonomy)
    assert (topics(reading), reading.skipped_why) == ([{"crimea": None}, {}], {"unlabelled": 1})


def test_the_flat_export_of_label_studio_is_read_too(taxonomy: Taxonomy) -> None:
    about = {"annotator": 1, "annotation_id": 5, "created_at": "2024", "updated_at": "2024", "lead_time": 1.5}
    rows = [
        {"text": "One.", "id": 1, "domain": "Crimea", "source": "wire", **about},
        {"text": "Two.", "id": 2, "domain": {"choices": ["crimea", "energy"]}, "crimea": "favor", **about},
        {"text": "Three.", "id": 3, "paths": [{"taxonomy": [["energy", "con"]]}], **about},
        {"text": "Four.", "id": 4, "domain": "Sport", **about},
        {"text": "Five.", "id": 5, **about},
    ]
    reading = read_labels(array(*rows), taxonomy)
    assert topics(reading) == [{"crimea": None}, {"crimea": "favor", "energy": None}, {"energy": "against"}, {}]
    assert [label.label for label in reading.unknown] == ["Sport"]
    assert [reading.labels[0].annotator, reading.labels[0].source] == ["1", "wire"]
    unknown = read_labels(array({"text": "One.", "mood": "glad", **about}), taxonomy)
    assert unknown.faults == ["item 1: no field of this file holds a topic of the taxonomy"]


def test_doccano(taxonomy: Taxonomy) -> None:
    rows = [
        {"id": 1, "text": "Crimea is ours.", "label": ["crimea", "favor"], "Comments": [], "annotator": "ann"},
        {"id": 2, "data": "Gas flows.", "label": [[0, 3, "energy"], [4, 9, "energy: favor"]], "user": 4},
        {"id": 3, "text": "Rain.", "label": [], "Comments": []},
        {"id": 4, "text": "Rain.", "labels": ["off topic"], "meta": {"source": "wire"}},
        {"id": 5, "text": "Rain.", "label": 7},
        {"id": 6, "text": "Both.", "label": ["crimea", "energy", "favor"]},
    ]
    reading = read_labels(jsonl(*rows), taxonomy)
    assert (reading.format, topics(reading)) == ("doccano", [{"crimea": "favor"}, {"energy": "favor"}, {}])
    assert [label.annotator for label in reading.labels] == ["ann", "4", None]
    assert (reading.labels[2].source, reading.skipped_why) == ("wire", {"unlabelled": 1})
    assert reading.faults == [
        "line 5: label: must be a list of labels, not int",
        "line 6: topics: favor, but not toward one topic; 2 are named",
    ]


def test_prodigy(taxonomy: Taxonomy) -> None:
    options = [{"id": "crimea", "text": "Crimea"}, {"id": 2, "text": "energy: favor"}]
    common = {"_input_hash": 1, "_task_hash": -2, "_timestamp": 3, "_view_id": "choice", "options": options}
    rows = [
        {"text": "One.", **common, "accept": ["crimea", 2], "answer": "accept", "_session_id": "set-ann"},
        {"text": "Two.", **common, "accept": [], "answer": "accept", "_annotator_id": "set-bob"},
        {"text": "Three.", **common, "accept": ["crimea"], "answer": "ignore"},
        {"text": "Four.", "label": "crimea", "answer": "accept"},
        {"text": "Five.", "label": "crimea", "answer": "reject"},
        {"text": "Six.", "label": "crimea", "answer": "maybe"},
    ]
    reading = read_labels(jsonl(*rows), taxonomy)
    assert (reading.format, topics(reading)) == ("prodigy", [{"crimea": None, "energy": "favor"}, {}, {"crimea": None}])
    assert [label.annotator for label in reading.labels] == ["set-ann", "set-bob", None]
    assert reading.skipped_why == {"ignored": 1, "rejected": 1}
    assert reading.faults == ["line 6: answer: must be accept, reject or ignore"]


def test_the_rows_of_one_text_in_a_binary_export_of_prodigy_are_one_label(taxonomy: Taxonomy) -> None:
    said = [("sanctions", "accept"), ("crimea: pro", "accept"), ("energy", "reject"), ("crimea: con", "accept")]
    rows = [{"text": "One.", "label": label, "answer": answer} for label, answer in said]
    reading = read_labels(jsonl(*rows, {"text": "Two.", "label": "energy", "answer": "accept"}), taxonomy)
    assert topics(reading) == [{"sanctions": None, "crimea": "favor"}, {"crimea": "against"}, {"energy": None}]
    assert (reading.faults, reading.skipped_why) == ([], {"rejected": 1})
    chosen = [{"text": "One.", "accept": [label], "answer": "accept"} for label in ("sanctions", "crimea")]
    assert topics(read_labels(jsonl(*chosen), taxonomy)) == [{"sanctions": None}, {"crimea": None}]


def test_fasttext(taxonomy: Taxonomy) -> None:
    data = b"__label__crimea __label__air-links:con No flights there.\n\nRain fell.\nSun shone. __label__energy\n"
    reading = read_labels(data, taxonomy)
    assert reading.format == "fasttext"
    assert [label.where for label in reading.labels] == ["line 1", "line 3", "line 4"]
    assert [label.text for label in reading.labels] == ["No flights there.", "Rain fell.", "Sun shone."]
    assert topics(reading) == [{"crimea": None, "air_links": "against"}, {}, {"energy": None}]
    assert read_labels(b"__label__crimea\n", taxonomy).faults == ["line 1: text: is blank; text is needed"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "allowed are examples, label-studio, doccano, prodigy, fasttext, semeval, vast, csv, told by"),
        (b" \r\n\n", "seen: nothing"),
        (b"Dear all,\nno labels here.", "a table that starts 'Dear all,'"),
        (b"text,author\na,b\n", "'text,author'"),
        (b"[]", "an empty JSON array"),
        (b"[1, 2]", "JSON whose item 1 is not a JSON object but int"),
        (b'{"body": "a"}', "the fields body"),
        (b'[\n{"text": "a", "label": ["crimea"]},\n{"text" 3}', "line 3: JSON is malformed"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (f"text,topic\n{RUSSIAN}\n".encode() + "Ялта".encode()[:-1], "line 3: byte "),
        (b"\xff\xfe\0", "line 1: byte 3: not valid utf-16"),
        (b"PK\x03\x04\x14\0\0\0" * 9, "not text"),
        (b"text,topic\na\0b,crimea\n", "not text"),
        (b"\x01\x02\x03\x04", "not text"),
    ],
)
def test_what_no_reader_knows_is_one_fault_and_no_guess(data: bytes, said: str, taxonomy: Taxonomy) -> None:
    reading = read_labels(data, taxonomy)
    assert (reading.format, reading.labels, len(reading.faults)) == ("unknown", [], 1)
    assert said in reading.faults[0]


def test_unknown_labels_are_counted_with_the_nearest_names(taxonomy: Taxonomy) -> None:
    table = "text,topic,stance\na,Krim,favor\nb,Krim,favor\nc,flights,con\nd,crimea,agaisnt\ne,Zebra,\nf,energy,pro\n"
    reading = read_labels(f"{table}g,{'w' * 500},\n".encode(), taxonomy)
    assert [(label.label, label.count, label.first, label.nearest) for label in reading.unknown] == [
        ("Krim", 2, "row 1 (line 2)", ["crimea"]),
        ("flights", 1, "row 3 (line 4)", ["air_links"]),
        ("agaisnt", 1, "row 4 (line 5)", ["against", "neutral", "favor"]),
        ("Zebra", 1, "row 5 (line 6)", []),
        ("w" * 79 + "…", 1, "row 7 (line 8)", []),
    ]
    assert (topics(reading), reading.faults) == ([{"energy": "favor"}], [])


def test_labels_are_renamed_or_dropped_as_they_stand(taxonomy: Taxonomy) -> None:
    renamed = {"Krim": "crimea", "Sport": "", "за": "favor", "Gas+": "energy: favor"}
    table = "text,topics\na,Krim: за; Sport\nb,Sport\nc,Gas+\n"
    reading = read_labels(table.encode(), taxonomy, renamed=renamed)
    assert topics(reading) == [{"crimea": "favor"}, {"energy": "favor"}]
    assert (reading.skipped_why, reading.unknown, reading.faults) == ({"dropped": 1}, [], [])
    assert topics(read_labels("text,Krim\na,за\n".encode(), taxonomy, renamed=renamed)) == [{"crimea": "favor"}]


_EXPORTED = "id text topics label data annotations result type value choices taxonomy from_name completed_by"
_FIELDS = st.sampled_from([*_EXPORTED.split(), "annotation_id", "lead_time", "accept", "answer", "options", "meta"])
_SAID = st.sampled_from(["a", "crimea", "crimea: pro", "favor", "accept", "choices", "taxonomy", "", "\0", ":", "none"])
_ATOMS = st.none() | st.booleans() | st.integers() | st.just(10**40) | st.floats(allow_nan=False) | st.text(max_size=5)
_VALUES = st.recursive(
    _ATOMS | _SAID,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_FIELDS, inner, max_size=5),
    max_leaves=12,
)
_ROWS = st.lists(st.dictionaries(_FIELDS, _VALUES, max_size=6), max_size=3)
_CELLS = st.sampled_from(["text", "topic", "stance", "crimea", "topics", "a", '"', "{", "1", ""]) | st.text(max_size=4)
_TABLES = st.lists(st.lists(_CELLS, max_size=4).map(",".join), max_size=4).map("\n".join)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=80)
    | _ROWS.map(lambda rows: array(*rows))
    | _ROWS.map(lambda rows: jsonl(*rows))
    | _TABLES.map(lambda table: f"text,topic,stance,crimea\n{table}".encode("utf-8", "surrogatepass"))
)
def test_no_bytes_make_it_raise(data: bytes) -> None:
    reading = read_labels(data, TOPICS)
    assert reading.format in (*FORMATS, "unknown")
    assert all(label.topics.keys() <= set(TOPICS.ids) for label in reading.labels)
    assert msgspec.json.decode(msgspec.json.encode(reading), type=Reading) == reading
