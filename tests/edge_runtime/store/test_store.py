import multiprocessing
import os
import threading

import pytest
from support.edge_models import publish_scale
from support.privileges import unprivileged

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


@pytest.fixture
def store(tmp_path):
    publish_scale(tmp_path / "store", 1, 1.0)
    return Store(tmp_path / "store")


@pytest.mark.parametrize("name", ["../other", "..", "", "x/y", "x" * 300, "x\0y", "scale\n"])
def test_names_that_can_not_be_a_models_are_refused(store, name):
    """A name that leads out of the store, or that no file system takes, is refused before anything is read."""
    outside = store.path.parent / "other"
    outside.mkdir()
    (outside / "labels.json").write_text('{"stable": 1}')
    for asked in (lambda: store.labels(name), lambda: store.label(name, "stable", 1), lambda: store.open(name, 1)):
        with pytest.raises(InvalidConfig, match="model name"):
            asked()


def test_a_version_that_can_not_be_is_refused(store):
    """A version outside of 1..2^63-1 is refused like a name."""
    for version in (0, 2**63):
        with pytest.raises(InvalidConfig, match="must be from 1"):
            store.open("scale", version)


@pytest.mark.parametrize("label", ["", "x" * 129, "a\nb", "\udcff", "\0"])
def test_labels_that_can_not_be_shown_are_refused(store, label):
    """A label is a few printable characters."""
    with pytest.raises(InvalidConfig, match="printable"):
        store.label("scale", label, 1)


@pytest.mark.parametrize(
    "content",
    ['{"stable": 0}', '{"stable": -1}', '{"stable": 9223372036854775808}', "[" * 100_000, "", "\xff", " " * 2**21],
)
def test_labels_that_point_nowhere_are_refused(store, content):
    """Versions below 1 or beyond int64, and what is no JSON of a sensible size, are refused with the file's path."""
    (store.path / "scale" / "labels.json").write_text(content, "latin-1")
    with pytest.raises(InvalidConfig, match=r"labels\.json"):
        store.labels("scale")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_labels_that_are_no_file_are_refused(store, make):
    """A folder or a pipe in the place of the labels is refused and not waited for; setting one puts it aside."""
    make(store.path / "scale" / "labels.json")
    with pytest.raises(InvalidConfig, match=r"labels\.json: labels must be a file"):
        store.labels("scale")
    store.label("scale", "stable", 1)
    assert store.labels("scale") == {"stable": 1}
    assert (store.path / "scale" / "labels.json.damaged").exists()


def test_damaged_labels_begin_anew_where_one_is_set(store, caplog):
    """The log says so, and what was there is kept; a rollback, which needs to know, is refused."""
    text = '{"stable": 1,}'
    (store.path / "scale" / "labels.json").write_text(text)
    with pytest.raises(InvalidConfig, match=r"labels\.json: labels must be a JSON object"):
        store.roll_back("scale")
    assert store.label("scale", "canary", 1) is None
    assert store.labels("scale") == {"canary": 1}
    assert (store.path / "scale" / "labels.json.damaged").read_text() == text
    assert "they begin anew, and what was there is labels.json.damaged now" in caplog.text


def test_what_can_not_be_read_is_refused_by_its_path(store, caplog):
    """Without permission: a package is refused, labels and the store are a wrong configuration, each with its path."""
    store.label("scale", "stable", 1)
    folder = store.path / "scale"
    (folder / "labels.json").chmod(0)
    with unprivileged(), pytest.raises(InvalidConfig, match=r"labels\.json: Permission denied"):
        store.labels("scale")
    package = store.open("scale", 1)
    file = package.file(package.manifest.variants[0])
    file.chmod(0)
    with unprivileged(), pytest.raises(PackageRefused, match=rf"{file.name}: can't be read: Permission denied"):
        store.open("scale", 1)
    folder.chmod(0)
    with unprivileged():
        assert store.installed() == store.installed() == {}
    assert caplog.text.count(f"{folder} can't be looked at") == 1
    folder.chmod(0o555)
    (folder / "labels.json").chmod(0o644)
    with unprivileged(), pytest.raises(InvalidConfig, match=r"labels\.json: Permission denied"):
        store.label("scale", "canary", 1)
    store.path.chmod(0)
    with unprivileged(), pytest.raises(InvalidConfig, match="store: Permission denied"):
        store.installed()
    store.path.chmod(0o755)


def test_a_file_in_a_models_place_is_refused(store):
    """A stray file where a model's folder is asked for is an error with its path, not the system's."""
    (store.path / "stray").write_text("")
    with pytest.raises(InvalidConfig, match=r"stray.*Not a directory"):
        store.labels("stray")
    with pytest.raises(PackageRefused, match="no such directory"):
        store.open("stray", 1)
    with pytest.raises(InvalidConfig, match="stray: not a directory"):
        Store(store.path / "stray")


def set_label(path, number):
    Store(path).label("scale", f"process{number}", 1)


def test_labels_that_are_set_at_once_are_all_kept(store):
    """Threads and processes that set labels of one model at the same time lose none."""
    barrier = threading.Barrier(32)

    def set_one(number):
        barrier.wait()
        store.label("scale", f"thread{number}", 1)

    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=set_label, args=(store.path, number)) for number in range(2)]
    threads = [threading.Thread(target=set_one, args=(number,)) for number in range(32)]
    for one in processes + threads:
        one.start()
    for one in processes + threads:
        one.join()
    expected = {f"thread{number}" for number in range(32)} | {f"process{number}" for number in range(2)}
    assert set(store.labels("scale")) == expected


def test_labels_can_be_read_by_the_runtimes_user(store):
    """The file has the permissions that the umask allows; what a killed writer left behind is in nobody's way."""
    (store.path / "scale" / ".labels.json.new").write_text("half")
    before = os.umask(0o027)
    try:
        store.label("scale", "stable", 1)
    finally:
        os.umask(before)
    assert (store.path / "scale" / "labels.json").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in (store.path / "scale").iterdir()) == ["1", "labels.json"]
