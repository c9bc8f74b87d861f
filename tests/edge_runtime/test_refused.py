"""Versions that could not be loaded: how long they are left alone, and which of them are damaged."""

import pytest
from support.clock import FakeClock

from converter.artifact import DigestMismatch
from edge_runtime.errors import EngineFailed, PackageRefused
from edge_runtime.refused import MAX_REFUSED, REFUSED_S, RefusedVersions
from edge_runtime.store.store import Store
from edge_runtime.versions import stamp_of


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(tmp_path):
    place(tmp_path, "first")
    return Store(tmp_path)


@pytest.fixture
def refused(store, clock):
    return RefusedVersions(store, clock)


def place(root, content):
    """What lies at the version's place."""
    folder = root / "m" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / "new"
    aside.write_text(content)
    aside.rename(folder / "manifest.json")


def damage():
    error = PackageRefused("damaged")
    error.__cause__ = DigestMismatch("other bytes")
    return error


def key(store):
    return ("m", 1, stamp_of(store, "m", 1))


def test_a_version_is_tried_again_after_a_while(refused, store, clock):
    """It is left alone for `REFUSED_S`, and no longer."""
    assert not refused.refuse("m", 1, EngineFailed("no memory"))
    assert refused.leaves_alone(key(store))
    clock.advance(REFUSED_S)
    assert not refused.leaves_alone(key(store))


def test_another_publication_is_tried_at_once(refused, store, tmp_path):
    """What lies at its place now was not refused, and is not damaged."""
    assert refused.refuse("m", 1, damage())
    assert refused.damaged("m") == [1]
    place(tmp_path, "second one")
    assert not refused.leaves_alone(key(store))
    assert refused.damaged("m") == []


def test_a_version_that_was_loaded_is_not_damaged(refused, store):
    """A load that succeeds after one that told of damage takes the word back."""
    refused.refuse("m", 1, damage())
    refused.loaded(key(store))
    assert refused.damaged("m") == []


def test_the_table_is_bounded(refused, store):
    """With more versions than are kept in mind it begins anew with the newest."""
    for number in range(MAX_REFUSED):
        refused.refuse(f"m{number}", 1, damage())
    refused.refuse("m", 1, damage())
    assert refused.leaves_alone(key(store))
    assert refused.damaged("m0") == []
