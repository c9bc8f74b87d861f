import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.harness import Harness
from fallback_server.core.printable import MAX_CHARS, name_fault, printable, quoted
from fallback_server.core.servable import ServableId


@given(st.text(st.characters(), max_size=50), st.integers(60, 200))
def test_every_text_can_be_encoded_and_hides_nothing(text, max_chars):
    """In UTF-8; line ends and tabs alone stay of what can't be seen; what is harmless stays as it is."""
    shown = printable(text, max_chars=max_chars)
    shown.encode()
    assert not set(shown) & set(map(chr, {*range(32), 127} - {9, 10}))
    if text.isprintable() and len(text) <= max_chars:
        assert shown == text


def test_a_long_text_keeps_its_ends():
    """And says how long it was."""
    shown = printable("begin" + "x" * 7_000_000 + "end")
    assert len(shown) <= MAX_CHARS
    assert shown.startswith("begin")
    assert shown.endswith("end")
    assert "7000008 characters" in shown


def test_a_quoted_name_is_short_and_on_one_line():
    """Whatever it holds."""
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted("\udcff" * 1_000_000)) < 700


@pytest.mark.parametrize("name", ["a", "mödel", "模型", "a b", "x" * 255, "👩‍🚀"])
def test_names_that_a_model_may_have(name):
    """Any letters."""
    assert name_fault(name) is None


@pytest.mark.parametrize("name", ["a\udcff", "a\n", "\x00", "\x7f", "a\u2028b", "ö" * 128])
def test_names_that_no_model_may_have(name):
    """Of folders, not of configurations."""
    assert name_fault(name)


def test_the_error_of_a_version_can_be_carried_by_every_reply(tmp_path):
    """It is bounded and encodable, whatever a load said."""
    harness = Harness(ServableId("m", 1), AspiredVersion(path=tmp_path, fingerprint=()))
    harness.begin_load()
    harness.load_failed("ArchiveRefused: " + "\udcff" * 1_000_000, retry_at_s=None)
    error = harness.snapshot.error
    assert len(error.encode()) <= 6 * MAX_CHARS
    assert error.startswith("ArchiveRefused: \\udcff")
