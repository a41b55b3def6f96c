"""Labelled tables, and the encodings that they and other files come in."""

from __future__ import annotations

import csv
import json

import pytest

from models.taxonomy import Taxonomy
from service.labels.reading import Label, read_labels
from tests.code.test_labels import RUSSIAN, only, topics


def test_semeval_has_no_quotes_and_one_target_a_row(taxonomy: Taxonomy) -> None:
    data = (
        b"ID\tTarget\tTweet\tStance\r\n"
        b'101\tCrimea\t"Ours", he said. #SemST\tFAVOR\r\n'
        b'102\tSanctions\t"Ours", he said. #SemST\tAGAINST\r\n'
        b"103\tCrimea is legitimately part of Russia.\t\"Open #SemST\tNONE\r\n"
        b"104\tAtheism\tNo. #SemST\tAGAINST\r\n"
        b"105\tCrimea\tWho knows? #SemST\tUNKNOWN\r\n"
    )  # fmt: skip
    reading = read_labels(data, taxonomy)
    assert (reading.format, reading.faults) == ("semeval", [])
    assert reading.labels == [
        Label("row 1 (line 2)", '"Ours", he said. #SemST', {"crimea": "favor", "sanctions": "against"}, "101"),
        Label("row 3 (line 4)", '"Open #SemST', {"crimea": "neutral"}, "103"),
    ]
    assert [(label.label, label.first) for label in reading.unknown] == [("Atheism", "row 4 (line 5)")]
    assert reading.skipped_why == {"unlabelled": 1}


def test_vast_gathers_the_topics_of_a_post(taxonomy: Taxonomy) -> None:
    data = (
        b",author,post,ori_topic,ori_id,new_topic,label,type_idx,new_id,arc_id,text,topic,seen?\n"
        b'0,ann,"Ours, all of it.",x,1,crimea,1,1,1,5,"[[""ours""]]","[""crimea""]",1\n'
        b'1,ann,"Ours, all of it.",x,1,Sanctions,0,1,2,5,"[[""ours""]]","[""sanctions""]",1\n'
        b'2,bob,"Ours, all of it.",x,1,crimea,2,1,3,5,"[[""ours""]]","[""crimea""]",0\n'
    )
    reading = read_labels(data, taxonomy)
    assert (reading.format, reading.faults) == ("vast", [])
    assert topics(reading) == [{"crimea": "favor", "sanctions": "against"}, {"crimea": "neutral"}]
    assert {label.text for label in reading.labels} == {"Ours, all of it."}


@pytest.mark.parametrize(
    ("table", "meant"),
    [
        ("text,topic,stance\na,crimea,pro\na,energy,0\n", {"crimea": "favor", "energy": "against"}),
        ("id;Text;Label\n1; a ;Crimea\n", {"crimea": None}),
        ("paragraph\ttarget\tlabel\na\tcrimea\tcon\n", {"crimea": "against"}),
        ("topic|content\noff topic|a\n", {}),
        ("text,topics\na,crimea:favor; sanctions:neutral\n", {"crimea": "favor", "sanctions": "neutral"}),
        ('text,topics\na,"crimea, sanctions"\n', {"crimea": None, "sanctions": None}),
        ('text,topics\na,"{""crimea"": ""con""}"\n', {"crimea": "against"}),
        ('text,topics\na,"{""choices"": [""crimea"", ""energy""]}"\n', {"crimea": None, "energy": None}),
        ('text, topics\na, "crimea, energy"\n', {"crimea": None, "energy": None}),
        ("text,topics\na,{}\n,\n", {}),
        ("text,crimea,Sanctions,energy,notes\na,1,con,,later\n", {"crimea": None, "sanctions": "against"}),
        ("text,crimea,sanctions\na,x,no\n", {"crimea": None}),
        ("text,crimea,sanctions\na,,0\nb,,\nc\n", {}),
        ("id,text,label\n1,a,crimea#energy: pro\n", {"crimea": None, "energy": "favor"}),
        ("id,text,label\n1,a,crimea#против\n", {"crimea": "against"}),
        ("text,crimea,sanctions\na,за,Нейтрально\n", {"crimea": "favor", "sanctions": "neutral"}),
        ("sep=;\r\ntext;topic\r\na;crimea\r\n", {"crimea": None}),
        ("sep=,\ntext,topic\na,crimea\n", {"crimea": None}),
    ],
)
def test_tables_of_any_shape(table: str, meant: dict[str, str | None], taxonomy: Taxonomy) -> None:
    reading = read_labels(table.encode(), taxonomy)
    assert (reading.format, only(reading).text, only(reading).topics) == ("csv", "a", meant)


def test_a_row_of_a_table_says_where_it_came_from_and_what_is_wrong_with_it(taxonomy: Taxonomy) -> None:
    long = "x" * 200_000
    table = (
        "id,text,topic,annotator,speaker,document_id\r\n"
        'p1,"First, a quote: ""ours"".\r\nThen another line.",crimea,ann,Peskov,d1\r\n'
        "p2,A comma, unquoted,crimea,ann,Peskov,d1\r\n"
        'p3,"Quoted" badly,crimea\r\n'
        f"p4,{long},crimea\r\n"
        "p5,Not yet.,\r\n"
        "p6,,crimea\r\n"
        'p7,"Never closed,crimea\r\n'
    )
    csv.field_size_limit(131_072)
    reading = read_labels(table.encode("utf-8-sig"), taxonomy)
    text = 'First, a quote: "ours".\r\nThen another line.'
    first = Label("row 1 (line 2)", text, {"crimea": None}, "p1", "Peskov", "d1", annotator="ann")
    assert reading.labels == [first, Label("row 4 (line 6)", long, {"crimea": None}, "p4")]
    assert reading.skipped_why == {"unlabelled": 1}
    assert reading.faults == [
        "row 2 (line 4): 7 cells, but the header has 6; quote what holds the delimiter",
        "row 3 (line 5): text after a closing quote; a quote inside a quoted cell is written twice",
        "row 6 (line 8): text: is blank; text is needed",
        "row 7 (line 9): a quote that opens here is never closed",
    ]


def test_a_wide_row_without_a_cell_is_not_off_topic(taxonomy: Taxonomy) -> None:
    reading = read_labels(b"text,crimea,sanctions\nNot yet,,\nNor this\nRain.,0,\n", taxonomy)
    assert (topics(reading), reading.skipped_why, reading.faults) == ([{}], {"unlabelled": 2}, [])


def test_the_line_of_excel_counts_as_a_line(taxonomy: Taxonomy) -> None:
    label, fault = (read_labels(f"sep=;\ntext;topic\n{row};crimea\n".encode(), taxonomy) for row in ("a", " "))
    assert (only(label).where, fault.faults) == ("row 1 (line 3)", ["row 1 (line 3): text: is blank; text is needed"])


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1251", "koi8-r"])
@pytest.mark.parametrize("text", [RUSSIAN, "Щедрый подъезд.", "Крым", "МИНИСТР СТРАНЫ ПРИБЫЛ", "Yes, он. " * 99])
def test_every_encoding_is_told(codec: str, text: str, taxonomy: Taxonomy) -> None:
    if codec == "koi8-r":
        text = text.replace("«", "").replace("»", "").replace("—", "-")
    row = json.dumps({"text": text, "topics": {"crimea": "favor"}}, ensure_ascii=False)
    for data in (row, f"text\ttopic\r\n{text}\tcrimea\r\n"):
        reading = read_labels(data.encode(codec), taxonomy)
        assert reading.encoding == ("utf-16" if codec.startswith("utf-16") else codec)
        assert only(reading).text.strip() == text.strip()


@pytest.mark.parametrize("text", ["Café façade déjà vu", "Größe und Maß", "ÉTÉ À LA MER", "“Señor” ¿qué? – naïve"])
def test_western_letters_are_not_read_as_cyrillic(text: str, taxonomy: Taxonomy) -> None:
    reading = read_labels(f"text,topic\n{text},crimea\n".encode("cp1252"), taxonomy)
    assert (reading.encoding, only(reading).text) == ("cp1252", text)
