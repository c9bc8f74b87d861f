import shutil

import pytest
from support.converter_packages import publish_toy

from converter import inspection
from converter.artifact import DigestMismatch, PackageNotFound, archive_path


def test_inspecting_says_what_the_manifest_says(tmp_path):
    """The directory and the archive give the same, each under its own path."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    archive = archive_path(tmp_path / "out", "toy", 1)
    found, packed = inspection.inspect(package.path).to_dict(), inspection.inspect(archive).to_dict()
    assert found["package"] == str(package.path)
    assert packed == {**found, "package": str(archive)}
    assert found["chosen"] == {"default": "float32"}
    assert [(one["name"], one["status"], one["size_bytes"]) for one in found["variants"]] == [
        ("float32", "ok", 500),
        ("int8", "ok", 150),
    ]


def test_a_damaged_package_is_not_inspected(tmp_path):
    """Nothing is shown of what can't be trusted."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    (package.path / "float32.tflite").write_bytes(b"x" * 500)
    with pytest.raises(DigestMismatch):
        inspection.inspect(package.path)
    with pytest.raises(PackageNotFound):
        inspection.inspect(tmp_path / "none")


@pytest.mark.slow
def test_verifying_runs_every_variant(cnn_package):
    """A package that was made here runs."""
    assert [one.status for one in inspection.verify(cnn_package[1] / "cnn-1.tar.gz").variants] == ["ok"] * 3


@pytest.mark.slow
def test_a_variant_that_does_not_run_is_a_failure_of_its_own(tmp_path):
    """Files that are whole but no models: each is told, and the command goes on."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    found = inspection.verify(package.path)
    assert [one.status for one in found.variants] == ["failed", "failed"]
    assert all(one.error for one in found.variants)
    shutil.rmtree(package.path)
