import itertools
import shutil
import signal

import pytest
from support.edge_models import publish_scale
from support.edge_stores import fake_trial, killed_at, leftovers, state

from converter.artifact import Package
from edge_runtime.installing.install import install
from edge_runtime.installing.inventory import write_quota
from edge_runtime.store.removal import remove
from edge_runtime.store.store import Store


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    root = tmp_path_factory.mktemp("packages")
    for version in (1, 2, 3, 4):
        publish_scale(root, version, float(version))
    publish_scale(root / "other", 3, 30.0)
    return root


@pytest.fixture(scope="module")
def filled(packages, tmp_path_factory):
    """Three versions; `stable` was 1, then 2, then 3."""
    root = tmp_path_factory.mktemp("filled") / "store"
    for version in (1, 2, 3):
        install(packages / "scale" / str(version), root, trial=fake_trial)
        Store(root).label("scale", "stable", version)
    return root


def changes(root, packages):
    """What is done to a store, by name."""
    other = packages / "other" / "scale" / "3"
    return {
        "install": lambda: install(packages / "scale" / "4", root, trial=fake_trial),
        "replace": lambda: install(other, root, replace=True, trial=fake_trial),
        "install by links": lambda: install(packages / "scale" / "4", root, link=True, trial=fake_trial),
        "replace by links": lambda: install(other, root, replace=True, link=True, trial=fake_trial),
        "use": lambda: Store(root).label("scale", "stable", 1),
        "rollback": lambda: Store(root).roll_back("scale"),
        "remove": lambda: remove(Store(root), "scale", 1),
        "remove --force": lambda: remove(Store(root), "scale", 3, force=True),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["install", "replace", "install by links", "replace by links", "use", "rollback", "remove", "remove --force"],
)
def test_whenever_a_writer_is_killed_the_old_or_the_new_is_there(packages, filled, tmp_path, name):
    """Whoever looks sees the store as it was or as it is to be, and the next writer leaves nothing behind."""
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(filled, undisturbed)
    old = state(undisturbed)
    changes(undisturbed, packages)[name]()
    new = state(undisturbed)
    assert old != new
    seen = []
    for step in itertools.count(1):
        root = tmp_path / str(step)
        shutil.copytree(filled, root)
        code = killed_at(step, root, changes(root, packages)[name])
        found = state(root)
        assert found in (old, new), f"step {step}"
        seen.append(found == new)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        # The same again, where it is not done; and a writer of another kind.
        if found == old:
            changes(root, packages)[name]()
        install(packages / "scale" / "4", root, trial=None)
        Store(root).label("scale", "canary", 2)
        assert not leftovers(root)
        for source in (packages / "scale" / "4", packages / "other" / "scale" / "3"):
            assert Package.open(source), "what is linked to stays whole"
        profiles = {path.name.partition(".")[0] for path in (root / "scale").glob("*.profile.json")}
        assert profiles <= {path.name for path in (root / "scale").iterdir() if path.is_dir()}
        shutil.rmtree(root)
    assert step > 3, "the process was never killed: the steps were not seen"
    assert seen == sorted(seen), "what is done stays done"


@pytest.mark.slow
def test_killed_while_it_makes_room_an_install_has_the_next_one_make_it(packages, filled, tmp_path):
    """The version that came is there or not; nothing is removed for one that did not come, nor what must stay."""
    for step in itertools.count(1):
        root = tmp_path / str(step)
        shutil.copytree(filled, root)
        Store(root).label("scale", "stable", 2)
        held = sum(path.stat().st_size for path in (root / "scale").glob("[123]/**/*") if path.is_file())
        write_quota(Store(root), held + 100)
        code = killed_at(step, root, lambda root=root: install(packages / "scale" / "4", root, trial=fake_trial))
        versions = Store(root).versions("scale")
        assert versions in ([1, 2, 3], [1, 2, 3, 4], [2, 3, 4]), f"step {step}"
        if code == 0:
            break
        shutil.rmtree(root)
    assert versions == [2, 3, 4]
