import os
import shutil

import pytest

from fallback_server.core.servable import ServableId
from fallback_server.core.source import FileSystemSource

LATER_S = 3600.0


@pytest.fixture
def wall(tmp_path):
    """The wall clock, an hour after everything on disk."""
    return [tmp_path.stat().st_mtime + LATER_S]


def version(base, number, content=b"x"):
    path = base / number
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(content)
    return path


def source(tmp_path, wall, **options):
    defaults = {"models": {"m": tmp_path / "m"}, "settle_s": 1.0, "wall_clock": lambda: wall[0]}
    return FileSystemSource(**(defaults | options))


def test_what_is_old_is_taken_at_once(tmp_path, wall):
    """Folders named by numbers that have rested are stated at the first poll, others never."""
    for number in ("1", "007", "0"):
        version(tmp_path / "m", number)
    for other in ("x", "-1", "1.5", ".9", "99999999999999999999"):
        version(tmp_path / "m", other)
    (tmp_path / "m" / "5").write_text("a file")
    snapshot = source(tmp_path, wall).poll()
    assert sorted(snapshot.aspired) == [ServableId("m", number) for number in (0, 1, 7)]
    assert not snapshot.unsettled


def test_what_is_being_written_is_taken_once_it_rests(tmp_path, wall):
    """A fresh tree is unsettled until two polls in a row see the same names, sizes and times."""
    path = version(tmp_path / "m", "1")
    wall[0] -= LATER_S
    polled = source(tmp_path, wall)
    assert polled.poll().unsettled == {ServableId("m", 1)}
    (path / "variables").mkdir()
    assert not polled.poll().aspired
    (path / "variables" / "data").write_bytes(b"half")
    assert not polled.poll().aspired
    (path / "variables" / "data").write_bytes(b"whole!")
    assert not polled.poll().aspired
    snapshot = polled.poll()
    assert list(snapshot.aspired) == [ServableId("m", 1)]
    assert not snapshot.unsettled


def test_a_copy_that_keeps_old_times_is_not_taken_for_old(tmp_path, wall):
    """Files whose mtime was set back (`cp -p`) still have to rest."""
    path = version(tmp_path / "m", "1")
    wall[0] -= LATER_S
    for each in (path / "saved_model.pb", path):
        os.utime(each, (1e9, 1e9))
    polled = source(tmp_path, wall)
    assert not polled.poll().aspired
    assert polled.poll().aspired


def test_a_vanished_version_is_left_out_and_a_missing_base_path_changes_nothing(tmp_path, wall):
    """Omission means unload; but a base path that is gone (a share not mounted) omits nothing."""
    version(tmp_path / "m", "1")
    version(tmp_path / "m", "2")
    polled = source(tmp_path, wall)
    assert len(polled.poll().aspired) == 2
    shutil.rmtree(tmp_path / "m" / "2")
    assert list(polled.poll().aspired) == [ServableId("m", 1)]
    (tmp_path / "m").rename(tmp_path / "gone")
    assert list(polled.poll().aspired) == [ServableId("m", 1)]


def test_a_loaded_version_that_is_rewritten_stays_stated(tmp_path, wall):
    """While files change under a version that was taken, it is still stated, as it was."""
    path = version(tmp_path / "m", "1")
    polled = source(tmp_path, wall)
    before = polled.poll().aspired
    wall[0] -= LATER_S
    (path / "saved_model.pb").write_bytes(b"other")
    assert polled.poll().aspired == before
    assert polled.poll().aspired != before


def test_repository(tmp_path, wall):
    """Every folder of a repository is a model; a removed one is gone, a missing repository changes nothing."""
    repository = tmp_path / "models"
    version(repository / "a", "1")
    version(repository / "b", "3")
    version(repository / ".hidden", "1")
    polled = source(tmp_path, wall, models={}, repository=repository)
    assert sorted(polled.poll().aspired) == [ServableId("a", 1), ServableId("b", 3)]
    shutil.rmtree(repository / "a")
    assert sorted(polled.poll().aspired) == [ServableId("b", 3)]
    repository.rename(tmp_path / "gone")
    assert sorted(polled.poll().aspired) == [ServableId("b", 3)]


def test_hint_for_a_base_path_without_versions(tmp_path, wall, caplog):
    """A base path without versions is told of once, with what a version looks like."""
    (tmp_path / "m").mkdir()
    polled = source(tmp_path, wall)
    polled.poll()
    polled.poll()
    assert [record.getMessage() for record in caplog.records] == [
        f"no versions of m under {tmp_path / 'm'}: a version is a folder whose name is a number"
    ]


def test_one_broken_entry_hides_no_other(tmp_path, wall):
    """A link in a circle, among models or versions, is passed over; what stands beside it is stated."""
    version(tmp_path / "repository" / "m", "1")
    (tmp_path / "repository" / "circle").symlink_to("circle")
    (tmp_path / "repository" / "m" / "2").symlink_to("2")
    polled = source(tmp_path, wall, models={}, repository=tmp_path / "repository")
    assert list(polled.poll().aspired) == [ServableId("m", 1)]


def test_a_version_with_a_pipe_or_a_dangling_link_is_not_taken_and_told_of_once(tmp_path, wall, caplog):
    """To open a pipe would hold a load thread for ever; a version passed over in silence would be a riddle."""
    version(tmp_path / "m", "1")
    os.mkfifo(version(tmp_path / "m", "2") / "pipe")
    (version(tmp_path / "m", "3") / "link").symlink_to("nowhere")
    polled = source(tmp_path, wall)
    for _ in range(4):
        assert list(polled.poll().aspired) == [ServableId("m", 1)]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "neither a file nor a folder" in warnings[0]
    assert "No such file or directory" in warnings[1]
