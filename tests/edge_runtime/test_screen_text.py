import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.screen_text import line, plain, prepared, shown, table

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def width(text):
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def test_a_table_stands_in_columns():
    """The heading first, numbers to the right, two columns between; the last has no blanks behind it."""
    lines = table(("NAME", "N"), [(("a", "bad"), "5"), ("long", "123")], right=(1,))
    assert [shown(one, None, colours=False) for one in lines] == ["NAME    N", "a       5", "long  123"]


def test_styles_take_no_room():
    """They are around the text, and nothing else changes."""
    lines = table(("NAME",), [(("a", "bad"),)])
    assert shown(lines[1], None, colours=True) == "\x1b[31ma   \x1b[0m"


def test_an_empty_table_is_nothing():
    """Not a heading over nothing."""
    assert table(("A", "B"), []) == []


@given(st.lists(st.tuples(st.text(), st.sampled_from(["", "bad", "heading"])), max_size=4), st.integers(0, 40))
def test_a_line_is_never_wider_than_the_screen(pieces, columns):
    """Whatever is in it, and no control character of its gets through."""
    text = shown(line(*pieces), columns, colours=True)
    bare = ESCAPE.sub("", text)
    assert bare.isprintable()
    assert width(bare) <= columns
    assert shown(line(*pieces), columns, colours=False) == bare.rstrip()


@given(st.lists(st.tuples(st.text("ab\u5bbd ", max_size=9), st.just("bad")), max_size=4), st.integers(0, 40))
def test_a_line_that_is_moved_aside_loses_its_beginning(pieces, begin):
    """So many columns of it; half a wide letter is a blank."""
    text = line(*pieces)
    rest = shown(text, None, colours=False, begin=begin)
    whole = "".join(part for part, _ in text)
    assert whole.rstrip().endswith(rest.lstrip())
    assert width(rest) == max(width(whole.rstrip()) - begin, 0) or not rest


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\x9b31m", "\u202egnp.exe", "\x7f"])
def test_what_moves_the_cursor_is_not_shown(text):
    """Texts come from other machines, and from servers that anybody announces."""
    assert plain(text).isprintable()
    assert "?" in plain(text)


def test_an_output_takes_any_text_and_gets_colours_only_as_a_terminal(monkeypatch):
    """A degree sign ends no program whose output is ASCII."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert not prepared(out)
    out.write("81 °C")
    out.flush()
    assert out.buffer.getvalue() == b"81 ?C"
    out.isatty = lambda: True
    for kind in ("dumb", ""):
        monkeypatch.setenv("TERM", kind)
        assert not prepared(out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert prepared(out)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not prepared(out)
