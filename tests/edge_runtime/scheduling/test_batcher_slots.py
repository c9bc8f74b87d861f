import threading

import pytest
from support.gated_engines import WAIT_S, Setup

from edge_runtime import EngineFailed
from edge_runtime.errors import EngineLost
from edge_runtime.scheduling.slot import Slot


@pytest.fixture
def setup():
    made = Setup(sizes=(1,), max_queued_requests=100)
    yield made
    made.close()


def test_slots_run_side_by_side(setup):
    """Each slot of the lowest rank runs a request of its own."""
    other = setup.add()
    other.engine.shut()
    first = setup.occupy()
    second = setup.batcher.submit(setup.request())
    assert other.engine.entered.acquire(timeout=WAIT_S)
    other.engine.gate.set()
    setup.engine.gate.set()
    assert {first.result(WAIT_S).place, second.result(WAIT_S).place} == {"device:cpu", "device:other"}


def test_a_gate_bounds_what_runs_at_once(setup):
    """Two slots of one permit never run together, though both are idle."""
    twin = setup.add(gate=setup.gate)
    first = setup.occupy()
    second = setup.batcher.submit(setup.request())
    assert not twin.engine.entered.acquire(timeout=0.05)
    setup.engine.gate.set()
    first.result(WAIT_S)
    second.result(WAIT_S)


def test_higher_ranks_stand_by(setup):
    """A slot of a higher rank runs nothing while there is one of a lower, and takes over when that is removed."""
    standby = setup.add(rank=1)
    running = setup.occupy()
    waiting = setup.batcher.submit(setup.request())
    remover = threading.Thread(target=setup.batcher.remove, args=(setup.slot,))
    remover.start()
    assert waiting.result(WAIT_S).place == "device:other"
    assert remover.is_alive()
    setup.engine.gate.set()
    remover.join(WAIT_S)
    assert running.result(0).place == "device:cpu"
    assert setup.batcher.slots == (standby,)
    assert not setup.engine.closed


@pytest.mark.parametrize("queued", [True, False])
def test_a_lost_engine_costs_no_request(setup, queued):
    """Whatever an engine was running when it was lost runs on another slot, of any rank, and its slot is out of use."""
    standby = setup.add(rank=1)
    setup.engine.failure = EngineLost("gone", "crashed")
    ask = setup.batcher.wait if queued else setup.batcher.infer
    assert ask(setup.request()).place == "device:other"
    assert setup.batcher.slots == (standby,)
    assert setup.failures == [(setup.slot, setup.engine.failure)]
    setup.batcher.remove(setup.slot)


def test_a_whole_batch_survives_a_lost_engine():
    """Every request of the batch that was running is answered elsewhere."""
    setup = Setup(max_queued_requests=100)
    setup.add(rank=1)
    first = setup.occupy()
    batch = [setup.batcher.submit(setup.request(start=i)) for i in range(4)]
    setup.engine.failure = EngineLost("gone", "stuck")
    setup.engine.gate.set()
    assert {future.result(WAIT_S).place for future in [first, *batch]} == {"device:other"}
    setup.close()


@pytest.mark.parametrize("queued", [True, False])
def test_a_failed_run_is_tried_once_on_each_other_device(setup, queued):
    """A run that fails is tried on the other devices and not again on its own, and the slot stays in use."""
    twin = setup.add(gate=setup.gate)
    other = setup.add(rank=1)
    ask = setup.batcher.wait if queued else setup.batcher.infer
    for slot in (setup.slot, twin, other):
        slot.engine.failure = EngineFailed(f"{slot.engine.place} failed")
    with pytest.raises(EngineFailed, match="device:other failed"):
        ask(setup.request())
    assert len(setup.engine.runs) + len(twin.engine.runs) == 1
    assert len(other.engine.runs) == 1
    assert len(setup.batcher.slots) == 3
    stats = setup.batcher.stats()
    assert (stats.retried, stats.failed) == (1, 1)


def test_a_request_that_kills_engines_stops_after_two(setup):
    """A request that two engines did not survive is given no third."""
    slots = [setup.slot, setup.add(gate=setup.gate), setup.add(gate=setup.gate)]
    for slot in slots:
        slot.engine.failure = EngineLost("gone", "crashed")
    with pytest.raises(EngineLost):
        setup.batcher.infer(setup.request())
    assert len(setup.batcher.slots) == 1


@pytest.mark.parametrize("queued", [True, False])
def test_an_engine_of_several_slots_is_lost_once(setup, queued):
    """A lost engine's other slots are out of use with the one that failed: it costs a request one loss, not two."""
    for _ in range(3):
        setup.batcher.add(Slot(setup.engine, setup.gate, setup.costs))
    setup.engine.failure = EngineLost("gone", "crashed")
    standby = setup.add(rank=1, gate=setup.gate)
    ask = setup.batcher.wait if queued else setup.batcher.infer
    assert ask(setup.request()).place == "device:other"
    assert setup.batcher.slots == (standby,)
    assert len(setup.engine.runs) == len(setup.failures) == 1


def test_without_a_slot(setup):
    """A version with no engine left says so at once, and answers again when it has one."""
    running = setup.occupy()
    waiting = setup.batcher.submit(setup.request())
    threading.Timer(0.02, setup.engine.gate.set).start()
    setup.batcher.remove(setup.slot)
    with pytest.raises(EngineFailed, match="no engine"):
        waiting.result(WAIT_S)
    running.result(WAIT_S)
    for ask in (setup.batcher.try_infer, setup.batcher.submit, setup.batcher.infer):
        with pytest.raises(EngineFailed, match="no engine"):
            ask(setup.request())
    assert setup.batcher.load.engines == 0
    setup.add()
    assert setup.batcher.infer(setup.request()).place == "device:other"


def test_solo_slot_is_for_who_is_alone(setup):
    """A request that has the device to itself runs on the solo slot; what comes meanwhile on the others."""
    solo = setup.add(solo=True, place="device:solo", gate=setup.gate)
    assert setup.batcher.infer(setup.request()).place == "device:solo"
    assert setup.batcher.submit(setup.request()).result(WAIT_S).place == "device:solo"
    solo.engine.shut()
    busy = setup.batcher.submit(setup.request())
    assert solo.engine.entered.acquire(timeout=WAIT_S)
    crowd = [setup.batcher.submit(setup.request()) for _ in range(3)]
    solo.engine.gate.set()
    assert busy.result(WAIT_S).place == "device:solo"
    assert crowd[0].result(WAIT_S).place == "device:cpu"


def test_solo_slot_runs_the_queue_until_there_are_others():
    """A version that has nothing but its solo slot runs everything on it, and tells of the pressure."""
    setup = Setup(sizes=(1,), max_queued_requests=100)
    setup.add(solo=True, place="device:solo", gate=setup.gate)
    setup.batcher.remove(setup.slot)
    (solo,) = setup.batcher.slots
    solo.engine.shut()
    futures = [setup.batcher.submit(setup.request())]
    assert solo.engine.entered.acquire(timeout=WAIT_S)
    futures += [setup.batcher.submit(setup.request()) for _ in range(3)]
    assert len(setup.pressure) == 1
    solo.engine.gate.set()
    assert {future.result(WAIT_S).place for future in futures} == {"device:solo"}
    setup.close()


def test_pressure_is_told_once_a_second(setup):
    """That all slots are busy is told when a request must wait for that reason, and not for each one."""
    setup.batcher.infer(setup.request())
    assert not setup.pressure
    setup.occupy()
    for _ in range(5):
        setup.batcher.submit(setup.request())
    assert len(setup.pressure) == 1
    setup.clock.advance(1.5)
    setup.batcher.submit(setup.request())
    assert len(setup.pressure) == 2


def test_states_can_be_read(setup):
    """Batcher, slots and gates show what they are doing."""
    setup.add(rank=1)
    running = setup.occupy()
    setup.batcher.submit(setup.request())
    text = repr(setup.batcher)
    assert "1 of 1 slots busy, 1 stand by" in text
    assert "1 of 100 requests" in text
    assert "busy" in repr(setup.slot)
    assert "0 of 1 permits free" in repr(setup.gate)
    setup.engine.gate.set()
    running.result(WAIT_S)
