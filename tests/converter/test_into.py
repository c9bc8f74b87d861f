import pytest
from support.converter_packages import publish_toy
from support.privileges import unprivileged

from converter.artifact import Package, PackageExists
from converter.errors import OptionInvalid
from converter.into import check_into, place_in
from converter.sources.kinds import digest


@pytest.fixture
def version(tmp_path):
    """What is called a SavedModel's version directory, by its main file."""
    directory = tmp_path / "serving" / "1"
    directory.mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(b"graph")
    return directory


def test_a_savedmodels_directory_takes_a_package(version):
    """With and without `assets.extra` there."""
    check_into(version, replace=False)
    (version / "assets.extra").mkdir()
    check_into(version, replace=False)


def test_what_can_not_take_one_is_refused_before_anything_runs(tmp_path, version):
    """No SavedModel; `assets.extra` a file, or without permission; the directory without permission."""
    with pytest.raises(OptionInvalid, match=r"into: .*holds no saved_model\.pb"):
        check_into(tmp_path, replace=False)
    (version / "assets.extra").write_text("in the way")
    with pytest.raises(OptionInvalid, match=r"assets\.extra is no directory"):
        check_into(version, replace=True)
    (version / "assets.extra").unlink()
    (version / "assets.extra").mkdir(mode=0o555)
    with unprivileged(), pytest.raises(OptionInvalid, match=r"assets\.extra can't be written to"):
        check_into(version, replace=True)
    (version / "assets.extra").rmdir()
    version.chmod(0o555)
    with unprivileged(), pytest.raises(OptionInvalid, match="1 can't be written to"):
        check_into(version, replace=True)
    version.chmod(0o755)


def test_a_package_that_is_there_is_named_and_kept(tmp_path, version):
    """It gives way only where told to."""
    publish_toy(tmp_path / "files", tmp_path / "out", version=4, copy_to=place_in(version))
    with pytest.raises(PackageExists, match="holds toy version 4"):
        check_into(version, replace=False)
    check_into(version, replace=True)


def test_a_package_that_was_laid_into_its_source_does_not_change_the_source(tmp_path, version):
    """The model has the same digest, or each conversion would make another package of it."""
    before = digest(version, "saved_model")
    package = publish_toy(tmp_path / "files", tmp_path / "out", copy_to=place_in(version))
    assert Package.open(place_in(version)).digest == package.digest
    (version / "assets.extra" / ".staging-left").mkdir()
    (version / "assets.extra" / ".staging-left" / "half").write_bytes(b"half")
    assert digest(version, "saved_model") == before
    (version / "assets.extra" / "other").write_bytes(b"the model's own")
    assert digest(version, "saved_model") != before
