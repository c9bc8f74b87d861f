import pytest
from support.edge_models import publish_scale

from edge_runtime import InvalidConfig, PackageRefused
from edge_runtime.store.store import Store


def test_installed_versions(tmp_path):
    """Versions are listed ascending by model; what is no package is passed over."""
    for version in (10, 2):
        publish_scale(tmp_path, version, 1.0)
    (tmp_path / "stray").mkdir()
    (tmp_path / "scale" / "007").mkdir()
    assert Store(tmp_path).installed() == {"scale": [2, 10]}


def test_missing_store_is_refused(tmp_path):
    """A folder that is not there is refused by name."""
    with pytest.raises(InvalidConfig, match="nowhere: no such directory"):
        Store(tmp_path / "nowhere")


def test_labels_point_to_installed_versions(tmp_path):
    """A label is set, moved, and refused for a version that is not there."""
    publish_scale(tmp_path, 1, 1.0)
    publish_scale(tmp_path, 2, 1.0)
    store = Store(tmp_path)
    assert store.labels("scale") == {}
    store.label("scale", "stable", 1)
    store.label("scale", "canary", 2)
    store.label("scale", "stable", 2)
    assert store.labels("scale") == {"stable": 2, "canary": 2}
    with pytest.raises(InvalidConfig, match=r"scale/9 is not installed; there are \[1, 2\]"):
        store.label("scale", "stable", 9)


def test_damaged_labels_are_refused(tmp_path):
    """A labels file that can't be read is an error, not an empty one."""
    publish_scale(tmp_path, 1, 1.0)
    (tmp_path / "scale" / "labels.json").write_text('{"stable": "one"}')
    with pytest.raises(InvalidConfig, match="labels must be a JSON object"):
        Store(tmp_path).labels("scale")


def test_package_in_the_wrong_place_is_refused(tmp_path):
    """A package that lies under another version's name is not taken for that version."""
    publish_scale(tmp_path, 1, 1.0)
    (tmp_path / "scale" / "1").rename(tmp_path / "scale" / "2")
    with pytest.raises(PackageRefused, match=r"holds scale/1, not scale/2"):
        Store(tmp_path).open("scale", 2)


def test_altered_package_is_refused(tmp_path):
    """One changed byte in a model file refuses the package."""
    package = publish_scale(tmp_path, 1, 1.0)
    file = package.file(package.manifest.variants[0])
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(PackageRefused, match="SHA-256"):
        Store(tmp_path).open("scale", 1)
