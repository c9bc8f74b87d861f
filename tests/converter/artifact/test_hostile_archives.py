"""Archives and manifests that were made to harm: each is refused by name, at once, and leaves nothing behind."""

import gzip
import io
import json
import lzma
import stat
import tarfile
import tracemalloc
import zipfile

import pytest
from support.converter_packages import manifest_for, publish_toy, tree_bytes, write_files

from converter.artifact import ManifestInvalid, PackageError, UnsafeArchive, install
from converter.artifact.archive import MAX_ARCHIVE_MEMBERS, unpack
from converter.artifact.schema import MAX_MANIFEST_BYTES, MAX_VALUES, MAX_VARIANTS, decode, encode


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """A good archive's: (name, bytes), the manifest first."""
    folder = tmp_path_factory.mktemp("toy")
    package = publish_toy(folder / "files", folder / "out")
    found = tree_bytes(package.path)
    return [(f"toy/1/{name}", found[name]) for name in sorted(found, key=lambda name: ("manifest" not in name, name))]


def tar(members, form=tarfile.PAX_FORMAT, **options):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form, **options) as opened:
        for head, data in members:
            info = tarfile.TarInfo(head) if isinstance(head, str) else head
            if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
                info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def member(name, **fields):
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def wide_folder(number):
    """A member with a header of 1 MiB, which takes 4 MiB as a text: one of its characters has 4 bytes."""
    return member(f"toy/1/{number}", type=tarfile.DIRTYPE, pax_headers={"k": "a" * 1_000_000 + "\U0001f600"})


def zipped(members):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as opened:
        for name, data in members:
            opened.writestr(name, data)
    return raw.getvalue()


HOSTILE = {
    # What follows the end, or is missing there.
    "text behind": (lambda m: gzip.compress(tar(m)) + b"text", "Not a gzipped file"),
    "a stream behind": (lambda m: gzip.compress(tar(m)) + gzip.compress(b"x"), "something follows its end"),
    "a bomb behind": (lambda m: gzip.compress(tar(m)) + gzip.compress(bytes(40 << 20)), "bytes follow its end"),
    "an archive behind": (lambda m: gzip.compress(tar(m) + tar([("toy/1/evil", b"x")])), "something follows its end"),
    "no checksum": (lambda m: gzip.compress(tar(m))[:-6], "damaged"),
    "another checksum": (lambda m: gzip.compress(tar(m))[:-8] + bytes(8), "CRC check failed"),
    "no end": (
        lambda m: gzip.compress(tar(m)[: -(len(tar(m)) - len(tar(m).rstrip(b"\0"))) // 512 * 512]),
        "end|missing",
    ),
    "half": (lambda m: gzip.compress(tar(m)[:2000]), "truncated"),
    "nothing but zeros": (lambda _m: gzip.compress(bytes(64 << 20)), "bytes follow its end|holds 0 packages"),
    # Names.
    "a name twice": (lambda m: gzip.compress(tar([*m, m[-1]])), "'int8.tflite' twice"),
    "every name one": (lambda m: gzip.compress(tar(m, pax_headers={"path": "toy/1/one"})), "for all members"),
    "another case": (lambda m: gzip.compress(tar([*m, ("toy/1/FLOAT32.tflite", b"x")])), "does not list"),
    "control characters": (lambda _m: gzip.compress(tar([("toy/1/a\x1b[31m\r\nb", b"x")])), "plain path"),
    "right to left": (lambda _m: gzip.compress(tar([("toy/1/a\u202eb", b"x")])), "plain path"),
    "no UTF-8": (lambda _m: gzip.compress(tar([("toy/1/\udcff", b"x")], tarfile.GNU_FORMAT)), "plain path"),
    "NUL": (lambda _m: gzip.compress(tar([(member("x", pax_headers={"path": "toy/1/a\0b"}), b"x")])), "plain path"),
    "a long name": (lambda _m: gzip.compress(tar([("toy/1/" + "y" * 60_000, b"")], tarfile.GNU_FORMAT)), "1024 bytes"),
    "no name": (lambda _m: gzip.compress(tar([("", b"x")])), "plain path"),
    # Headers.
    "a header of 8 MiB": (
        lambda _m: gzip.compress(tar([(member("toy/1/x", pax_headers={"comment": "A" * (8 << 20)}), b"x")])),
        "a header claims",
    ),
    "a size in a header": (
        lambda _m: gzip.compress(tar([(member("toy/1/x", pax_headers={"size": "99999999999"}), b"x")])),
        "unpacks to more",
    ),
    "many headers": (
        lambda _m: gzip.compress(tar([(wide_folder(n), b"") for n in range(12)])),
        "its members' headers take more",
    ),
    # Numbers.
    "10,000 files": (lambda _m: gzip.compress(tar([(f"toy/1/{n}", b"") for n in range(10_000)])), "files and folders"),
    "10,000 files behind a manifest": (
        lambda m: gzip.compress(tar([m[0], *((f"toy/1/{n}", b"") for n in range(10_000))])),
        "does not list",
    ),
    "10,000 folders": (
        lambda _m: gzip.compress(tar([(member(f"toy/1/{n}", type=tarfile.DIRTYPE), b"") for n in range(10_000)])),
        f"more than {MAX_ARCHIVE_MEMBERS} members",
    ),
    "a large manifest": (
        lambda _m: gzip.compress(tar([("toy/1/manifest.json", bytes(MAX_MANIFEST_BYTES + 1))])),
        "at most 16777216 are read",
    ),
    "a large signature": (lambda m: gzip.compress(tar([*m, ("toy/1/manifest.sig", bytes(5000))])), "at most 4096"),
    # Other kinds.
    "gzip in gzip": (lambda m: gzip.compress(gzip.compress(tar(m))), "no .tar.gz"),
    "zip": (zipped, "Not a gzipped file"),
    "xz": (lambda m: lzma.compress(tar(m)), "Not a gzipped file"),
    "not compressed": (tar, "Not a gzipped file"),
    **{
        f"a member of type {kind!r}": (
            lambda m, kind=kind: gzip.compress(tar([(member("toy/1/sub", type=kind, linkname="/tmp"), b""), *m])),
            "is a link, a device or sparse",
        )
        for kind in (b"1", b"2", b"3", b"4", b"6", b"7", b"D", b"M", b"V", b"S", b"z")
    },
}


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        (b'"source":{"format":"","digest":"","metrics":{"a":{', b'"%d":1,', b'"b":1}}}}'),
        (b'"labels":[', b'"label",', b'""]}'),
        (b'"signatures":[{"inputs":[{"quantization":{"scales":[', b"%d,", b"1]}}]}]}"),
        (b'"files":{', b'"%d":{},', b'"b":{}}}'),
    ],
)
def test_a_large_manifest_takes_little_memory(before, value, after):
    """Many small values take ten times as much as their text: they are counted before they are read."""
    whole = b'{"format_version":2,' + before
    values = b"".join(value.replace(b"%d", b"%d" % n) for n in range(MAX_VALUES + 1))
    data = whole + values + after
    assert len(data) < MAX_MANIFEST_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(ManifestInvalid, match=r"the manifest has \d+ values: at most 524288 are allowed"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_no_member_s_headers_are_remembered(tmp_path, members):
    """The memory for one member's is all that those of a whole archive take."""

    def peak_bytes(folders):
        archive = tmp_path / f"{folders}.tar.gz"
        archive.write_bytes(gzip.compress(tar([*((wide_folder(n), b"") for n in range(folders)), *members])))
        tracemalloc.start()
        try:
            unpack(archive, tmp_path / str(folders))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_bytes(6) < peak_bytes(2) + 4_000_000


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path, members, name):
    """By the archive's name, in a text that is none of its own length; the store is empty afterwards."""
    make, says = HOSTILE[name]
    archive = tmp_path / "bad.tar.gz"
    archive.write_bytes(make(members))
    with pytest.raises(PackageError, match=rf"bad\.tar\.gz.*({says})") as raised:
        install(archive, tmp_path / "store")
    assert len(str(raised.value)) < 1000
    assert str(raised.value).isprintable()
    assert ".staging" not in str(raised.value)
    assert not list((tmp_path / "store").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar.gz", "store"]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("zeros", [0, 1 << 20])
def test_what_other_programs_pack_is_taken(tmp_path, members, form, zeros):
    """In each form, filled up with zeros; rights that an archive gives are nobody's."""
    unowned = [(member(name, mode=0o6777, uid=0, gid=0), data) for name, data in members]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar(unowned, form) + bytes(zeros)))
    package = install(tmp_path / "a.tar.gz", tmp_path / "store")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in package.path.rglob("*") if path.is_file()}
    assert not any(mode & 0o7111 for mode in modes)


def changed(tmp_path, **changes):
    found = json.loads(encode(manifest_for(write_files(tmp_path))))
    return json.dumps(found | {name: change(found) for name, change in changes.items()}).encode()


@pytest.mark.parametrize(
    ("field", "change", "says"),
    [
        ("files", lambda m: {**m["files"], "FLOAT32.tflite": m["files"]["float32.tflite"]}, "knows no case"),
        ("files", lambda m: {**m["files"], "sub": m["files"]["float32.tflite"]}, "other files lie in it"),
        ("files", lambda m: {**m["files"], "a\x1bb": m["files"]["float32.tflite"]}, "plain path"),
        ("files", lambda m: {**m["files"], "x" * 10**6: m["files"]["float32.tflite"]}, "255 of a name"),
        ("files", lambda m: {**m["files"], "manifest.sig": m["files"]["float32.tflite"]}, "can't list itself"),
        ("variants", lambda m: m["variants"] * (MAX_VARIANTS // 2 + 1), f"at most {MAX_VARIANTS}"),
        ("chosen", lambda _m: {"default": "float32", **{str(n): "float32" for n in range(10_000)}}, "at most 10000"),
        ("signatures", lambda m: m["signatures"] * 1_001, "at most 1000"),
        ("chosen", lambda _m: {"default": "x" * 10**6}, "there are"),
        ("model", lambda _m: "x" * 10**6, "model name"),
        ("version", lambda _m: 10**4000, "version"),
    ],
    ids=range(11),
)
def test_a_hostile_manifest_is_refused_in_few_words(tmp_path, field, change, says):
    """Names that are one elsewhere, tables that would be held against each other for long, and texts without end."""
    with pytest.raises(ManifestInvalid) as raised:
        decode(changed(tmp_path, **{field: change}))
    said = str(raised.value)
    assert len(said) < 2100
    assert says in said or len(said) > 2000


def test_a_link_to_a_package_is_the_operator_s_and_one_inside_is_not_followed(tmp_path):
    """The folder that is named may be one; what lies in it may not."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    (tmp_path / "link").symlink_to(package.path)
    assert install(tmp_path / "link", tmp_path / "store").digest == package.digest
    (package.path / "sub").rename(tmp_path / "elsewhere")
    (package.path / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackageError, match="a link where the manifest says a file"):
        install(tmp_path / "link", tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_an_unsafe_archive_is_one_for_every_reader(tmp_path, members, capsys):
    """`edge-convert inspect`, `verify` and `sign`, `edge-run install` and `bench`: each says so, and ends with 2."""
    from converter.cli import main as convert
    from edge_runtime.cli import main as run

    archive = tmp_path / "bad.tar.gz"
    archive.write_bytes(HOSTILE["a member of type b'2'"][0](members))
    with pytest.raises(UnsafeArchive):
        install(archive, tmp_path / "store")
    for main, words in (
        (convert, ["inspect", archive]),
        (convert, ["verify", archive]),
        (run, ["install", archive, "--store", tmp_path / "store"]),
        (run, ["bench", archive]),
    ):
        assert main([str(word) for word in words]) == 2
        assert "is a link, a device or sparse" in capsys.readouterr().err
