"""Names as text: whatever a task is called, its name is part of one line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from procbackground._printable import printable
from procbackground._report.text import columns_of, shortened

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # with lone surrogates, as the names of files may have them


@given(ANY_TEXT)
def test_any_text_is_printable(text):
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert len(f"[{shown}]".splitlines()) == 1
    assert printable(shown) == shown
    shown.encode()


@given(ANY_TEXT)
def test_what_can_be_shown_is_kept(text):
    assert [new for old, new in zip(text, printable(text), strict=True) if old.isprintable() and new != old] == []


@given(ANY_TEXT, st.integers(1, 80))
def test_a_shortened_text_fits(text, columns):
    line = shortened(text, columns)
    assert line.isprintable()
    assert columns_of(line) <= columns


def test_columns_are_those_of_a_terminal():
    texts = {
        "plain": 5,
        "名前": 4,
        "e\N{COMBINING ACUTE ACCENT}": 1,
        "\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}": 1,
    }
    assert {text: columns_of(text) for text in texts} == texts
