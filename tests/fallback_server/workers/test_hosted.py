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


def held(standing):
    loaded = standing.hold()
    if loaded is None:
        return None
    standing.let_go(loaded)
    return standing.servable_id.version


def test_what_was_found_holds_for_its_epoch_alone_too(epoch):
    """And until another load is here, or one is dropped."""
    versions, servables = hosted(epoch, 1, 2)
    versions.take(view(epoch, 1))
    standing = versions.standing(MODEL)
    assert standing.servable is servables[1]
    assert [held(standing), held(standing)] == [1, 1]
    epoch.advance()
    assert held(standing) is None
    versions.take(view(epoch, 1, 2))
    assert held(standing) is None
    standing = versions.standing(MODEL)
    assert held(standing) == 2
    versions.drop(2)
    assert held(standing) is None


def test_what_is_dropped_while_it_is_held_is_closed_when_it_is_let_go(epoch):
    """Not before, and once."""
    versions, servables = hosted(epoch, 1)
    versions.take(view(epoch, 1))
    standing = versions.standing(MODEL)
    loaded = standing.hold()
    versions.drop(1)
    assert servables[1].closed == 0
    standing.let_go(loaded)
    assert servables[1].closed == 1


def test_there_is_no_single_one_where_requests_differ(epoch):
    """Where the traffic is split, or the default was rolled back; where it is not here, or nothing is known."""
    versions, _ = hosted(epoch, 1, 2)
    assert versions.standing(MODEL) is None
    split = ModelRoutes(versions={1: 1, 2: 2}, traffic={1: 1, 2: 1})
    versions.take(View(epoch=epoch.value, models={"m": split}, gone=()))
    assert versions.standing(MODEL) is None
    assert versions.standing(ModelTarget(name="m", version=0)) is None
    assert versions.standing(ModelTarget(name="m", version=9)) is None
    assert held(versions.standing(ModelTarget(name="m", version=1))) == 1
    epoch.advance()
    assert versions.standing(ModelTarget(name="m", version=1)) is None


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
