import errno
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.archive_place import M7, Place
from support.converter_packages import publish_toy
from support.fallback_archives import SAVED_MODEL, write

from fallback_server.core import archive as archive_module
from fallback_server.core.archive import Unpacker
from fallback_server.core.errors import ArchiveRefused, LoadFailed
from fallback_server.core.model_config import ModelConfig
from fallback_server.core.notes import NOTES
from fallback_server.core.servable import ServableId
from fallback_server.core.source import FileSystemSource


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.mark.parametrize("top", ["", "7/", "007/", "m/", "m-7/", "m/7/", "./"])
def test_a_version_comes_out_of_its_archive(place, top):
    """With or without a folder that is named for it; the source states the same version before and after."""
    write(place.base / "7.tar.gz", {top + name: data for name, data in SAVED_MODEL.items()})
    aspired = place.prepare()
    assert aspired.archive == place.base / "7.tar.gz"
    assert (aspired.path / "saved_model.pb").read_bytes() == b"graph"
    assert place.files() == ["7", "7.tar.gz"]
    assert place.poll()[M7] == aspired
    place.prepare()
    assert not list((place.base / NOTES).glob("staging*"))


def test_a_bad_archive_fails_until_it_changes_and_leaves_nothing(place):
    """No version appears; a mended archive is another version's content, and comes out whole."""
    write(place.base / "7.zip", {"words": b"x"})
    before = place.poll()
    with pytest.raises(ArchiveRefused, match=r"7\.zip: saved_model\.pb is missing"):
        place.prepare(before)
    assert place.files() == ["7.zip"]
    write(place.base / "7.zip", SAVED_MODEL)
    after = place.poll()
    assert after != before
    place.prepare(after)
    assert place.files() == ["7", "7.zip"]


def test_a_frozen_graph_comes_out_of_an_archive_and_one_that_lacks_its_variables_does_not(place):
    """The graph tells, as with folders."""
    write(place.base / "7.zip", [("saved_model.pb", b"graph"), ("variables", None)])
    assert (place.prepare().path / "variables").is_dir()
    shutil.rmtree(place.base / "7")
    write(place.base / "7.zip", {"saved_model.pb": b"\x12\x0bVarHandleOp"})
    with pytest.raises(ArchiveRefused, match=r"7\.zip: variables/variables\.index is missing"):
        place.prepare()


def test_a_folder_of_another_name_is_refused(place):
    """An archive of version 6 must not become version 7."""
    write(place.base / "7.zip", {"6/" + name: data for name, data in SAVED_MODEL.items()})
    with pytest.raises(ArchiveRefused, match="holds a folder '6'; the version's files, or a folder called 7, m or m-7"):
        place.prepare()


def test_a_folder_that_is_there_already_wins_and_that_is_said_once(place, caplog):
    """Somebody's own version is never overwritten."""
    (place.base / "7").mkdir()
    (place.base / "7" / "saved_model.pb").write_bytes(b"own")
    write(place.base / "7.zip", SAVED_MODEL)
    for _ in range(3):
        assert place.prepare().archive is None
    assert (place.base / "7" / "saved_model.pb").read_bytes() == b"own"
    assert [record.getMessage() for record in caplog.records] == [
        f"{place.base / '7.zip'} is not unpacked: {place.base / '7'} is there, and not from it"
    ]


def test_a_newer_archive_replaces_what_came_out_of_the_older(place):
    """But not what somebody has changed since."""
    write(place.base / "7.zip", SAVED_MODEL)
    first = place.prepare()
    write(place.base / "7.zip", SAVED_MODEL | {"more": b"more"})
    second = place.prepare()
    assert second != first
    assert (place.base / "7" / "more").read_bytes() == b"more"
    (place.base / "7" / "more").write_bytes(b"changed by hand")
    write(place.base / "7.zip", SAVED_MODEL)
    assert place.prepare().archive is None
    assert (place.base / "7" / "more").read_bytes() == b"changed by hand"


def test_an_archive_that_changes_meanwhile_is_not_believed(place):
    """What was unpacked may be half of each."""
    write(place.base / "7.zip", SAVED_MODEL)
    aspired = place.poll()
    write(place.base / "7.zip", SAVED_MODEL | {"more": b"more"})
    with pytest.raises(LoadFailed, match="changed while it was unpacked"):
        place.prepare(aspired)
    assert place.files() == ["7.zip"]


def test_a_folder_of_its_own_for_what_is_unpacked(tmp_path):
    """For base paths that can't be written: nothing appears beside the archive, and it is found again."""
    place = Place(tmp_path, unpack_dir=tmp_path / "state")
    write(place.base / "7.tar.zst", SAVED_MODEL)
    aspired = place.prepare()
    assert aspired.path == tmp_path / "state" / "m" / "7"
    assert place.files() == ["7.tar.zst"]
    assert place.poll()[M7] == aspired
    mtime_ns = (aspired.path / "saved_model.pb").stat().st_mtime_ns
    place.prepare()
    assert (aspired.path / "saved_model.pb").stat().st_mtime_ns == mtime_ns
    assert Unpacker(unpack_dir=tmp_path).folder("..", place.base / "7.zip", 7) == tmp_path / "_.." / "7"


def test_what_was_unpacked_goes_with_its_archive(tmp_path, caplog):
    """Not while it is wanted or loaded, nor while its archive is there; after it also what former runs have left."""
    place = Place(tmp_path, unpack_dir=tmp_path / "state")
    folder = tmp_path / "state" / "m" / "7"
    write(place.base / "7.zip", SAVED_MODEL)
    place.prepare()
    Unpacker(unpack_dir=tmp_path / "state").tidy(())
    (place.base / "7.zip").unlink()
    place.unpacker.tidy({M7})
    assert (folder / "saved_model.pb").read_bytes() == b"graph"
    leftover = folder.parent / NOTES / "staging-0"
    leftover.mkdir()
    Unpacker(unpack_dir=tmp_path / "state").tidy({ServableId("m", 6)})
    assert not folder.exists()
    assert list((folder.parent / NOTES).iterdir()) == []
    write(place.base / "7.zip", SAVED_MODEL)
    place.prepare()
    assert (folder / "saved_model.pb").read_bytes() == b"graph"
    (folder / "words").write_bytes(b"by hand")
    (place.base / "7.zip").unlink()
    for _ in range(3):
        place.unpacker.tidy(())
    assert (folder / "words").exists()
    assert caplog.text.count("stays: it was changed since it was unpacked") == 1


def test_what_was_unpacked_stays_where_its_base_path_cannot_be_seen(tmp_path):
    """A share that is not mounted has lost no archive; a model's folder that is gone from a repository has."""
    place = Place(tmp_path / "share", unpack_dir=tmp_path / "state")
    folder = tmp_path / "state" / "m" / "7"
    write(place.base / "7.zip", SAVED_MODEL)
    place.prepare()
    (tmp_path / "share").rename(tmp_path / "elsewhere")
    place.unpacker.tidy(())
    assert folder.is_dir()
    (tmp_path / "share").mkdir()
    place.unpacker.tidy(())
    assert not folder.exists()


def test_an_archive_that_is_gone_takes_what_was_unpacked_beside_it_along(place, caplog):
    """The version is wanted no more at once; its folder goes when nobody has it loaded, and all is as before it."""
    write(place.base / "7.zip", SAVED_MODEL)
    place.prepare()
    (place.base / "7.zip").unlink()
    for _ in range(2):
        assert place.poll() == {}
        place.source.tidy({M7})
        assert place.files() == ["7"]
    assert "the archive that" in caplog.text
    assert "no versions of m" not in caplog.text
    place.source.tidy(())
    assert place.files() == []
    assert list((place.base / NOTES).iterdir()) == []
    write(place.base / "7.zip", SAVED_MODEL)
    place.prepare()
    assert place.files() == ["7", "7.zip"]


def test_another_archive_of_the_version_takes_the_place_of_the_one_that_is_gone(place):
    """Renamed, or packed in another way: it is the version."""
    write(place.base / "7.zip", SAVED_MODEL)
    place.prepare()
    write(place.base / "7.tgz", SAVED_MODEL | {"more": b"more"})
    (place.base / "7.zip").unlink()
    place.prepare()
    place.source.tidy(())
    assert place.files() == ["7", "7.tgz"]
    assert (place.base / "7" / "more").read_bytes() == b"more"


def changed(folder):
    (folder / "words").write_bytes(b"by hand")


def copied(folder):
    folder.rename(folder.parent / "before")
    shutil.copytree(folder.parent / "before", folder, symlinks=True)
    shutil.rmtree(folder.parent / "before")


def without_note(folder):
    (folder.parent / NOTES / f"{folder.name}.json").unlink()


@pytest.mark.parametrize("make_own", [changed, copied, without_note])
def test_a_folder_that_somebody_has_made_his_own_stays_without_its_archive(place, make_own):
    """Changed by hand, copied there with all its times, or without a note of its origin: a version by itself."""
    write(place.base / "7.zip", SAVED_MODEL)
    folder = place.prepare().path
    make_own(folder)
    (place.base / "7.zip").unlink()
    aspired = place.poll()[M7]
    assert (aspired.path, aspired.archive) == (folder, None)
    place.source.tidy(())
    place.unpacker.tidy((), {M7: folder})
    assert (folder / "saved_model.pb").read_bytes() == b"graph"


def test_what_was_unpacked_comes_again_where_it_alone_is_gone(place):
    """The archive is the version, whatever is loaded; what was never unpacked is left to its load."""
    write(place.base / "7.zip", SAVED_MODEL)
    place.poll()
    place.source.tidy({M7})
    assert place.unpacker._restoring is None
    assert place.files() == ["7.zip"]
    aspired = place.prepare()
    shutil.rmtree(place.base / "7")
    assert place.poll()[M7] == aspired
    place.source.tidy({M7})
    place.unpacker._restoring.join(30)
    assert (place.base / "7" / "saved_model.pb").read_bytes() == b"graph"
    assert place.poll()[M7] == aspired


def test_what_cannot_come_again_is_told_of_once(place, monkeypatch, caplog):
    """Not tried at every poll; and again once it was there."""
    write(place.base / "7.zip", SAVED_MODEL)
    place.prepare()
    shutil.rmtree(place.base / "7")
    place.poll()
    with monkeypatch.context() as patched:
        patched.setattr(archive_module, "unpack", failing)
        for _ in range(3):
            place.source.tidy({M7})
            place.unpacker._restoring.join(30)
    assert caplog.text.count("can't be unpacked again: [Errno 28] full") == 1
    assert place.files() == ["7.zip"]
    place.prepare()
    place.source.tidy({M7})
    shutil.rmtree(place.base / "7")
    place.source.tidy({M7})
    place.unpacker._restoring.join(30)
    assert place.files() == ["7", "7.zip"]


def failing(*_):
    raise OSError(errno.ENOSPC, "full")


def test_a_folder_that_somebody_makes_meanwhile_is_left_alone(place, monkeypatch):
    """It was not there when the unpacking began."""
    write(place.base / "7.zip", SAVED_MODEL)
    unpack = archive_module.unpack

    def slow(*args):
        unpack(*args)
        (place.base / "7").mkdir()
        (place.base / "7" / "own").write_bytes(b"own")

    monkeypatch.setattr(archive_module, "unpack", slow)
    with pytest.raises(LoadFailed, match="appeared while"):
        place.prepare()
    assert [path.name for path in (place.base / "7").iterdir()] == ["own"]


def test_an_archive_that_is_taken_away_meanwhile_is_named(place, monkeypatch):
    """Renamed or deleted while it is read: what was read is thrown away."""
    write(place.base / "7.zip", SAVED_MODEL)
    unpack = archive_module.unpack
    monkeypatch.setattr(
        archive_module, "unpack", lambda *args: (unpack(*args), (place.base / "7.zip").rename(place.base / "8.zip"))
    )
    with pytest.raises(LoadFailed, match=r"7\.zip was taken away while it was unpacked"):
        place.prepare()
    assert place.files() == ["8.zip"]


def test_one_version_is_unpacked_once_by_many_threads(place, monkeypatch):
    """Each finds it there in the end."""
    write(place.base / "7.zip", SAVED_MODEL)
    aspired = place.poll()[M7]
    unpack, calls = archive_module.unpack, []
    monkeypatch.setattr(archive_module, "unpack", lambda *args: (calls.append(args), unpack(*args)))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: place.unpacker.prepare(M7, aspired), range(8)))
    assert len(calls) == 1
    assert place.files() == ["7", "7.zip"]


SIDE_BY_SIDE = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from fallback_server.core.archive import Unpacker
from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.scan import read_archive
from fallback_server.core.servable import ServableId
base = Path(sys.argv[1])
print("there", flush=True)
sys.stdin.readline()
for number in map(int, sys.argv[2:]):
    archive = base / f"{{number}}.zip"
    version = AspiredVersion(path=base / str(number), fingerprint=read_archive(archive)[0], archive=archive)
    Unpacker().prepare(ServableId("m", number), version)
"""


@pytest.mark.slow
def test_servers_that_share_a_base_path_sweep_no_living_one_s_folder_away(place):
    """Three at a time, each with versions of its own and one that all have; all come out."""
    numbers = [str(number) for number in range(1, 91)]
    for number in (*numbers, "99"):
        write(place.base / f"{number}.zip", SAVED_MODEL)
    program = SIDE_BY_SIDE.format(path=[str(Path(__file__).parents[3])])
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(place.base), "99", *numbers[first::3]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in range(3)
    ]
    for child in children:
        assert child.stdout.readline() == "there\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    errors = [child.communicate(timeout=60)[1] for child in children]
    assert errors == ["", "", ""]
    assert all((place.base / number).is_dir() for number in (*numbers, "99"))


MACOS = {"._7": b"fork", ".DS_Store": b"look", "__MACOSX/._7": b"fork"}


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.zst", ".zip"])
@pytest.mark.parametrize("top", ["7/", "m/7/", ""])
def test_what_macos_adds_is_passed_over(place, suffix, top):
    """Beside the folder at the top, and beside the version's in the model's."""
    members = MACOS | {top + name: data for name, data in SAVED_MODEL.items()}
    if top == "m/7/":
        members |= {"m/._7": b"fork", "m/.DS_Store": b"look"}
    write(place.base / f"7{suffix}", members)
    place.prepare()
    assert sorted(path.name for path in (place.base / "7").iterdir()) == ["assets", "saved_model.pb"]


def test_an_archive_with_more_than_its_folder_tells_what_is_there(place):
    """What is missing is not where it is looked for."""
    write(place.base / "7.zip", {"7/" + name: data for name, data in SAVED_MODEL.items()} | {"README": b"read"})
    with pytest.raises(ArchiveRefused, match=r"saved_model\.pb is missing; beside each other are '7', 'README'"):
        place.prepare()


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.zst", ".zip"])
def test_an_archive_without_a_byte_is_refused(place, suffix):
    """An upload that has failed."""
    (place.base / f"7{suffix}").write_bytes(b"")
    with pytest.raises(ArchiveRefused, match="truncated"):
        place.prepare()


def test_a_package_is_verified(place, tmp_path):
    """A package of the converter's whose file was altered is no version."""
    package = publish_toy(tmp_path / "files", tmp_path / "store")
    members = {path.relative_to(package.path).as_posix(): path.read_bytes() for path in package.path.rglob("*.*")}
    sound = members | SAVED_MODEL
    write(place.base / "7.zip", sound)
    place.prepare()
    shutil.rmtree(place.base / "7")
    name = next(name for name in members if name.endswith(".tflite"))
    write(place.base / "7.zip", sound | {name: bytes(len(members[name]))})
    with pytest.raises(ArchiveRefused, match="SHA-256"):
        place.prepare()
    assert place.files() == ["7.zip"]


def test_an_archive_that_is_being_copied_is_not_taken(tmp_path):
    """It has to rest, as a folder has."""
    place = Place(tmp_path)
    place.source = FileSystemSource(
        configs=[ModelConfig(name="m", base_path=place.base)], packed=place.unpacker, wall_clock=time.time, settle_s=60
    )
    write(place.base / "7.zip", SAVED_MODEL)
    assert not place.poll()
    (place.base / "7.zip").write_bytes((place.base / "7.zip").read_bytes() + b"more")
    assert not place.poll()
    assert list(place.poll()) == [M7]
