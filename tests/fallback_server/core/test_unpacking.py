import errno
import gzip
import io
import os
import tarfile
import zipfile
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fallback_archives import SAVED_MODEL, link, tar_bytes, write

from fallback_server.core import members, unpacking
from fallback_server.core.errors import ArchiveRefused
from fallback_server.core.unpacking import UnpackOptions, unpack

SUFFIXES = (".tar.gz", ".tgz", ".tar.zst", ".zip")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def into(tmp_path):
    """An empty folder in a guarded one: nothing may appear beside it."""
    folder = tmp_path / "guarded" / "into"
    folder.mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    yield folder
    assert list((tmp_path / "guarded").iterdir()) == [folder]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_kind_is_unpacked(tmp_path, into, suffix):
    """Files, folders, an empty file, and a link within, from each kind of archive."""
    members = [*SAVED_MODEL.items(), ("empty", b""), ("deep/er", None), ("deep/link", link("../assets/words"))]
    unpack(write(tmp_path / f"1{suffix}", members), into, UnpackOptions())
    assert contents(into) == SAVED_MODEL | {"empty": b"", "deep/link": b"a b c"}
    assert (into / "deep" / "er").is_dir()


EVIL = {
    "absolute": [("/etc/evil", b"x")],
    "upwards": [("../evil", b"x")],
    "upwards within": [("a/../../evil", b"x")],
    "twice": [("a", b"x"), ("./a", b"y")],
    "file and folder": [("a", b"x"), ("a/b", b"y")],
    "link out": [("a", link("../../secret"))],
    "absolute link": [("a", link("/etc/passwd"))],
    "dangling link": [("a", link("nowhere"))],
    "link in a circle": [("a", link("b")), ("b", link("a"))],
    "write through a link": [("a", link(".")), ("a/b", b"x")],
    "write through a link, file first": [("d/b", b"x"), ("d", link("."))],
    "link through a link": [("d/e/f", b"x"), ("d/l", link("..")), ("s", link("d/l/../../secret"))],
    "too deep": [("/".join("a" * 40), b"x")],
    "long name": [("a" * 300, b"x")],
    "backslash": [("a\\b", b"x")],
}


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
@pytest.mark.parametrize("case", EVIL)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_would_escape_is_refused(tmp_path, into, suffix, case):
    """Nothing is written outside, whatever names and links say, and the refusal names the archive."""
    archive = write(tmp_path / f"1{suffix}", EVIL[case])
    with pytest.raises(ArchiveRefused, match=f"1{suffix}"):
        unpack(archive, into, UnpackOptions())


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_hard_links_devices_and_pipes_are_refused(tmp_path, into, kind):
    """None of them belongs to a model."""
    archive = write(tmp_path / "1.tgz", [("a", b"x"), ("b", link("a", kind))])
    with pytest.raises(ArchiveRefused, match="'b' is a hard link, a device, a pipe or sparse"):
        unpack(archive, into, UnpackOptions())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_bytes": 99_999}, "at most 99999 are allowed"),
        ({"max_entries": 2}, "holds more than 2 files and folders"),
        ({"max_ratio": 5, "ratio_from_bytes": 1000}, "unpack to more than 5 times as many"),
    ],
)
def test_bounds_are_held(tmp_path, into, suffix, options, text):
    """Bytes, entries, and what little becomes much."""
    archive = write(tmp_path / f"1{suffix}", {"a": b"", "b": b"", "c": bytes(100_000)})
    with pytest.raises(ArchiveRefused, match=text):
        unpack(archive, into, UnpackOptions(**options))


def test_what_is_written_counts_not_what_is_claimed(tmp_path, into, monkeypatch):
    """A zip whose directory says that it holds little."""
    archive = write(tmp_path / "1.zip", {"a": bytes(100_000)})
    monkeypatch.setattr(unpacking, "claimed_bytes", lambda _: 1)
    with pytest.raises(ArchiveRefused, match="at most 5000 are allowed"):
        unpack(archive, into, UnpackOptions(max_bytes=5000))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_archives_are_refused(tmp_path, into, suffix):
    """Cut off anywhere, or with a byte turned over: refused by name, and never an error of a library."""
    whole = write(tmp_path / f"1{suffix}", {"saved_model.pb": os.urandom(3000), "b": b"y" * 500}).read_bytes()
    archive = tmp_path / f"2{suffix}"
    for cut in (0, 1, 10, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        archive.write_bytes(whole[:cut])
        (into / str(cut)).mkdir()
        with pytest.raises(ArchiveRefused):
            unpack(archive, into / str(cut), UnpackOptions())
    for at in (0, len(whole) // 2):
        turned = bytearray(whole)
        turned[at] ^= 0xFF
        archive.write_bytes(turned)
        (into / f"turned-{at}").mkdir()
        if suffix == ".tar.zst" and at:
            continue  # Written without a checksum, as some tools do: the digests of a package tell.
        with pytest.raises(ArchiveRefused):
            unpack(archive, into / f"turned-{at}", UnpackOptions())


def test_a_tar_without_its_end_is_truncated(tmp_path, into):
    """Cut between two members it looks whole, but for its end."""
    archive = tmp_path / "1.tar.gz"
    archive.write_bytes(gzip.compress(tar_bytes([("a", b"x")], end=False)))
    with pytest.raises(ArchiveRefused, match="its end is missing"):
        unpack(archive, into, UnpackOptions())


def test_headers_and_directories_are_bounded(tmp_path, into):
    """A header that claims megabytes is not read, nor a zip's directory that does."""
    archive = tmp_path / "1.tar.gz"
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    archive.write_bytes(gzip.compress(long_name.tobuf() + bytes(4096)))
    with pytest.raises(ArchiveRefused, match="headers take more than"):
        unpack(archive, into, UnpackOptions())
    archive = write(tmp_path / "1.zip", {"a": b"x"})
    data = bytearray(archive.read_bytes())
    data[-10:-6] = (1 << 30).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(ArchiveRefused, match="its directory takes 1073741824 bytes"):
        unpack(archive, into, UnpackOptions())


def test_an_encrypted_zip_is_refused(tmp_path, into):
    """Nobody is asked for a password."""
    archive = write(tmp_path / "1.zip", {"a": b"x"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(data)
    assert zipfile.ZipFile(archive).infolist()[0].flag_bits & 1
    with pytest.raises(ArchiveRefused, match=r"1\.zip can't be read"):
        unpack(archive, into, UnpackOptions())


def test_a_full_disk_is_told_before_it_is_full(tmp_path, into, monkeypatch):
    """It is the disk's fault and not the archive's: tried again."""
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="1000 bytes are free") as refused:
        unpack(write(tmp_path / "1.zip", {"a": b"x"}), into, UnpackOptions())
    assert refused.value.errno == errno.ENOSPC


NAMES = st.text(st.sampled_from("ab./\\\0é"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.one_of(st.binary(max_size=20), st.none(), NAMES.map(link))), max_size=6),
    st.sampled_from([".tar.gz"]),
)
def test_no_archive_writes_outside(tmp_path_factory, members, suffix):
    """Whatever names and links are made up: unpacked below the folder, or refused."""
    place = tmp_path_factory.mktemp("place")
    (place / "into").mkdir()
    archive = write(place / f"1{suffix}", members)
    root = (place / "into").resolve()
    try:
        unpack(archive, root, UnpackOptions())
    except ArchiveRefused:
        pass  # A link may be left, behind which nothing was written; who unpacks throws it all away.
    else:
        assert all(path.resolve().is_relative_to(root) for path in root.rglob("*"))
    assert sorted(place.iterdir()) == [archive, place / "into"]


MILLION = os.fsdecode(b"\xff" * 400_000)


@pytest.mark.parametrize(
    "members",
    [
        [(MILLION, b"x")],
        [("a", link(MILLION))],
        [("b", link(MILLION)), ("b", b"x")],
        [(MILLION, link("a", tarfile.LNKTYPE))],
        [("/".join("a" * 400), link("/" + MILLION))],
    ],
)
def test_a_refusal_repeats_no_name_of_any_length(tmp_path, into, members):
    """It goes into logs and replies."""
    archive = write(tmp_path / "1.tar.gz", members)
    with pytest.raises(ArchiveRefused) as caught:
        unpack(archive, into, UnpackOptions())
    assert len(str(caught.value)) < 2000
    assert str(caught.value).encode()


def test_a_refusal_of_a_zip_repeats_no_name_of_any_length(tmp_path, into):
    """Nor what its library says of two names that differ."""
    archive = write(tmp_path / "1.zip", {"n" * 60_000: b"x"})
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b"n" * 60_000, b"m" * 60_000, 1))
    with pytest.raises(ArchiveRefused) as caught:
        unpack(archive, into, UnpackOptions())
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("behind", "says"),
    [
        (lambda data: gzip.compress(data) + b"text", "truncated or damaged"),
        (lambda data: gzip.compress(data) + gzip.compress(b"x"), "something follows its end"),
        (lambda data: gzip.compress(data + tar_bytes([("evil", b"x")])), "something follows its end"),
        (lambda data: gzip.compress(data) + gzip.compress(bytes(80 << 20)), "bytes follow its end"),
    ],
    ids=["text", "stream", "archive", "bomb"],
)
def test_what_follows_an_archive_s_end_is_refused(tmp_path, into, behind, says):
    """Zeros alone may: another program may see what this one does not."""
    archive = tmp_path / "1.tar.gz"
    archive.write_bytes(behind(tar_bytes([("a", b"x")])))
    with pytest.raises(ArchiveRefused, match=says):
        unpack(archive, into, UnpackOptions())


def test_rights_that_an_archive_gives_are_nobody_s(tmp_path, into):
    """No file runs as another user, or at all."""
    archive = tmp_path / "1.tar.gz"
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("a")
        info.size, info.mode, info.uid = 1, 0o6777, 0
        tar.addfile(info, io.BytesIO(b"x"))
    archive.write_bytes(gzip.compress(raw.getvalue() + bytes(1 << 20)))
    unpack(archive, into, UnpackOptions())
    assert not (into / "a").stat().st_mode & 0o7111


def test_the_headers_of_all_members_are_bounded(tmp_path, into, monkeypatch):
    """Also of a folder that comes again and again, which counts as one."""
    monkeypatch.setattr(members, "MAX_HEADERS_BYTES", 1 << 20)
    archive = write(tmp_path / "1.tar.gz", [("a", None)] * 4096)
    with pytest.raises(ArchiveRefused, match="its members' headers take more than 1048576 bytes"):
        unpack(archive, into, UnpackOptions())
