"""Random damage: whatever is done to a package's bytes, it is refused by name or still the same package."""

import gzip
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.converter_packages import publish_toy, tree_bytes

from converter.artifact import Package, PackageError, archive_path, install

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("damage")
    return publish_toy(root / "files", root / "out")


def damaged(data, draw):
    """Bytes with a few changed, cut off, or added."""
    changed = bytearray(data)
    kind = draw(st.sampled_from(["flip", "truncate", "append", "zero"]))
    at = draw(st.integers(0, len(changed) - 1))
    if kind == "flip":
        changed[at] ^= draw(st.integers(1, 255))
    elif kind == "truncate":
        del changed[at:]
    elif kind == "append":
        changed += draw(st.binary(min_size=1, max_size=20))
    else:
        end = at + draw(st.integers(1, 600))
        changed[at:end] = bytes(len(changed[at:end]))
    return bytes(changed)


def install_or_refuse(archive, store, published):
    """Installs; a refusal is fine, an install must be the published package."""
    try:
        package = install(archive, store)
    except PackageError:
        return
    assert package.digest == published.digest
    assert tree_bytes(package.path) == tree_bytes(published.path)


@FUZZ
@given(data=st.data())
def test_a_damaged_archive_is_refused_or_harmless(published, tmp_path, data):
    """Damage to the compressed bytes never gives another package or another kind of error."""
    content = archive_path(published.path.parents[1], "toy", 1).read_bytes()
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(damaged(content, data.draw))
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    install_or_refuse(archive, tmp_path / "store", published)


@FUZZ
@given(data=st.data())
def test_a_damaged_tar_is_refused_or_harmless(published, tmp_path, data):
    """Likewise for damage below the compression, where gzip's own checksum does not help."""
    content = gzip.decompress(archive_path(published.path.parents[1], "toy", 1).read_bytes())
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(damaged(content, data.draw), compresslevel=1))
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    install_or_refuse(archive, tmp_path / "store", published)


@FUZZ
@given(data=st.data())
def test_a_damaged_file_is_refused_or_harmless(published, tmp_path, data):
    """Likewise for any one file of an opened directory, the manifest included."""
    root = tmp_path / "toy"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(published.path, root)
    name = data.draw(st.sampled_from(sorted(tree_bytes(root))))
    (root / name).write_bytes(damaged((root / name).read_bytes(), data.draw))
    try:
        package = Package.open(root)
    except PackageError:
        return
    assert package.digest == published.digest
    assert package.manifest == published.manifest
