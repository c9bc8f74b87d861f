import hashlib
import os
from pathlib import Path

import pytest
from support.edge_models import publish_scale
from support.signing_keys import KEY, OTHER

from fallback_server.core.errors import ExecutionFailed
from fallback_server.core.target import ModelTarget
from fallback_server.package_shelf import Shelf

TARGET = ModelTarget(name="scale", version=1)
FILE = "variants/float32.tflite"


class NothingServed:
    """What a shelf asks of a server without models."""

    def model(self, name):
        return None

    def folder(self, name, version):
        return None


@pytest.fixture
def package(tmp_path):
    return publish_scale(tmp_path / "packages", 1, 1.0, content=b"inside")


@pytest.fixture
def shelf(tmp_path, package):
    """Has read the package."""
    shelf = Shelf(NothingServed(), tmp_path / "packages")
    assert shelf.find(TARGET).digest == package.digest
    with shelf.open(TARGET, package.digest, FILE, 0) as file:
        assert file.read() == b"inside"
    return shelf


@pytest.mark.parametrize("where", ["variants", FILE])
def test_a_link_that_comes_after_the_package_was_read_leads_nowhere(tmp_path, shelf, package, where):
    """Neither in the middle of a path nor at its end, to a file of the same size outside."""
    outside = tmp_path / "outside" / FILE
    outside.parent.mkdir(parents=True)
    outside.write_bytes(b"secret")
    (package.path / where).rename(tmp_path / "before")
    (package.path / where).symlink_to(tmp_path / "outside" / where)
    with pytest.raises(ExecutionFailed, match="can't be read"):
        shelf.open(TARGET, package.digest, FILE, 0)
    assert not [path for path in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if str(tmp_path) in path]


def test_the_folder_of_a_package_may_be_a_link(tmp_path, package):
    """Where packages lie is the operator's."""
    (tmp_path / "linked" / "scale").mkdir(parents=True)
    (tmp_path / "linked" / "scale" / "1").symlink_to(package.path)
    shelf = Shelf(NothingServed(), tmp_path / "linked")
    with shelf.open(TARGET, package.digest, FILE, 2) as file:
        assert file.read() == b"side"


def test_a_signature_is_handed_out_from_when_it_is_there(shelf, package):
    """Beside the manifest, with its own size and digest; signed again, it is the new one, and without it none."""
    assert "manifest.sig" not in shelf.find(TARGET).files
    for key in (KEY, OTHER):
        signed = key.sign(package.digest)
        (package.path / "manifest.sig.new").write_bytes(signed)
        (package.path / "manifest.sig.new").rename(package.path / "manifest.sig")
        entry = shelf.find(TARGET).files["manifest.sig"]
        assert entry.sha256 == hashlib.sha256(signed).hexdigest()
        with shelf.open(TARGET, package.digest, "manifest.sig", 0) as file:
            assert file.read() == signed
    (package.path / "manifest.sig").unlink()
    assert "manifest.sig" not in shelf.find(TARGET).files
