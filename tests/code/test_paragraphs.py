"""How an article falls into paragraphs."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.paragraphs import split_paragraphs, text_fault

FIRST = "The delegations met in Istanbul for six hours and agreed on little besides the date of another meeting in May."
SECOND = '"We are waiting for an answer," the deputy minister said. He did not say how long his side would wait for it.'
THIRD = "Flights stopped in 2022."


def texts(article: str) -> list[str]:
    return [" ".join(paragraph.text.split()) for paragraph in split_paragraphs(article)]


@pytest.mark.parametrize("gap", ["\n\n", "\n", "\r\n", "\r\n\r\n", "\n \t\n", "\n\n\n\n", "\r"])
def test_blank_lines_or_line_ends_part_paragraphs(gap: str) -> None:
    assert texts(gap.join([FIRST, SECOND, THIRD])) == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("width", [60, 72, 80])
def test_hard_wrapped_lines_are_joined(width: int, line_end: str) -> None:
    wrapped = "\n\n".join(textwrap.fill(paragraph, width) for paragraph in [FIRST + " " + SECOND, SECOND, THIRD])
    assert texts(wrapped.replace("\n", line_end)) == [f"{FIRST} {SECOND}", SECOND, THIRD]


def test_a_wrapped_article_without_blank_lines_parts_after_short_last_lines() -> None:
    wrapped = "\n".join(textwrap.fill(paragraph, 64) for paragraph in [FIRST, SECOND, THIRD])
    assert texts(wrapped)[0] == FIRST


def test_headline_and_lead_stay_apart() -> None:
    assert texts(f"Talks end without a deal\n{FIRST}\n{SECOND}") == ["Talks end without a deal", FIRST, SECOND]


def test_rules_and_stars_are_no_paragraphs() -> None:
    assert texts(f"{FIRST}\n\n* * *\n\n{SECOND}\n———") == [FIRST, SECOND]


@pytest.mark.parametrize("article", ["...", " \n\t* * *\n\n———\n", "\U0001f600", "\n\0"])
def test_an_article_without_a_letter_or_a_digit_is_one_paragraph(article: str) -> None:
    (only,) = split_paragraphs(article)
    assert only.text == article.strip() == article[only.start : only.end]


@pytest.mark.parametrize("article", ["", " \n\n\t"])
def test_a_blank_article_has_no_paragraph(article: str) -> None:
    assert split_paragraphs(article) == []


@settings(deadline=None)
@given(st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=400))
def test_every_paragraph_is_a_slice_and_no_letter_is_lost(article: str) -> None:
    found = split_paragraphs(article)
    for paragraph in found:
        assert article[paragraph.start : paragraph.end] == paragraph.text == paragraph.text.strip()
    kept = "".join(paragraph.text for paragraph in found)
    assert [c for c in kept if c.isalnum()] == [c for c in article if c.isalnum()]


@pytest.mark.parametrize("text", ["", " \n\t", "a\0b", "\ud800", "ok \udfff"])
def test_text_that_cannot_be_scored_is_told_without_being_repeated(text: str) -> None:
    fault = text_fault(text)
    assert fault
    assert "ok" not in fault
