"""Extended headers that cost tarfile minutes or all memory are refused before it sees them, on both sides."""

import gzip
import io
import tarfile

import pytest

from converter.artifact import UnsafeArchive
from converter.artifact import archive as device
from converter.artifact.tar_headers import MAX_DIGITS, MAX_RECORDS, HeaderCheck
from fallback_server.core.errors import ArchiveRefused
from fallback_server.core.unpacking import UnpackOptions
from fallback_server.core.unpacking import unpack as server_unpack

MANY = 1_000_000


def header(kind, data):
    info = tarfile.TarInfo("toy/1/x")
    info.type, info.size = kind, len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def record(key, value):
    size = len(key) + len(value) + 3
    for digits in range(1, 9):
        if len(str(size + digits)) == digits:
            return f"{size + digits} {key}={value}\n".encode()
    raise AssertionError("too long a record")


HOSTILE = {
    "for all": (header(tarfile.XGLTYPE, record("comment", "5f3a")), "holds a header for all members that follow"),
    "for all, behind a name": (
        header(tarfile.GNUTYPE_LONGNAME, b"toy/1/y\0") + header(tarfile.XGLTYPE, b""),
        "holds a header for all members that follow",
    ),
    "digits": (header(tarfile.XHDTYPE, b"1" * MANY), "damaged"),
    "digits for a value": (header(tarfile.XHDTYPE, record("c", "1" * MANY)), "more than 100 digits in a row"),
    "digits for Solaris": (header(tarfile.SOLARIS_XHDTYPE, record("c", "1" * MANY)), "more than 100 digits"),
    "records in records": (header(tarfile.XHDTYPE, b"2 " * (MANY // 2) + b"="), "an extended header is damaged"),
    "a record longer than all": (header(tarfile.XHDTYPE, b"4000000 a=b\n"), "an extended header is damaged"),
    "a record without a name": (header(tarfile.XHDTYPE, b"5 =b\n"), "has no name"),
    "something behind the zeros": (header(tarfile.XHDTYPE, record("a", "b") + b"\0" + b"a" * 9), "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_on_both_sides(tmp_path, name):
    """By the archive's name; the worst would take a quarter of an hour, or some hundred gigabytes."""
    data, says = HOSTILE[name]
    path = tmp_path / "1.tar.gz"
    path.write_bytes(gzip.compress(data + header(tarfile.REGTYPE, b"x") + bytes(1024)))
    with pytest.raises(UnsafeArchive, match=rf"1\.tar\.gz.*{says}"):
        device.unpack(path, tmp_path / "device")
    (tmp_path / "server").mkdir()
    with pytest.raises(ArchiveRefused, match=rf"1\.tar\.gz.*{says}"):
        server_unpack(path, tmp_path / "server", UnpackOptions())


def test_all_records_of_an_archive_are_counted():
    """Not of one member alone."""
    check, data = HeaderCheck(), record("a", "") * (MAX_RECORDS // 4)
    for _ in range(4):
        check.see(header(tarfile.XHDTYPE, data)[:512])
        check.see(data)
    check.see(header(tarfile.XHDTYPE, data)[:512])
    with pytest.raises(ValueError, match="more than 1048576 records"):
        check.see(data)


def test_what_programs_write_passes(tmp_path):
    """Long names, times, attributes with line ends and nearly any digits in them; content is not looked at."""
    headers = {"SCHILY.xattr.user.a": "1=2\n3 4=5\n", "mtime": "1700000000.123456789", "n": "1" * MAX_DIGITS}
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("toy/1/" + "long-" * 30 + "é")
        info.pax_headers, content = headers, header(tarfile.XGLTYPE, b"") * 3
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    path = tmp_path / "1.tar.gz"
    path.write_bytes(gzip.compress(raw.getvalue()))
    assert device.unpack(path, tmp_path / "device") == tmp_path / "device" / "toy" / "1"
    assert (tmp_path / "device" / info.name).read_bytes() == content
    (tmp_path / "server").mkdir()
    server_unpack(path, tmp_path / "server", UnpackOptions())
