import os

import pytest
from support.converter_packages import CONTENT, publish_toy
from support.privileges import unprivileged

from converter.artifact import (
    DigestMismatch,
    FormatTooNew,
    ManifestInvalid,
    Package,
    PackageError,
    PackageNotFound,
    PackageUnreadable,
)


@pytest.fixture
def package(tmp_path):
    return publish_toy(tmp_path / "files", tmp_path / "out")


def test_open_says_what_was_published(package):
    """An opened package equals the published one, and knows where its variants lie."""
    again = Package.open(package.path)
    assert again == package
    assert str(again) == "toy/1"
    assert again.file(again.manifest.variant("int8")).read_bytes() == CONTENT["sub/int8.tflite"]


def test_a_missing_directory_is_no_package(tmp_path):
    """A path with nothing there is named in PackageNotFound."""
    with pytest.raises(PackageNotFound, match="nowhere"):
        Package.open(tmp_path / "nowhere")


def test_a_directory_without_manifest_is_no_package(tmp_path):
    """An empty directory is no package."""
    with pytest.raises(PackageNotFound, match=r"manifest\.json"):
        Package.open(tmp_path)


@pytest.mark.parametrize("name", ["float32.tflite", "sub/int8.tflite"])
def test_a_truncated_file_is_refused(package, name):
    """One byte less is a digest mismatch, even without reading the bytes."""
    path = package.path / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DigestMismatch, match="bytes, the manifest says"):
        Package.open(package.path, verify=False)


def test_an_altered_file_is_refused(package):
    """A changed byte of the same length is a digest mismatch."""
    path = package.path / "float32.tflite"
    path.write_bytes(b"F" + path.read_bytes()[1:])
    with pytest.raises(DigestMismatch, match="SHA-256"):
        Package.open(package.path)


def test_a_missing_file_is_refused(package):
    """A file that the manifest lists must be there."""
    (package.path / "float32.tflite").unlink()
    with pytest.raises(DigestMismatch, match="missing"):
        Package.open(package.path)


@pytest.mark.parametrize("name", ["float32.tflite", "sub"])
def test_a_link_is_refused_even_to_the_same_bytes(package, tmp_path, name):
    """A file, or a folder on the way to it, that is a link could change later."""
    path = package.path / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DigestMismatch, match="link"):
        Package.open(package.path)


def test_a_fifo_is_refused_and_not_waited_for(package):
    """A named pipe in a file's place is not opened: it would block for ever."""
    path = package.path / "float32.tflite"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DigestMismatch):
        Package.open(package.path)


def test_an_altered_manifest_is_refused(package):
    """A manifest that still parses but differs from its own digest is a digest mismatch."""
    path = package.path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"toy"', b'"tox"'))
    with pytest.raises(DigestMismatch, match=r"manifest\.json"):
        Package.open(package.path)


def test_a_later_format_is_refused_before_anything_else(package):
    """A package of a later format says so, whatever else this program would not understand of it."""
    (package.path / "manifest.json").write_text('{"format_version": 99, "new": []}')
    with pytest.raises(FormatTooNew, match="format 99"):
        Package.open(package.path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 1_000_000, b'"' * 5])
def test_a_broken_manifest_digest_is_refused(package, content):
    """Whatever stands in manifest.sha256, the answer is a package error."""
    (package.path / "manifest.sha256").write_bytes(content)
    with pytest.raises(DigestMismatch):
        Package.open(package.path)


@pytest.mark.parametrize(("old", "new"), [("  ", " !"), ("  ", "\t "), ("\n", "\n\n"), ("json", "jso"), ("\n", "")])
def test_a_manifest_digest_is_what_sha256sum_prints(package, old, new):
    """Its own bytes are checked to the letter too, so that two packages of one digest are the same."""
    path = package.path / "manifest.sha256"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DigestMismatch, match=r"is not what `sha256sum manifest\.json` prints"):
        Package.open(package.path)


def test_a_huge_manifest_is_not_read(package, monkeypatch):
    """A manifest beyond the bound is refused by its size."""
    os.truncate(package.path / "manifest.json", 17 * 2**20)
    with pytest.raises(ManifestInvalid, match="at most"):
        Package.open(package.path)


def test_a_name_too_long_for_the_file_system_is_a_package_error(package):
    """The file system's refusal of a listed path is told as a package error."""
    path = package.path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"float32.tflite", b"f" * 5_000))
    with pytest.raises(PackageError):
        Package.open(package.path)


def test_read_gives_the_bytes_that_were_published(package):
    """The bytes of a listed file; what the manifest does not list is a KeyError."""
    assert {name: package.read(name) for name in CONTENT} == CONTENT
    with pytest.raises(KeyError):
        package.read("manifest.json")


@pytest.mark.parametrize("data", [b"", b"x", CONTENT["float32.tflite"][:-1] + b"!", CONTENT["float32.tflite"] + b"!"])
def test_read_verifies_what_it_returns(package, data):
    """A file altered after the package was opened is refused when it is read, not only when it is opened."""
    (package.path / "float32.tflite").write_bytes(data)
    with pytest.raises(DigestMismatch):
        package.read("float32.tflite")


def test_read_takes_no_link_and_no_removed_file(package, tmp_path):
    """A file that went away, or became a link to the same bytes, is refused."""
    path = package.path / "float32.tflite"
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(DigestMismatch, match="missing"):
        package.read("float32.tflite")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DigestMismatch, match="link"):
        package.read("float32.tflite")


def test_what_can_not_be_read_is_a_package_error(package):
    """A file without permission is named in PackageUnreadable, at opening and at reading."""
    path = package.path / "float32.tflite"
    path.chmod(0)
    with unprivileged(), pytest.raises(PackageUnreadable, match=r"float32\.tflite: can't be read: Permission denied"):
        Package.open(package.path)
    with unprivileged(), pytest.raises(PackageUnreadable, match=r"float32\.tflite"):
        package.read("float32.tflite")
