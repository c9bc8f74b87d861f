"""What a worker answers by itself: what it was told with the epoch of now, and nothing else."""

import pytest

from fallback_server.core.servable import ServableId
from fallback_server.core.target import ModelTarget
from fallback_server.workers.epoch import Epoch
from fallback_server.workers.hosted import Elsewhere, HostedVersions, Place
from fallback_server.workers.messages import View
from fallback_server.workers.views import ModelRoutes

MODEL = ModelTarget(name="m")


class Servable:
    closed = 0

    def close(self):
        self.closed += 1


@pytest.fixture
def epoch():
    epoch = Epoch.made()
    yield epoch
    epoch.close()


def hosted(epoch, *numbers):
    versions = HostedVersions(epoch)
    servables = {}
    for number in numbers:
        servables[number] = Servable()
        versions.host(number, Place(ServableId("m", number), servables[number]))
    return versions, servables


def view(epoch, *numbers, gone=()):
    models = {"m": ModelRoutes(versions={number: number for number in numbers})} if numbers else {}
    return View(epoch=epoch.value, models=models, gone=gone)


def test_a_view_holds_for_its_epoch_alone(epoch):
    """From the instant at which something changes, until it is told what."""
    versions, servables = hosted(epoch, 1, 2)
    with pytest.raises(Elsewhere):
        versions.acquire(MODEL)
    versions.take(view(epoch, 1))
    with versions.acquire(MODEL) as handle:
        assert handle.servable is servables[1]
    epoch.advance()
    with pytest.raises(Elsewhere):
        versions.acquire(MODEL)
    versions.take(view(epoch, 1, 2))
    with versions.acquire(MODEL) as handle:
        assert handle.servable_id == ServableId("m", 2)
    versions.take(view(epoch, gone=("m",)))
    with pytest.raises(Elsewhere):
        versions.acquire(MODEL)


def test_a_view_that_was_read_before_a_change_is_void(epoch):
    """Though it comes after it."""
    versions, _ = hosted(epoch, 1)
    late = view(epoch, 1)
    epoch.advance()
    versions.take(late)
    with pytest.raises(Elsewhere):
        versions.acquire(MODEL)


def test_a_model_waits_until_all_of_it_is_loaded(epoch):
    """Of two versions that are told, one that is not here keeps the other away too."""
    versions, _ = hosted(epoch, 1)
    versions.take(view(epoch, 1, 2))
    with pytest.raises(Elsewhere):
        versions.acquire(ModelTarget(name="m", version=1))
    versions.host(2, Place(ServableId("m", 2), Servable()))
    versions.acquire(ModelTarget(name="m", version=1)).close()


def test_what_is_dropped_is_closed_when_nobody_holds_it(epoch):
    """At once, or with the last handle; no further handle is given out."""
    versions, servables = hosted(epoch, 1, 2)
    versions.take(view(epoch, 1, 2))
    handle = versions.acquire(ModelTarget(name="m", version=1))
    versions.drop(1)
    versions.drop(2)
    versions.drop(3)
    assert (servables[1].closed, servables[2].closed) == (0, 1)
    with pytest.raises(Elsewhere):
        versions.acquire(ModelTarget(name="m", version=1))
    handle.close()
    handle.close()
    assert servables[1].closed == 1


def test_processes_share_the_count(epoch):
    """By the descriptor; what is closed counts no more and harms nobody."""
    import os

    other = Epoch(os.dup(epoch.fd))
    epoch.advance()
    assert other.value == epoch.value == 1
    other.close()
    other.close()
    other.advance()
    assert epoch.value == 1
