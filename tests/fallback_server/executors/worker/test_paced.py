"""How many threads an operation of a SavedModel has: the choice with made-up times, and with real processes."""

import contextlib
import logging
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from support.fallback_workers import alive, wait_until

from fallback_server.core.errors import LoadFailed
from fallback_server.core.loader import LoadStop
from fallback_server.executors.findings import Finding, Remembered
from fallback_server.executors.saved_model import SavedModelOptions
from fallback_server.executors.worker import paced
from fallback_server.executors.worker.nursery import Nursery
from fallback_server.executors.worker.paced import one_is_better, open_paced


class Form:
    """A loaded version whose runs took so long."""

    load_s = 0.0

    def __init__(self, cost_s, worth_rows=0, **found):
        self.findings = {
            name: Finding(**{"ran": True, "mixes_rows": False, "cost_s": costs, **found})
            for name, costs in cost_s.items()
        }
        self.signatures = {name: SimpleNamespace(worth_rows=worth_rows) for name in cost_s}
        self.closed = self.ended = False
        self.apart = []

    def keep_apart(self, name):
        self.apart.append(name)

    def close(self):
        self.closed = True


FAST, SLOW = {1: 0.010, 2: 0.021}, {1: 0.015, 2: 0.022}


@pytest.mark.parametrize(
    ("one", "many", "better"),
    [
        (Form({"f": FAST}, 1), Form({"f": SLOW}), True),
        (Form({"f": SLOW}, 1), Form({"f": FAST}), False),
        (Form({"f": {1: 0.010, 2: 0.012}}, 2), Form({"f": {1: 0.011, 2: 0.011}}), False),
        (Form({"f": FAST, "g": SLOW}, 1), Form({"f": SLOW, "g": FAST}), False),
        (Form({"f": FAST}, 1), Form({"f": {}}), False),
        (Form({"f": {}}), Form({"f": SLOW}), True),
        (Form({"f": {}}, ran=False), Form({"f": SLOW}), False),
        (Form({"f": SLOW}, 1), Form({"f": {}}, ran=False), True),
        (Form({"f": {}}, ran=False), Form({"f": {}}, ran=False), True),
        (Form({"f": {1: 0.6}}, 1), Form({"f": {1: 0.7}}), True),
    ],
)
def test_one_thread_serves_where_no_run_takes_longer_with_it(one, many, better):
    """Of one row, and of as many as are merged then, in each signature; what is too short to be timed is shorter."""
    assert one_is_better(one, many) is better


@pytest.fixture
def loads(monkeypatch):
    """What is loaded, in order: forms, or errors that are raised; and with how many threads each was asked for."""
    found, asked = [], []

    def open_in_worker(path, *, options, on_lost, stop=None, known=None, **_):
        asked.append((options.intra_op_parallelism, *known) if known else options.intra_op_parallelism)
        one = found.pop(0)
        if isinstance(one, BaseException):
            raise one
        one.lost = on_lost
        if hasattr(one, "asks"):
            stop.ask()
        if one.ended:
            on_lost("signal 9")
        return one

    monkeypatch.setattr(paced, "open_in_worker", open_in_worker)
    monkeypatch.setattr(paced, "usable_cores", lambda: 2)
    monkeypatch.setattr(paced, "estimated_bytes", lambda path: 2**20)
    return found, asked


def paced_load(path, threads=0, stop=None, on_lost=None, remembered=None):
    options = SavedModelOptions(intra_op_parallelism=threads)
    return open_paced(
        path,
        options=options,
        nursery=None,
        remembered=remembered or Remembered(),
        title="m/1",
        on_lost=on_lost,
        stop=stop,
    )


def test_the_one_that_is_not_chosen_is_closed(loads, tmp_path, caplog):
    """And the log says which serves, with the figures."""
    found, asked = loads
    many, one = Form({"f": SLOW}), Form({"f": FAST}, 1)
    found += [many, one]
    with caplog.at_level(logging.INFO):
        assert paced_load(tmp_path) is one
    assert (many.closed, one.closed, asked) == (True, False, [0, 1])
    assert "m/1: an operation has one thread: runs of f with one thread and with many, by rows: 1: 10 and 15 ms" in (
        caplog.text
    )
    many, one = Form({"f": FAST}), Form({"f": SLOW}, 1)
    found += [many, one]
    assert paced_load(tmp_path) is many
    assert (many.closed, one.closed) == (False, True)


def test_nothing_is_tried_where_it_could_not_matter_or_is_decided(loads, tmp_path, monkeypatch):
    """Short runs, an operator's own figure, a single core, a large version, little memory: one load."""
    found, asked = loads
    found += [Form({}), *(Form({"f": SLOW}) for _ in range(4))]
    paced_load(tmp_path)
    paced_load(tmp_path, threads=3)
    monkeypatch.setattr(paced, "usable_cores", lambda: 1)
    paced_load(tmp_path)
    monkeypatch.setattr(paced, "usable_cores", lambda: 2)
    monkeypatch.setattr(paced, "free_bytes", lambda: 3 * 2**20)
    paced_load(tmp_path)
    monkeypatch.setattr(paced, "free_bytes", lambda: None)
    monkeypatch.setattr(paced, "estimated_bytes", lambda path: paced.MAX_BYTES + 1)
    paced_load(tmp_path)
    assert asked == [0, 3, 0, 0, 0]


def test_what_can_not_be_tried_is_served_as_it_was_loaded(loads, tmp_path, caplog):
    """The second process is no reason to refuse a version, nor is the first; a load that is ended leaves none."""
    found, _ = loads
    many = Form({"f": SLOW})
    found += [many, LoadFailed("no memory")]
    assert paced_load(tmp_path) is many
    assert "m/1: could not be tried with one thread for an operation: no memory" in caplog.text
    stop = LoadStop()
    stop.ask()
    many = Form({"f": SLOW})
    found += [many, LoadFailed("ended")]
    with pytest.raises(LoadFailed, match="ended"):
        paced_load(tmp_path, stop=stop)
    assert many.closed


def test_the_end_of_the_one_that_does_not_serve_is_nobodys_loss(loads, tmp_path):
    """Where the first ends during the trial the second serves; only of that one's end anybody is told, and once."""
    found, _ = loads
    told = []
    many, one = Form({"f": FAST}), Form({"f": SLOW}, 1)
    many.ended = True
    found += [many, one]
    assert paced_load(tmp_path, on_lost=told.append) is one
    assert told == []
    one.lost("signal 6")
    assert told == ["signal 6"]
    many = Form({})
    many.ended = True
    found.append(many)
    assert paced_load(tmp_path, on_lost=told.append) is many
    assert told == ["signal 6", "signal 9"]


def test_a_form_that_ended_is_not_chosen(loads, tmp_path):
    """Not the faster one either; where both have, the load fails, and says how."""
    found, _ = loads
    many, one = Form({"f": SLOW}), Form({"f": FAST}, 1)
    one.ended = True
    found += [many, one]
    assert paced_load(tmp_path) is many
    for second in (Form({"f": FAST}, 1), LoadFailed("no memory")):
        many = Form({"f": SLOW})
        many.ended = True
        if isinstance(second, Form):
            second.ended = True
        found += [many, second]
        with pytest.raises(LoadFailed, match=r"ended \(signal 9\) while it loaded"):
            paced_load(tmp_path)
        assert many.closed


def test_a_form_that_was_told_to_end_just_as_it_was_loaded_is_not_chosen(loads, tmp_path, caplog):
    """Nobody would be told of its end; one that is loaded before is ended by no limit any more."""
    found, _ = loads
    many, one = Form({"f": SLOW}), Form({"f": FAST}, 1)
    one.asks = True
    found += [many, one]
    assert paced_load(tmp_path) is many
    assert (one.closed, many.closed) == (True, False)
    assert "it took longer than 3 s" in caplog.text
    ended = []
    limited = paced._Limited(None)
    with limited.after(60):
        limited.calls(lambda: ended.append(1))
    limited.ask()
    assert (ended, limited.asked) == ([], False)


def test_rows_that_one_form_mixes_are_merged_in_none(loads, tmp_path):
    """Whichever serves; that one alone could not be asked speaks against that one, and not against merging."""
    found, _ = loads
    many, one = Form({"f": SLOW}, mixes_rows=True), Form({"f": FAST}, 1)
    found += [many, one]
    assert paced_load(tmp_path) is one
    assert one.apart == ["f"]
    many, one = Form({"f": SLOW}), Form({"f": {}}, ran=False, mixes_rows=None)
    found += [many, one]
    assert paced_load(tmp_path) is many
    assert many.apart == []


def test_a_lost_version_is_loaded_as_it_was_and_not_measured(loads, tmp_path):
    """Once, with the same files; where these changed, or nothing was lost, it is measured."""
    found, asked = loads
    remembered, told = Remembered(), []

    def load(*forms):
        asked.clear()
        found.extend(forms)
        return paced_load(tmp_path, on_lost=told.append, remembered=remembered)

    pair = [Form({"f": SLOW}), Form({"f": FAST}, 1)]
    one = load(*pair)
    assert load(*pair) is one
    assert asked == [0, 1]
    one.lost("signal 9")
    again = Form({"f": FAST}, 1)
    assert load(again) is again
    assert (asked, told) == ([(1, "f")], ["signal 9"])
    again.lost("signal 9")
    (tmp_path / "saved_model.pb").write_bytes(b"other")
    assert load(*pair) is one
    assert asked == [0, 1]


@pytest.mark.parametrize(("error", "closed"), [(OSError(24, "too many files"), False), (KeyboardInterrupt(), True)])
def test_whatever_ends_the_trial_no_process_is_left(loads, tmp_path, error, closed):
    """What the system refuses is no reason not to serve; what ends this thread ends the first process too."""
    found, _ = loads
    many = Form({"f": SLOW})
    found += [many, error]
    with contextlib.suppress(KeyboardInterrupt):
        assert paced_load(tmp_path) is many
    assert many.closed is closed


@pytest.mark.usefixtures("loads")
def test_a_trial_that_hangs_is_ended(tmp_path, monkeypatch, caplog):
    """After a time that follows from what the first load took; the load itself goes on, and can be ended until then."""
    many = Form({"f": SLOW})
    asked = threading.Event()

    def open_in_worker(path, *, options, stop, **_):
        if not options.intra_op_parallelism:
            return many
        stop.calls(asked.set)
        assert asked.wait(30)
        raise LoadFailed("ended")

    monkeypatch.setattr(paced, "open_in_worker", open_in_worker)
    monkeypatch.setattr(paced, "_LEAST_LIMIT_S", 0.0)
    assert paced_load(tmp_path) is many
    assert "with one thread for an operation: it took longer than 0 s" in caplog.text
    monkeypatch.setattr(paced, "_LEAST_LIMIT_S", 1e6)
    asked.clear()
    stop = LoadStop()
    threading.Timer(0.05, stop.ask).start()
    with pytest.raises(LoadFailed, match="ended"):
        paced_load(tmp_path, stop=stop)
    assert many.closed


@pytest.mark.slow
def test_a_version_is_tried_in_two_processes_and_served_by_one(models, monkeypatch):
    """The other is gone when the load is over; what is served answers as it should."""
    monkeypatch.setattr(paced, "usable_cores", lambda: 2)
    nursery = Nursery()
    nursery.start()
    pids = []
    spawn = nursery.spawn
    monkeypatch.setattr(nursery, "spawn", lambda title: pids.append(spawn(title)) or pids[-1])
    executor = open_paced(
        models / "slow" / "1",
        options=SavedModelOptions(),
        nursery=nursery,
        remembered=Remembered(),
        title="slow/1",
        on_lost=print,
    )
    first, second = pids
    assert set(executor.findings) == {"serving_default"}
    wait_until(lambda: [alive(first.pid), alive(second.pid)].count(True) == 1)
    x = np.float32([[1, 2, 3]])
    np.testing.assert_array_equal(executor.run("serving_default", {"x": x})["y"], x)
    executor.close()
    nursery.close()
