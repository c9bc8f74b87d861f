import threading
from pathlib import Path

import pytest

from converter.errors import OptionInvalid
from converter.report_writing import beside, check_report, report_path, written


def test_two_runs_can_write_the_same_report_at_once(tmp_path):
    """Each has a part of its own, and what stands in the end is whole and one of them."""
    path = tmp_path / "r.html"
    together = threading.Barrier(2)

    def write(text):
        with written(text, path):
            together.wait(timeout=30)

    threads = [threading.Thread(target=write, args=(letter * 100_000,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in ("a" * 100_000, "b" * 100_000)
    assert list(tmp_path.iterdir()) == [path]


def test_where_the_body_fails_there_is_no_report(tmp_path):
    """Nor a part of one."""
    with pytest.raises(ValueError, match="own"), written("text", tmp_path / "r.html"):
        raise ValueError("own")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rejected", [False, True])
def test_a_report_that_would_be_a_directory_is_refused(tmp_path, rejected):
    """Before anything runs, whichever of the two names it has."""
    check_report(tmp_path, "m", 1)
    report_path(tmp_path, "m", 1, rejected=rejected).mkdir()
    with pytest.raises(OptionInvalid, match=r"m-1(\.rejected)?\.html: a directory"):
        check_report(tmp_path, "m", 1)


def test_a_report_comes_is_replaced_and_goes_with_its_package():
    """Without one, that of the package that is replaced goes; a refused attempt's goes in any case."""
    name, rejected = report_path(Path(), "m", 1).name, report_path(Path(), "m", 1, rejected=True).name
    assert beside("text", "m", 1, replace=False) == {name: b"text", rejected: None}
    assert beside(None, "m", 1, replace=True) == {name: None, rejected: None}
    assert beside(None, "m", 1, replace=False) == {rejected: None}
