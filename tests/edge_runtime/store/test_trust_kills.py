"""Whoever says whose packages a store takes may be killed at any moment, and what is half there demands no less."""

import itertools
import shutil
import signal

import pytest
from support.edge_models import publish_scale
from support.edge_stores import killed_at
from support.signing_keys import KEY, OTHER

from converter.artifact import SignatureRefused
from edge_runtime import InvalidConfig
from edge_runtime.installing.install import install
from edge_runtime.store import trust

CHANGES = {
    "add": lambda root: trust.add(root, "works", OTHER.public),
    "remove": lambda root: trust.remove(root, "plant-4"),
    "require on": lambda root: trust.require(root, required=True),
    "require off": lambda root: trust.require(root, required=False),
    "add the first": lambda root: trust.add(root / "new", "works", OTHER.public),
}


def state(root):
    """What holds in a store, and in one below it that may come."""
    return [
        (trust.is_required(one), {name: key.id for name, key in trust.keys(one).keys.items()}, trust.keys(one).faults)
        for one in (root, root / "new")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_whenever_a_writer_is_killed_the_old_or_the_new_holds(tmp_path, name):
    """No key is half a one, no demand is lost on the way, and the next writer is not held up."""
    before = tmp_path / "before"
    trust.add(before, "plant-4", KEY.public)
    trust.require(before, required=name == "require off")
    shutil.copytree(before, tmp_path / "after")
    CHANGES[name](tmp_path / "after")
    old, new = state(before), state(tmp_path / "after")
    assert old != new
    for step in itertools.count(1):
        root = tmp_path / str(step)
        shutil.copytree(before, root)
        code = killed_at(step, root, lambda root=root: CHANGES[name](root))
        assert state(root) in (old, new), f"step {step}"
        if code == 0:
            break
        assert code == -signal.SIGKILL
        if state(root) == old:
            CHANGES[name](root)
        assert state(root) == new
    assert step > 2, "the process was never killed: the steps were not seen"


@pytest.mark.parametrize("length", range(len("require_signature = true\n")))
def test_a_demand_that_is_cut_short_is_not_taken_for_none(tmp_path, length):
    """As a disk leaves it that lost its power: whatever is left of it, nothing unsigned is installed."""
    trust.add(tmp_path, "plant-4", KEY.public)
    (tmp_path / trust.FOLDER / trust.POLICY).write_text("require_signature = true\n"[:length])
    package = publish_scale(tmp_path / "packages", 1, 2.0)
    with pytest.raises((InvalidConfig, SignatureRefused)):
        install(package.path, tmp_path, trial=None)


def test_a_key_that_is_cut_short_is_none(tmp_path):
    """Whatever is left of it; the others are trusted on."""
    trust.add(tmp_path, "plant-4", KEY.public)
    for length in range(len(OTHER.public.pem) - 1):
        (tmp_path / trust.FOLDER / "works.pub").write_bytes(OTHER.public.pem[:length])
        found = trust.keys(tmp_path)
        assert list(found.keys) == ["plant-4"], length
        assert len(found.faults) == 1
