import os
import subprocess
import sys

import pytest
from support.converter_packages import tar_gz, tree_bytes
from support.edge_models import publish_scale
from support.edge_stores import CRASHING, HANGING, fake_trial, leftovers, state

from converter.artifact import PackageExists, UnsafeArchive, archive_path
from edge_runtime import EngineFailed, InvalidConfig, PackageRefused
from edge_runtime.installing.first_run import try_package
from edge_runtime.installing.install import install
from edge_runtime.installing.inventory import inventory, read_quota, write_quota
from edge_runtime.store import lease, uses
from edge_runtime.store.removal import evict, remove
from edge_runtime.store.store import Store


@pytest.fixture
def packages(tmp_path):
    for version in (1, 2, 3):
        publish_scale(tmp_path / "packages", version, float(version))
    return tmp_path / "packages" / "scale"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def put(packages, root, *versions, **options):
    for version in versions:
        done = install(packages / str(version), root, **{"trial": fake_trial, **options})
    return done


@pytest.mark.slow
def test_what_is_installed_was_run_and_measured(packages, root):
    """The profile lies beside the version from the start, and is the package's."""
    said = []
    done = install(packages / "1", root, say=said.append)
    assert done.first_run.place == "device:cpu"
    assert said[0].startswith("verified scale/1, ")
    assert said[1].startswith("ran on device:cpu: ")
    (one,) = inventory(Store(root))
    assert one.measured == done.first_run.measured
    assert not leftovers(root)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("customized", "limit_s", "error", "said"),
    [
        (CRASHING, 60.0, PackageRefused, r"scale/1 crashes its process on its first run.*killed by SIGSEGV"),
        (HANGING, 1.0, PackageRefused, r"scale/1 hangs on its first run.*no answer within 1 s"),
    ],
)
def test_what_crashes_or_hangs_is_never_there(packages, root, tmp_path, monkeypatch, customized, limit_s, error, said):
    """It is refused by name, and the store is as it was."""
    put(packages, root, 2)
    before = state(root)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(customized)
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(error, match=said):
        put(packages, root, 1, trial=lambda package: try_package(package, limit_s=limit_s))
    assert state(root) == before
    assert not leftovers(root)


@pytest.mark.slow
def test_what_no_engine_takes_is_refused(root, tmp_path):
    """A file that is no model is the engine's refusal."""
    package = publish_scale(tmp_path / "packages", 1, 1.0, content=b"no model")
    with pytest.raises(EngineFailed, match=r"scale/1 can't be run here, so it is not installed: .*Flatbuffer"):
        install(package.path, root)
    assert state(root) == {}


def test_the_same_package_again_changes_nothing(packages, root):
    """Nothing is run or moved; another one of that version is refused, unless it is to take the place."""
    first = put(packages, root, 1)
    again = put(packages, root, 1, trial=lambda _: pytest.fail("it was run"))
    assert (first.was_there, again.was_there) == (False, True)
    other = publish_scale(root.parent / "other", 1, 9.0)
    with pytest.raises(PackageExists, match="with another digest; --replace"):
        install(other.path, root, trial=fake_trial)
    install(other.path, root, trial=None, replace=True)
    assert state(root)["scale"][0] == {1: other.digest}
    assert not (root / "scale" / "1.profile.json").exists(), "the profile was the other package's"


def test_of_two_who_install_the_same_at_once_both_are_content(packages, root):
    """It is there, whoever was first; where that put another package of this version there, the second is refused."""

    def beaten_by(source):
        def trial(package):
            install(source, root, trial=fake_trial)
            return fake_trial(package)

        return trial

    done = install(packages / "1", root, trial=beaten_by(packages / "1"))
    assert (done.was_there, done.package.path) == (True, root / "scale" / "1")
    other = publish_scale(root.parent / "other", 2, 9.0)
    with pytest.raises(PackageExists):
        install(packages / "2", root, trial=beaten_by(other.path))
    assert state(root)["scale"][0][2] == other.digest
    assert not leftovers(root)


@pytest.mark.parametrize("name", ["variants/float32.tflite", "manifest.json", "manifest.sha256"])
def test_a_damaged_version_gives_way_to_the_same_package(packages, root, name):
    """While nobody has it open; to another package of that version, or to one that is open, only where told to."""
    put(packages, root, 1)
    path = root / "scale" / "1"
    whole = state(root)
    other = publish_scale(root.parent / "other", 1, 9.0)
    (path / name).write_bytes(b"")
    with pytest.raises(PackageExists, match="this version is there with another digest; --replace"):
        install(other.path, root, trial=None)
    held = lease.take(path)
    with pytest.raises(PackageExists, match="this package is there, damaged, and a process has it open; --replace"):
        put(packages, root, 1)
    held.close()
    said = []
    assert not put(packages, root, 1, say=said.append).was_there
    assert said[0] == "scale/1 is damaged where it is, and gives way to the same package"
    assert state(root) == whole
    (path / name).write_bytes(b"")
    held = lease.take(path)
    put(packages, root, 1, replace=True)
    held.close()
    assert state(root) == whole


def test_what_is_no_package_gives_way_only_where_told_to(packages, root):
    """It is not said to be another package."""
    (root / "scale" / "1").mkdir(parents=True)
    with pytest.raises(PackageExists, match=r"something is there that can't be read: .*holds no manifest\.json"):
        put(packages, root, 1)
    put(packages, root, 1, replace=True)
    assert list(state(root)["scale"][0]) == [1]


def test_a_quota_has_the_least_recently_used_go(packages, root):
    """In the order of their use, after the new one is there; what was used last stays."""
    put(packages, root, 1, 2)
    store = Store(root)
    uses.record(root, "scale", 1, 0.0)
    publish_scale(packages.parent, 4, 4.0)
    put(packages, root, 3)
    write_quota(store, sum(one.size_bytes for one in inventory(store)) + 10)
    said = []
    done = put(packages, root, 4, say=said.append)
    assert done.removed == ("scale/2",)
    assert said[-1] == "removed scale/2, the least recently used, for room"
    assert store.versions("scale") == [1, 3, 4]


def test_a_quota_that_can_not_be_met_is_told_with_figures(packages, root):
    """Nothing goes, and nothing comes."""
    put(packages, root, 1)
    store = Store(root)
    write_quota(store, 3000)
    before = state(root)
    with pytest.raises(InvalidConfig, match=r"quota is 2\.93 KiB: even without all that may go .* KiB are missing"):
        put(packages, root, 2, trial=lambda _: pytest.fail("it was run"))
    assert state(root) == before
    write_quota(store, None)
    assert read_quota(store) is None
    put(packages, root, 2)


def test_an_archive_is_held_against_the_quota_before_it_is_unpacked(packages, root, tmp_path):
    """With the figures; of one whose manifest comes last, no more is unpacked than the quota."""
    package = publish_scale(tmp_path / "large", 1, 1.0, content=os.urandom(50_000))
    whole = archive_path(tmp_path / "large", "scale", 1)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[:30_000])
    members = [(f"scale/1/{name}", data) for name, data in tree_bytes(package.path).items()]
    last = tar_gz(tmp_path / "last.tar.gz", sorted(members, key=lambda one: "manifest" in one[0]))
    put(packages, root, 2)
    write_quota(Store(root), 20_000)
    before = state(root)
    with pytest.raises(InvalidConfig, match=r"scale/1 has 48\.8 KiB, and the store's quota is 19\.5 KiB"):
        install(cut, root, trial=None)
    with pytest.raises(UnsafeArchive, match=r"last\.tar\.gz: unpacks to more than 20000 bytes"):
        install(last, root, trial=None)
    write_quota(Store(root), None)
    with pytest.raises(UnsafeArchive, match="truncated"):
        install(cut, root, trial=None)
    assert state(root) == before
    assert not leftovers(root)


@pytest.mark.parametrize("text", ["[]", "{}", '{"bytes": 0}', '{"bytes": "1"}'])
def test_a_damaged_quota_is_refused(packages, root, text):
    """By its path."""
    put(packages, root, 1)
    (root / ".quota.json").write_text(text)
    with pytest.raises(InvalidConfig, match=r"\.quota\.json"):
        put(packages, root, 2)


def test_an_open_version_is_seen_by_other_processes(packages, root):
    """It is not removed, unless that is forced, and no more open once its process was killed."""
    put(packages, root, 1, 2)
    store = Store(root)
    code = (
        "import sys; from pathlib import Path; from edge_runtime.store import lease\n"
        "held = lease.take(Path(sys.argv[1])); print(held, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, root / "scale" / "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "<Lease held>\n"
        assert [one.open for one in inventory(store)] == [True, False]
        with pytest.raises(InvalidConfig, match="scale/1 is open in a process"):
            remove(store, "scale", 1)
        assert not evict(store, "scale", 1)
        process.kill()
        process.wait()
    assert [one.open for one in inventory(store)] == [False, False]
    remove(store, "scale", 1)
    assert state(root)["scale"][0].keys() == {2}


def test_removal_is_refused_by_name_and_takes_everything(packages, root):
    """A labelled version goes with its labels, its profile and its use; one that is not there is named."""
    put(packages, root, 1, 2)
    store = Store(root)
    store.label("scale", "stable", 2)
    uses.record(root, "scale", 2, 1.0)
    with pytest.raises(InvalidConfig, match="scale/2 is labelled stable: point the label elsewhere first"):
        remove(store, "scale", 2)
    assert not evict(store, "scale", 2)
    assert remove(store, "scale", 2, force=True) == ("stable",)
    assert sorted(path.name for path in (root / "scale").iterdir()) == ["1", "1.profile.json", "labels.json"]
    for model, version in (("scale", 2), ("other", 1)):
        with pytest.raises(InvalidConfig, match=f"{model}/{version} is not installed"):
            remove(store, model, version)


def test_damaged_labels_of_one_model_hold_up_no_other(packages, root):
    """All is listed and installed; no version of it makes room; `remove` takes one out where that is forced."""
    put(packages, root, 1, 2)
    publish_scale(root.parent / "packages", 1, 5.0, model="other")
    (root / "scale" / "labels.json").write_text("{")
    store = Store(root)
    assert ["labels.json" in one.unlabelled for one in inventory(store)] == [True, True]
    write_quota(store, sum(one.size_bytes for one in inventory(store)) + 10)
    with pytest.raises(InvalidConfig, match="even without all that may go"):
        put(packages.parent / "other", root, 1)
    assert not evict(store, "scale", 1)
    write_quota(store, None)
    put(packages.parent / "other", root, 1)
    with pytest.raises(InvalidConfig, match=r"labels\.json"):
        remove(store, "scale", 1)
    assert remove(store, "scale", 1, force=True) == ()
    assert state(root)["scale"][0].keys() == {2}
    assert store.labels("scale") == {}


def test_a_removal_that_was_killed_is_finished_beside_damaged_labels(packages, root):
    """Of which none is known to point to that version."""
    put(packages, root, 1, 2)
    (root / "scale" / "2").rename(root / "scale" / ".removing-2")
    (root / "scale" / "labels.json").write_text("{")
    put(packages, root, 3)
    assert not leftovers(root)


def test_a_lease_ends_where_it_is_given_back(packages, root, tmp_path):
    """Two may hold one; where nothing is there is none."""
    put(packages, root, 1)
    path = root / "scale" / "1"
    first, second = lease.take(path), lease.take(path)
    first.close()
    first.close()
    assert lease.is_open(path)
    second.close()
    assert not lease.is_open(path)
    assert lease.take(tmp_path / "nowhere") is None
    assert not lease.is_open(tmp_path / "nowhere")
