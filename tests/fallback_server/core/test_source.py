import os
import shutil

import pytest

from fallback_server.core import scan
from fallback_server.core import source as source_module
from fallback_server.core.model_config import ModelConfig, PolicyKind, VersionPolicy
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
    defaults = {"configs": [config(tmp_path)], "settle_s": 1.0, "wall_clock": lambda: wall[0]}
    return FileSystemSource(**(defaults | options))


def config(tmp_path, name="m", kind=PolicyKind.ALL, **policy):
    return ModelConfig(name=name, base_path=tmp_path / name, version_policy=VersionPolicy(kind=kind, **policy))


def numbers(snapshot):
    return sorted(servable_id.version for servable_id in snapshot.aspired)


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
    (path / "assets").mkdir()
    assert not polled.poll().aspired
    (path / "assets" / "words").write_bytes(b"half")
    assert not polled.poll().aspired
    (path / "assets" / "words").write_bytes(b"whole!")
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
    polled = source(tmp_path, wall, configs=(), repository=repository)
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
    polled = source(tmp_path, wall, configs=(), repository=tmp_path / "repository")
    assert list(polled.poll().aspired) == [ServableId("m", 1)]


def test_a_version_with_a_pipe_is_not_taken_and_told_of_once(tmp_path, wall, caplog):
    """To open a pipe would hold a load thread for ever; a version passed over in silence would be a riddle."""
    version(tmp_path / "m", "1")
    os.mkfifo(version(tmp_path / "m", "2") / "pipe")
    polled = source(tmp_path, wall)
    for _ in range(4):
        snapshot = polled.poll()
        assert list(snapshot.aspired) == [ServableId("m", 1)]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "neither a file nor a folder" in warning
    assert "neither a file nor a folder" in snapshot.incomplete[ServableId("m", 2)]
    (tmp_path / "m" / "2" / "pipe").unlink()
    assert polled.poll().incomplete == {}


@pytest.mark.parametrize("target", ["nowhere", "note", "saved_model.pb/x"])
def test_a_link_that_leads_nowhere_keeps_no_version_from_being_served(tmp_path, wall, target):
    """TensorFlow's loader does not read it; that it leads elsewhere now is a change. One that is needed is missing."""
    path = version(tmp_path / "m", "1")
    (path / "note").symlink_to(target)
    polled = source(tmp_path, wall)
    before = polled.poll().aspired[ServableId("m", 1)]
    (path / "note").unlink()
    (path / "note").symlink_to("elsewhere")
    assert polled.poll().aspired[ServableId("m", 1)] != before
    (path / "saved_model.pb").unlink()
    (path / "saved_model.pb").symlink_to("nowhere")
    assert source(tmp_path, wall).poll().incomplete == {ServableId("m", 1): "saved_model.pb is missing"}


def with_variables(path, count):
    path.mkdir(parents=True)
    (path / "variables.index").write_bytes(bytes([0, 0, 6, 8, 2, 26, 2, 8, 1]))
    for index in range(count):
        (path / f"variables.data-0000{index}-of-00002").write_bytes(b"x")
    return path


def test_variables_that_are_linked_are_looked_into(tmp_path, wall):
    """As a store without copies lays them out: what lacks is seen, and what changes."""
    path = version(tmp_path / "m", "1")
    (path / "variables").symlink_to(with_variables(tmp_path / "store" / "variables", 1))
    polled = source(tmp_path, wall)
    lack = "variables/variables.data-00001-of-00002 is missing"
    assert polled.poll().incomplete == {ServableId("m", 1): lack}
    (tmp_path / "store" / "variables" / "variables.data-00001-of-00002").write_bytes(b"x")
    before = polled.poll().aspired
    assert list(before) == [ServableId("m", 1)]
    (tmp_path / "store" / "variables" / "variables.data-00001-of-00002").write_bytes(b"other")
    assert polled.poll().aspired != before


def test_links_to_folders_that_lead_up_or_that_nobody_reads_are_not_followed(tmp_path, wall):
    """In a circle, to the versions beside it, or to all that there is: each is only an entry."""
    path = version(tmp_path / "m", "1")
    (path / "assets" / "deep").mkdir(parents=True)
    for name, target in (
        ("up", "."),
        ("versions", "../.."),
        ("all", "/"),
        ("deep/back", ".."),
        ("deep/same", "../deep"),
    ):
        (path / "assets" / name).symlink_to(target)
    (path / "proc").symlink_to("/proc")
    files = scan.read_tree(path).files
    assert list(files) == ["saved_model.pb"]
    assert source(tmp_path, wall).poll().aspired


def test_what_lies_behind_links_is_bounded(tmp_path, wall, monkeypatch):
    """Links to folders with links to folders can have more entries than there are files."""
    path = version(tmp_path / "m", "1")
    for depth in range(12):
        folder = path / "assets" / str(depth)
        folder.mkdir(parents=True)
        for name in ("a", "b"):
            (folder / name).symlink_to(f"../{depth + 1}")
    monkeypatch.setattr(scan, "MAX_LINKED", 1000)
    polled = source(tmp_path, wall)
    for _ in range(2):
        snapshot = polled.poll()
    assert "more than 1000 files and folders behind links" in snapshot.incomplete[ServableId("m", 1)]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_version_that_is_closed_to_the_server_says_so(tmp_path, wall):
    """Its state tells why it is not loaded."""
    path = version(tmp_path / "m", "1")
    path.chmod(0)
    polled = source(tmp_path, wall)
    for _ in range(2):
        snapshot = polled.poll()
    path.chmod(0o700)
    assert "Permission denied" in snapshot.incomplete[ServableId("m", 1)]


def test_folders_that_no_model_can_be_called_after_are_passed_over(tmp_path, wall, caplog):
    """No reply could carry the first; the others would break lines. Each is told of once, on one line."""
    for name in (b"mod\xff", b"two\nlines", b"bell\x07", "separator\u2028".encode()):
        version(tmp_path / "models" / os.fsdecode(name), "1")
    for name in ("m\u00f6del", "\u6a21\u578b", "a b"):
        version(tmp_path / "models" / name, "1")
    polled = source(tmp_path, wall, configs=(), repository=tmp_path / "models")
    for _ in range(3):
        aspired = polled.poll().aspired
        assert sorted(each.name for each in aspired) == ["a b", "m\u00f6del", "\u6a21\u578b"]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 4
    assert all(warning.encode() for warning in warnings)
    assert sum("is no UTF-8" in warning for warning in warnings) == 1
    assert sum("has control characters" in warning for warning in warnings) == 3


def test_a_repository_has_no_more_models_than_can_be_listed(tmp_path, wall, monkeypatch, caplog):
    """The first by name are served; that there are more is told."""
    monkeypatch.setattr(source_module, "MAX_MODELS", 2)
    for name in "cab":
        version(tmp_path / "models" / name, "1")
    polled = source(tmp_path, wall, configs=(), repository=tmp_path / "models")
    for _ in range(2):
        assert sorted(each.name for each in polled.poll().aspired) == ["a", "b"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'models' / 'c'} and what follows it by name is passed over: at most 2 models are served"
    ]


def test_times_in_the_future_only_make_it_wait_for_a_second_look(tmp_path, wall):
    """A clock that was set back, or another machine's."""
    path = version(tmp_path / "m", "1")
    wall[0] -= 2 * LATER_S
    os.utime(path, (4e9, 4e9))
    polled = source(tmp_path, wall)
    assert not polled.poll().aspired
    assert polled.poll().aspired


def test_the_policy_of_each_model_chooses(tmp_path, wall):
    """The highest two, those that are named, all: each model by its own policy."""
    for name in ("two", "named", "all"):
        for number in ("1", "2", "3"):
            version(tmp_path / name, number)
    polled = source(
        tmp_path,
        wall,
        configs=[
            config(tmp_path, "two", PolicyKind.LATEST, num_versions=2),
            config(tmp_path, "named", PolicyKind.SPECIFIC, versions=(1, 8)),
            config(tmp_path, "all"),
        ],
    )
    aspired = polled.poll().aspired
    assert sorted((each.name, each.version) for each in aspired) == [
        ("all", 1),
        ("all", 2),
        ("all", 3),
        ("named", 1),
        ("two", 2),
        ("two", 3),
    ]


def test_a_newer_version_displaces_none_before_it_is_complete(tmp_path, wall):
    """latest(1): while version 2 is being copied, version 1 stays."""
    version(tmp_path / "m", "1")
    polled = source(tmp_path, wall, configs=[config(tmp_path, kind=PolicyKind.LATEST)])
    assert numbers(polled.poll()) == [1]
    path = tmp_path / "m" / "2"
    path.mkdir()
    for _ in range(3):
        snapshot = polled.poll()
        assert numbers(snapshot) == [1]
    assert snapshot.incomplete == {ServableId("m", 2): "saved_model.pb is missing"}
    (path / "saved_model.pb").write_bytes(b"x")
    assert numbers(polled.poll()) == [2]


def test_an_incomplete_version_is_told_of_once_and_taken_when_it_is_complete(tmp_path, wall, caplog):
    """A copy that has stalled rests, and is still not taken: a shard of its variables lacks."""
    path = version(tmp_path / "m", "1")
    (path / "variables").mkdir()
    (path / "variables" / "variables.index").write_bytes(bytes([0, 0, 6, 8, 2, 26, 2, 8, 1]))
    (path / "variables" / "variables.data-00000-of-00002").write_bytes(b"x")
    polled = source(tmp_path, wall)
    for _ in range(3):
        snapshot = polled.poll()
        assert not snapshot.aspired
        assert list(snapshot.unsettled) == [ServableId("m", 1)]
    assert len(caplog.records) == 1
    assert f"{{name: m version: 1}} at {path} is not loaded while it is incomplete: " in caplog.text
    assert "variables/variables.data-00001-of-00002 is missing" in caplog.text
    (path / "variables" / "variables.data-00001-of-00002").write_bytes(b"y")
    assert numbers(polled.poll()) == [1]


VARIABLE = b"\x0a\x03one\x12\x0bVarHandleOp"
"""A node of a graph: its name, and its operation."""


@pytest.mark.parametrize("folder", [True, False])
def test_a_graph_tells_whether_variables_are_to_come(tmp_path, wall, caplog, folder):
    """One that has none is taken as soon as it rests, one that has some waits for them for ever; which is said once."""
    frozen, trained = version(tmp_path / "m", "1"), version(tmp_path / "m", "2", b"x" * 10 + VARIABLE + b"x" * 10)
    if folder:
        (frozen / "variables").mkdir()
        (trained / "variables").mkdir()
    polled = source(tmp_path, wall)
    for _ in range(3):
        snapshot = polled.poll()
        assert numbers(snapshot) == [1]
        assert snapshot.incomplete == {ServableId("m", 2): "variables/variables.index is missing"}
        wall[0] += 1e6
    assert len(caplog.records) == 1
    (trained / "variables").mkdir(exist_ok=True)
    (trained / "variables" / "variables.index").write_bytes(bytes([0, 0, 6, 8, 1, 26, 2, 8, 1]))
    (trained / "variables" / "variables.data-00000-of-00001").write_bytes(b"x")
    assert numbers(polled.poll()) == [1, 2]


def test_a_graph_is_read_through_once(tmp_path, wall, monkeypatch):
    """Not at every poll; and again when it has changed."""
    path = version(tmp_path / "m", "1")
    read = []
    monkeypatch.setattr(source_module, "read_restores", lambda folder: bool(read.append(folder)))
    polled = source(tmp_path, wall)
    for _ in range(3):
        assert numbers(polled.poll()) == [1]
    assert read == [path]
    (path / "saved_model.pb").write_bytes(b"other")
    for _ in range(3):
        polled.poll()
    assert read == [path, path]


def test_the_configuration_can_be_replaced(tmp_path, wall):
    """The next poll knows the new set, and says so: models come and go, policies change."""
    for name in ("m", "n"):
        version(tmp_path / name, "1")
        version(tmp_path / name, "2")
    polled = source(tmp_path, wall)
    assert polled.poll().generation == 0
    assert polled.set_configs([config(tmp_path, "n", PolicyKind.LATEST)]) == 1
    snapshot = polled.poll()
    assert list(snapshot.aspired) == [ServableId("n", 2)]
    assert snapshot.generation == 1


def test_two_folders_of_one_number(tmp_path, wall, caplog):
    """`007` and `7` are one version: the first is taken, the other told of once."""
    version(tmp_path / "m", "007")
    version(tmp_path / "m", "7")
    polled = source(tmp_path, wall)
    polled.poll()
    (aspired,) = polled.poll().aspired.values()
    assert aspired.path == tmp_path / "m" / "007"
    assert len(caplog.records) == 1
    assert "is passed over: version 7 of m is" in caplog.text


def test_why_nothing_of_a_model_is_there(tmp_path, wall):
    """No path, no version, none that the policy names, none that is whole: each in words; nothing where all is well."""
    polled = source(tmp_path, wall, configs=[config(tmp_path)])
    place = tmp_path / "m"
    assert polled.poll().lacks == {"m": f"base path {place} can't be read: No such file or directory"}
    place.mkdir()
    assert polled.poll().lacks["m"].startswith(f"no version in {place}: a version is a folder or an archive")
    (place / "1").mkdir()
    assert polled.poll().lacks == {"m": f"version 1 in {place} is not complete, or may still be being written"}
    version(place, "2")
    assert polled.poll().lacks == {}
    polled.set_configs([config(tmp_path, kind=PolicyKind.SPECIFIC, versions=(9,))])
    assert polled.poll().lacks == {"m": f"no version in {place} is one of specific(9); there is 1, 2"}
    shutil.rmtree(place)
    polled.set_configs([config(tmp_path)])
    assert "can't be read" in polled.poll().lacks["m"]


def test_a_version_that_has_moved_is_unsettled_until_its_new_place_is_taken(tmp_path, wall):
    """Whoever waits for the configuration must not be told of the old place."""
    version(tmp_path / "a", "1")
    polled = source(tmp_path, wall, configs=[ModelConfig(name="m", base_path=tmp_path / "a")])
    polled.poll()
    wall[0] -= LATER_S
    path = version(tmp_path / "b", "1")
    polled.set_configs([ModelConfig(name="m", base_path=tmp_path / "b")])
    snapshot = polled.poll()
    assert snapshot.unsettled == {ServableId("m", 1)}
    assert snapshot.aspired[ServableId("m", 1)].path == tmp_path / "a" / "1"
    snapshot = polled.poll()
    assert not snapshot.unsettled
    assert snapshot.aspired[ServableId("m", 1)].path == path
