"""Taxonomies and examples: every fault in one pass, with file and line, and aliases on the way in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.errors import InvalidData
from models.examples import check_example, examples_hash, read_examples
from models.taxonomy import Taxonomy, Topic, read_taxonomy

TWO = Taxonomy((Topic("tea", "Tea", proposition="Tea should be free."), Topic("grain", "Grain")))


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_every_fault_of_every_line_is_told(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        {"text": "Fine.", "topics": {"tea": "pro"}},
        {"text": "Bad stance.", "topics": {"tea": "maybe"}},
        {"text": "", "topics": {"coffee": "favor", "grain": "favor"}, "colour": 1},
        "{not json",
        "[1]",
        {"id": 3, "topics": "tea"},
        {"id": "a", "text": "One.", "topics": {}},
        {"id": "a", "text": "Two.", "topics": {}},
        '{"text": "lone \\ud800", "topics": {}}',
    )
    with pytest.raises(InvalidData) as caught:
        read_examples(path, TWO)
    faults = [fault.removeprefix(f"{path}:") for fault in caught.value.faults]
    assert "2: topics.tea: stance 'maybe' is not one of favor, against, neutral" in faults
    assert "3: text: is blank; text is needed" in faults
    assert "3: topics: 'coffee' is not one of grain, tea" in faults
    assert "3: topics.grain: has a stance, but the taxonomy gives this topic no proposition" in faults
    assert any(fault.startswith("3: colour: unknown field; allowed are id, text") for fault in faults)
    assert any(fault.startswith("4: not a JSON object") for fault in faults)
    assert "5: not a JSON object but list" in faults
    assert "6: id: must be text, not int" in faults
    assert "6: text: missing" in faults
    assert any(fault.startswith("6: topics: must be") for fault in faults)
    assert "8: id: 'a' stands on line 7 already" in faults
    assert any(fault.startswith("9: not a JSON object") for fault in faults)
    assert not any(fault.startswith(("1:", "7:")) for fault in faults)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        *((name, "favor") for name in ("pro", "FAVOR", "support", "1", 1)),
        *((name, "against") for name in ("con", "AGAINST", "oppose", 0)),
        *((name, "neutral") for name in ("NONE", 2)),
    ],
)
def test_aliases_are_taken_in_and_never_given_out(said: object, meant: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"text": "Tea.", "topics": {"tea": said}})
    assert read_examples(path, TWO)[0].topics == {"tea": meant}


def test_topics_without_stance_are_a_list_and_off_topic_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"text": "Tea.", "topics": ["tea", "grain"]}, {"text": "Rain.", "topics": {}})
    first, second = read_examples(path, TWO)
    assert first.topics == {"tea": None, "grain": None}
    assert second.topics == {}


def test_a_topic_that_is_no_text_is_a_fault_like_others(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"text": "Tea.", "topics": [{"topic": "tea"}]}, {"topics": {}})
    with pytest.raises(InvalidData) as caught:
        read_examples(path, TWO)
    assert len(caught.value.faults) == 2


def test_more_marks_in_a_row_than_any_script_has_are_a_fault() -> None:
    """Whoever normalises them takes time that grows with the square of their number."""
    zalgo, hebrew = "a" + "\u0301\u0316" * 16, "שָׁלוֹם " * 40 + "😀" * 40 + "…" * 40
    (example, faults), (_, found) = (check_example({"text": text, "topics": {}}, "1", TWO) for text in (hebrew, zalgo))
    assert example is not None and not faults
    assert found == ["text: has more than 30 combining marks in a row"]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "Tea.", "topics": {"tea": "favor"}}')
    assert read_examples(tmp_path / "r.jsonl", TWO)[0].text == "Tea."


def test_the_hash_is_of_the_content_and_not_of_the_layout(tmp_path: Path) -> None:
    row = {"id": "a", "text": "Tea.", "topics": {"tea": "favor"}}
    first = write(tmp_path / "a.jsonl", row)
    second = write(tmp_path / "b.jsonl", "", json.dumps({**row, "topics": {"tea": "pro"}}, indent=None), "")
    third = write(tmp_path / "c.jsonl", {**row, "text": "Tea!"})
    hashes = [examples_hash(read_examples(path, TWO)) for path in (first, second, third)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_every_fault_of_a_taxonomy_is_told(tmp_path: Path) -> None:
    path = tmp_path / "taxonomy.toml"
    path.write_text(
        '[[topic]]\nid = "Tea Time"\n\n[[topic]]\nid = "tea"\ncolour = "green"\nparent = "cake"\n\n'
        '[[topic]]\nid = "tea"\ntitle = " "\n\n[[topic]]\ntitle = "none"\n\n[other]\n'
    )
    with pytest.raises(InvalidData) as caught:
        read_taxonomy(path)
    text = str(caught.value)
    for part in (":1: id: 'Tea Time'", ":4: colour: unknown key", ":4: parent: 'cake'", ":9: id: 'tea' stands twice"):
        assert part in text
    for part in (":9: title: must be text", ":13: id: missing", "other: unknown table"):
        assert part in text


@pytest.mark.parametrize("source", ["", "not toml [", "topic = 3"])
def test_a_file_that_is_no_taxonomy_is_refused(source: str, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(source)
    with pytest.raises(InvalidData):
        read_taxonomy(tmp_path / "t.toml")
