import gzip
import io
import re
import shutil
import tarfile
from types import SimpleNamespace

import pytest
from support.converter_packages import publish_toy, tar_gz, tree_bytes

from converter.artifact import DigestMismatch, ManifestInvalid, UnsafeArchive, archive_path, install
from converter.artifact.archive import MAX_ARCHIVE_MEMBERS, unpack


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def sparse(headers, size=512):
    """A member of a plain file's type that its extended header calls sparse."""
    info = member("toy/1/x")
    info.size = size
    info.pax_headers = headers
    return info


def nothing_outside(tmp_path, store):
    """Nothing was installed, and nothing lies where an escaping path would have put it."""
    return not list(store.rglob("*")) and not (tmp_path / "evil").exists()


def test_an_archive_installs_to_the_published_bytes(tmp_path):
    """What an archive installs is byte for byte what was published."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    found = install(archive_path(tmp_path / "out", "toy", 1), tmp_path / "store")
    assert tree_bytes(found.path) == tree_bytes(package.path)
    assert found.path == tmp_path / "store" / "toy" / "1"


def test_equal_packages_are_equal_archives(tmp_path):
    """Publishing twice gives the same archive, byte for byte."""
    for name in ("one", "two"):
        publish_toy(tmp_path / "files", tmp_path / name)
    assert (
        archive_path(tmp_path / "one", "toy", 1).read_bytes() == archive_path(tmp_path / "two", "toy", 1).read_bytes()
    )


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("../../evil", "plain path"),
        ("toy/1/../../../evil", "plain path"),
        ("/evil", "plain path"),
        ("toy/1/./x", "plain path"),
        ("toy\\1\\x", "plain path"),
        ("toy/evil", "NAME/VERSION"),
        (member("toy/1/x", tarfile.SYMTYPE, "/etc/passwd"), "plain files"),
        (member("toy/1/x", tarfile.LNKTYPE, "../../evil"), "plain files"),
        (member("toy/1/x", tarfile.CHRTYPE), "plain files"),
        (member("toy/1/x", tarfile.BLKTYPE), "plain files"),
        (member("toy/1/x", tarfile.FIFOTYPE), "plain files"),
        (member("toy/1/x", tarfile.GNUTYPE_SPARSE), "plain files"),
        ("toy/1/" + "x/" * 40 + "x", "at most 32"),
    ],
)
def test_paths_that_escape_and_links_are_refused(tmp_path, head, says):
    """A member that would lie outside, or is no plain file, is refused before it is written."""
    store = tmp_path / "store"
    archive = tar_gz(tmp_path / "bad.tar.gz", [(head, b"x")])
    with pytest.raises(UnsafeArchive, match=says):
        install(archive, store)
    assert nothing_outside(tmp_path, store)


@pytest.mark.parametrize(
    "names", [["toy/1/x", "toy/1/x"], ["toy/1/x", "toy/1/x/y"], ["toy/1/x/y", "toy/1/x"], ["toy/1/" + "x" * 300]]
)
def test_names_that_collide_or_can_not_be_are_refused(tmp_path, names):
    """A file named twice, a file that is also a folder, and a name too long are the archive's fault."""
    with pytest.raises(UnsafeArchive):
        unpack(tar_gz(tmp_path / "bad.tar.gz", [(name, b"x") for name in names]), tmp_path / "to")


def test_two_packages_in_one_archive_are_refused(tmp_path):
    """An archive holds one package."""
    with pytest.raises(UnsafeArchive, match="2 packages"):
        unpack(tar_gz(tmp_path / "bad.tar.gz", [("a/1/x", b""), ("b/1/x", b"")]), tmp_path / "to")


def test_an_empty_archive_is_refused(tmp_path):
    """An archive without members holds no package."""
    with pytest.raises(UnsafeArchive, match="0 packages"):
        unpack(tar_gz(tmp_path / "bad.tar.gz", []), tmp_path / "to")


def test_too_many_members_are_refused(tmp_path):
    """Folders count too: they cost time."""
    members = [(member(f"toy/1/{index}", tarfile.DIRTYPE), b"") for index in range(MAX_ARCHIVE_MEMBERS + 1)]
    with pytest.raises(UnsafeArchive, match="members"):
        unpack(tar_gz(tmp_path / "bad.tar.gz", members), tmp_path / "to")


def test_folders_that_are_only_on_the_way_count_too(tmp_path):
    """Few members in deep folders take as many entries of a disk as many members do."""
    way = "/".join("abcdefghij")
    members = [(f"toy/1/{index}/{way}/x", b"") for index in range(MAX_ARCHIVE_MEMBERS // 10)]
    with pytest.raises(UnsafeArchive, match=f"more than {MAX_ARCHIVE_MEMBERS} files and folders"):
        unpack(tar_gz(tmp_path / "bad.tar.gz", members), tmp_path / "to")


def test_an_archive_begins_with_its_manifest(tmp_path):
    """Whatever the others are called: who unpacks it knows then what is to come."""
    publish_toy(tmp_path / "files", tmp_path / "out", content={"a.tflite": b"a", "b.tflite": b"b"})
    with tarfile.open(archive_path(tmp_path / "out", "toy", 1)) as tar:
        assert tar.getnames() == [
            f"toy/1/{name}" for name in ("manifest.json", "manifest.sha256", "a.tflite", "b.tflite")
        ]


@pytest.mark.parametrize(
    ("name", "data", "error", "says"),
    [
        ("extra.so", b"x", UnsafeArchive, "holds 'extra.so', which the manifest does not list"),
        ("float32.tflite", b"x", DigestMismatch, "float32.tflite has 1 bytes, the manifest says 500"),
        ("manifest.sha256", bytes(5000), UnsafeArchive, "manifest.sha256 has 5000 bytes, at most 4096"),
    ],
)
def test_what_the_manifest_does_not_list_is_refused_before_it_is_written(tmp_path, name, data, error, says):
    """Of the archive's name; without a byte of it on the disk."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    first = ("toy/1/manifest.json", (package.path / "manifest.json").read_bytes())
    bad = tar_gz(tmp_path / "bad.tar.gz", [first, (f"toy/1/{name}", data)])
    with pytest.raises(error, match=rf"bad\.tar\.gz: {re.escape(says)}"):
        unpack(bad, tmp_path / "to")
    assert tree_bytes(tmp_path / "to") == {first[0]: first[1]}


def test_a_manifest_that_is_refused_ends_the_unpacking(tmp_path):
    """What whoever was told of it raises is raised as it is; a manifest that is none names the archive."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")

    def check(manifest):
        assert manifest == package.manifest
        raise ValueError("no room") from OSError("the cause")

    with pytest.raises(ValueError, match="no room") as raised:
        unpack(archive_path(tmp_path / "out", "toy", 1), tmp_path / "to", check=check)
    assert isinstance(raised.value.__cause__, OSError)
    assert list(tree_bytes(tmp_path / "to")) == ["toy/1/manifest.json"]
    with pytest.raises(ManifestInvalid, match=r"no\.tar\.gz: the manifest"):
        unpack(tar_gz(tmp_path / "no.tar.gz", [("toy/1/manifest.json", b"{")]), tmp_path / "other")


def test_a_damaged_archive_is_named_itself(tmp_path):
    """Not the folder that it was unpacked into, which is gone."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    members = [
        (f"toy/1/{name}", bytes(len(data)) if "tflite" in name else data)
        for name, data in tree_bytes(package.path).items()
    ]
    with pytest.raises(DigestMismatch, match=r"bad\.tar\.gz/float32\.tflite: SHA-256") as raised:
        install(tar_gz(tmp_path / "bad.tar.gz", members), tmp_path / "store")
    assert ".staging" not in str(raised.value)


@pytest.mark.parametrize("kind", ["directory", "archive", "manifest last"])
def test_a_disk_without_room_is_refused_before_it_is_full(tmp_path, monkeypatch, kind):
    """Something stays free; the error is the store's."""
    package = publish_toy(tmp_path / "files", tmp_path / "out", content={"a": bytes(9000), "b": bytes(2000)})
    source = {"directory": package.path, "archive": archive_path(tmp_path / "out", "toy", 1)}.get(kind)
    if source is None:
        members = [(f"toy/1/{name}", data) for name, data in reversed(tree_bytes(package.path).items())]
        source = tar_gz(tmp_path / "last.tar.gz", sorted(members, key=lambda one: "manifest" in one[0]))
    free = SimpleNamespace(free=12_000, total=40_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: free)
    refusal = (
        pytest.raises(UnsafeArchive, match="unpacks to more than 10000 bytes")
        if kind == "manifest last"
        else pytest.raises(OSError, match=r"No space left on device: 11000 bytes come, 10000 may be taken: .*store")
    )
    with refusal:
        install(source, tmp_path / "store")
    assert not list((tmp_path / "store").iterdir())


def test_a_bomb_is_refused_before_it_is_written(tmp_path):
    """What a member claims to unpack to is held against the bound first."""
    archive = tar_gz(tmp_path / "bomb.tar.gz", [("toy/1/a", bytes(2_000_000))])
    with pytest.raises(UnsafeArchive, match="unpacks to more"):
        unpack(archive, tmp_path / "to", max_bytes=1_000_000)
    assert not (tmp_path / "to").exists()


def test_many_members_that_add_up_to_a_bomb_are_refused(tmp_path):
    """The bound is on all members together."""
    archive = tar_gz(tmp_path / "bomb.tar.gz", [(f"toy/1/{index}", bytes(900_000)) for index in range(10)])
    with pytest.raises(UnsafeArchive, match="unpacks to more"):
        unpack(archive, tmp_path / "to", max_bytes=1_000_000)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_gigabytes_is_not_read(tmp_path, kind):
    """An extended header is read whole by tarfile: one that claims 4 GiB is refused instead."""
    info = member("x", kind)
    info.size = 2**32
    raw = io.BytesIO(info.tobuf(tarfile.USTAR_FORMAT) + bytes(4_096))
    (tmp_path / "bad.tar.gz").write_bytes(gzip.compress(raw.getvalue()))
    with pytest.raises(UnsafeArchive, match="claims"):
        unpack(tmp_path / "bad.tar.gz", tmp_path / "to")


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "0,512", "GNU.sparse.size": str(500 * 2**20)},
        {"GNU.sparse.map": "0,512,524287488,512", "GNU.sparse.realsize": str(500 * 2**20)},
        {"GNU.sparse.size": str(500 * 2**20), "GNU.sparse.numblocks": "0"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(500 * 2**20)},
        {"GNU.sparse.name": "toy/1/y"},
    ],
)
@pytest.mark.parametrize("scope", ["member", "archive"])
def test_sparse_members_of_a_plain_type_are_refused(tmp_path, headers, scope):
    """A few bytes that an extended header expands to hundreds of megabytes are refused, and nothing is written."""
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz", pax_headers=headers if scope == "archive" else {}) as tar:
        tar.addfile(sparse(headers if scope == "member" else {}), io.BytesIO(b"0\n".ljust(512, b"\0")))
    with pytest.raises(UnsafeArchive):
        unpack(path, tmp_path / "to", max_bytes=150 * 2**20)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("size", [-1, -512, -(2**40)])
def test_a_negative_size_is_refused(tmp_path, kind, size):
    """A size below 0, in the header or in an extended one, would lead back to what was read."""
    info = member("toy/1/x", kind)
    info.size = size
    raw = info.tobuf(tarfile.GNU_FORMAT)
    extended = tarfile.TarInfo("toy/1/x")
    extended.pax_headers = {"size": str(size)}
    for number, data in enumerate((raw, extended.tobuf(tarfile.PAX_FORMAT))):
        path = tmp_path / f"{number}.tar.gz"
        path.write_bytes(gzip.compress(data + bytes(1024)))
        with pytest.raises(UnsafeArchive):
            unpack(path, tmp_path / "to")


def test_headers_after_headers_are_refused(tmp_path):
    """Extended headers that follow each other take neither the stack nor the memory."""
    header = member("x", tarfile.XHDTYPE)
    header.size = 512
    block = header.tobuf(tarfile.USTAR_FORMAT) + b"9 a=bcd\n".ljust(512, b"\0")
    for number, times in enumerate((900, 5_000)):
        path = tmp_path / f"{number}.tar.gz"
        path.write_bytes(gzip.compress(block * times + bytes(1024)))
        with pytest.raises(UnsafeArchive):
            unpack(path, tmp_path / "to")


@pytest.mark.parametrize("size", [1, 511, 512, 513, 3 * 2**20])
def test_a_member_cut_short_is_refused(tmp_path, size):
    """An archive that ends within a member, or within the zeros after it, is truncated."""
    data = gzip.decompress(tar_gz(tmp_path / "a.tar.gz", [("toy/1/x", bytes(size))]).read_bytes())
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(data[: 511 + size]))
    with pytest.raises(UnsafeArchive, match="truncated"):
        unpack(tmp_path / "b.tar.gz", tmp_path / "to")


def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path):
    """An archive brings nothing that no digest covers."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    members = [(f"toy/1/{name}", data) for name, data in tree_bytes(package.path).items()]
    with pytest.raises(UnsafeArchive, match=r"extra\.so"):
        install(tar_gz(tmp_path / "more.tar.gz", [*members, ("toy/1/extra.so", b"x")]), tmp_path / "store")


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive at all", gzip.compress(b"no tar"), gzip.compress(bytes(512))],
    ids=["nothing", "text", "no tar", "zeros"],  # gzip writes the time, and processes that test have to agree on names
)
def test_what_is_no_archive_is_refused(tmp_path, content):
    """Any other file is refused by name."""
    (tmp_path / "no.tar.gz").write_bytes(content)
    with pytest.raises(UnsafeArchive):
        install(tmp_path / "no.tar.gz", tmp_path / "store")
