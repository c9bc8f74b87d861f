"""A device that fails, in front of a real runtime: every request is answered, and the device is taken back.

The device is a real shared library that LiteRT loads as a delegate; see `support/edge_delegates.py`.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support import edge_delegates
from support.devices_roots import FakeRoot
from support.edge_models import publish_scale, rows
from support.edgetpu_models import publish_edgetpu

from edge_runtime import DeadlineExceeded, Model, Reply, Runtime
from edge_runtime.config import read_options

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler"),
]

CPU = "device:cpu"
WATCHDOG_S = 1.0
"""The least that a run may take where one hangs: a busy machine keeps a run of a millisecond waiting for a while."""

PATIENT_S = 20.0
"""The same where none does."""


class _Place:
    """A store, a library whose faults begin with `armed`, and what goes with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = path / "store"
        self.armed = path / "armed"
        self.counted = path / "count"
        self.stick = path / "stick"
        self.root = FakeRoot(path / "root")
        self.external = edge_delegates.build(path)

    def open(self, *, isolation: str = "process", **faults: object) -> Runtime:
        """A runtime that prefers the library, with these faults, and has the CPU stand by."""
        device = edge_delegates.device(self.external, when_file=self.armed, **faults)
        return self._open([device, "cpu"], isolation, watchdog_s=WATCHDOG_S if "hang_at" in faults else PATIENT_S)

    def open_edgetpu(self, *delegates: str, models: dict[str, object] | None = None) -> Runtime:
        """A runtime with the Edge TPUs of `root`; their faults are in the environment."""
        return self._open(list(delegates or ("edgetpu", "cpu")), "process", models or {})

    def _open(
        self,
        delegates: list[str],
        isolation: str,
        models: dict[str, object] | None = None,
        watchdog_s: float = PATIENT_S,
    ) -> Runtime:
        options = {
            "delegates": delegates,
            "isolation": isolation,
            "threads": 1,
            "watchdog_min_s": watchdog_s,
            "cache": str(self.path / "cache"),
            "edgetpu_library": str(self.path / "libedgetpu.so.1"),
            "models": models or {},
        }
        return Runtime(read_options(self.store, options), root=self.root.path)


@pytest.fixture
def place(tmp_path):
    made = _Place(tmp_path)
    made.root.machine("x86_64")
    publish_scale(made.store, 1, 2.0)
    return made


@pytest.fixture
def edge_tpus(place, monkeypatch):
    """Two sticks, and the library that runs them."""
    edge_delegates.build_edgetpu(place.path)
    for port, number in (("2-1", 4), ("2-2", 5)):
        _attach(place.root, port, number)
    monkeypatch.setenv(
        "FAKE_EDGETPU", edge_delegates.environment(count_file=place.counted, lock_dir=place.path, delay_ms=5)
    )
    return place


def _attach(root: FakeRoot, port: str, number: int) -> None:
    values = {"idVendor": "18d1", "idProduct": "9302", "busnum": "2", "devnum": str(number), "speed": "5000"}
    for name, value in values.items():
        root.write(f"sys/bus/usb/devices/{port}/{name}", f"{value}\n")
    root.write(f"dev/bus/usb/002/{number:03d}", "", 0o666)


def _until(holds: Callable[[], bool], limit_s: float = 30.0) -> bool:
    """Waits for what another thread or process brings about; whether it came within the limit."""
    end_s = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


def _ask(model: Model, start: float = 0.0, factor: float = 2.0) -> Reply:
    """One request, whose answer is looked at."""
    reply = model.predict(rows(1, start))
    np.testing.assert_array_equal(reply.outputs["y"], rows(1, start) * np.float32(factor))
    return reply


def _model(runtime: Runtime, version: int | None = None) -> Model:
    """The model; the CPU stands by for it from the first request on."""
    return runtime.model("scale", version=version)


def _back(model: Model, factor: float = 2.0) -> bool:
    """Whether the library answers again."""
    return _until(lambda: _ask(model, factor=factor).place != CPU)


def _said(model: Model) -> str:
    """What the model says of its first device."""
    return f"{model.engines[0].state}: {model.engines[0].reason}"


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"refuse": 1}, "refused as asked"),
        ({"refuse_model": 1}, "refuses the model"),
        ({"crash_on_load": 1}, "SIGSEGV"),
        ({"vanish_file": "/nowhere/stick"}, "no device"),
    ],
)
@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_library_that_refuses_leaves_the_cpu_to_answer(place, faults, reason, isolation):
    """Whatever keeps a delegate from being made is said by `engines`, and the next device answers."""
    with place.open(isolation=isolation, **faults) as runtime:
        model = _model(runtime)
        assert _ask(model).place == CPU
        first, second = model.engines
        assert first.state in ("unhealthy", "refused")
        assert reason in first.reason
        assert (second.device, second.state) == ("cpu", "ready")


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_slow_device_is_not_taken_for_a_stuck_one(place, isolation):
    """Runs that take long, but less than the watchdog allows, are answered where they run."""
    with place.open(isolation=isolation, delay_ms=100) as runtime:
        model = _model(runtime)
        place.armed.touch()
        assert all(_ask(model).place != CPU for _ in range(3))
        assert _said(model) == "ready: "


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_failed_run_is_answered_elsewhere(place, isolation):
    """One run fails: its request is answered by the CPU, the next ones by the device again."""
    with place.open(isolation=isolation, fail_at=3) as runtime:
        model = _model(runtime)
        place.armed.touch()
        places = [_ask(model, start).place for start in range(6)]
        assert [one == CPU for one in places] == [False, False, True, False, False, False]
        assert _said(model) == "ready: "


def test_a_device_that_fails_on_and_on_is_left_and_taken_back(place):
    """After several failures in a row the CPU answers alone; when the fault is over, the device does."""
    with place.open(fail_every=1) as runtime:
        model = _model(runtime)
        place.armed.touch()
        assert {_ask(model).place for _ in range(5)} == {CPU}
        assert "the delegate fails at invoke" in _said(model)
        assert _said(model).startswith(("unhealthy", "starting"))
        place.armed.unlink()
        assert _back(model)


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_hanging_device_is_given_up_and_replaced(place, isolation):
    """A run that never returns costs its caller the watchdog's limit; others go on, and the device is taken back."""
    with place.open(isolation=isolation, hang_at=2) as runtime:
        model = _model(runtime)
        place.armed.touch()
        assert _ask(model).place != CPU
        before_s = time.monotonic()
        assert _ask(model).place == CPU
        assert 0.2 < time.monotonic() - before_s < 60
        assert _ask(model).place == CPU
        assert "unhealthy" in _said(model)
        place.armed.unlink()
        assert _back(model)


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_deadline_holds_on_a_device_that_hangs(place, isolation):
    """A caller with a deadline leaves a run that hangs at its deadline, not when the watchdog ends it."""
    with place.open(isolation=isolation, hang_at=1) as runtime:
        model = _model(runtime)
        place.armed.touch()
        with pytest.raises(DeadlineExceeded, match="waiting for"):
            model.predict(rows(1), deadline_ms=20)
        assert _ask(model).place == CPU


@pytest.mark.parametrize("fault", ["abort_every", "segfault_at"])
def test_a_crash_costs_one_retry(place, fault):
    """Four threads ask while the worker crashes again and again: all are answered right, each by its version."""
    publish_scale(place.store, 2, 3.0)
    with place.open(**{fault: 6}) as runtime:
        models = {version: _model(runtime, version) for version in (1, 2)}
        place.armed.touch()

        def ask(number: int) -> Reply:
            version = 1 + number % 2
            reply = _ask(models[version], number, factor=1.0 + version)
            assert reply.version == version
            time.sleep(0.005)
            return reply

        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(ask, range(200)))
        assert len(replies) == 200
        place.armed.unlink()
        assert all(_back(model, 1.0 + version) for version, model in models.items())


def test_the_log_and_the_report_tell_of_a_crash(place, caplog):
    """`engines` names the signal while the device is away, and the log says when it was lost and when it came back."""
    with caplog.at_level("INFO", logger="edge_runtime"), place.open(abort_at=1) as runtime:
        model = _model(runtime)
        place.armed.touch()
        assert _ask(model).place == CPU
        assert "SIGABRT" in _said(model)
        place.armed.unlink()
        assert _back(model)
        assert _said(model) == "ready: "
    lost = [record.getMessage() for record in caplog.records if "SIGABRT" in record.getMessage()]
    assert lost


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_device_that_vanishes_is_taken_back_when_it_returns(place, isolation):
    """While the device is gone the CPU answers; the same application has it again when it is plugged in."""
    place.stick.touch()
    with place.open(isolation=isolation, vanish_file=place.stick) as runtime:
        model = _model(runtime)
        assert _ask(model).place != CPU
        place.stick.unlink()
        assert {_ask(model).place for _ in range(5)} == {CPU}
        assert _until(lambda: "unhealthy" in _said(model))
        place.stick.touch()
        assert _back(model)


def test_without_a_device_that_stands_by_the_error_says_why(place):
    """With the library alone, a crash is an error of that request, and the next ones are answered after the restart."""
    device = edge_delegates.device(place.external, when_file=place.armed, abort_at=1)
    with place._open([device], "process") as runtime:
        model = _model(runtime)
        place.armed.touch()
        with pytest.raises(Exception, match="SIGABRT"):
            model.predict(rows(1))
        place.armed.unlink()

        def answered() -> bool:
            try:
                return _ask(model).place != CPU
            except Exception:  # noqa: BLE001  until the worker is back
                return False

        assert _until(answered)


def test_several_edge_tpus_share_one_queue(edge_tpus):
    """Each stick has an engine of its own in a process of its own, and all work off the same requests."""
    publish_edgetpu(edge_tpus.store, 3, 2.0)
    with edge_tpus.open_edgetpu() as runtime:
        model = _model(runtime, 3)
        assert [(one.device, one.state) for one in model.engines[:2]] == [
            ("edgetpu:usb:0", "ready"),
            ("edgetpu:usb:1", "ready"),
        ]
        with ThreadPoolExecutor(8) as pool:
            places = Counter(pool.map(lambda number: _ask(model, number % 8).place, range(80)))
        assert places["device:edgetpu:usb:0"] > 10
        assert places["device:edgetpu:usb:1"] > 10
        assert edge_delegates.count(edge_tpus.counted, "0") > 10
        assert edge_delegates.count(edge_tpus.counted, "1") > 10


def test_one_stick_fails_and_the_other_goes_on(edge_tpus, monkeypatch):
    """While one of two sticks crashes again and again the other answers; the CPU at most what was on the first."""
    publish_edgetpu(edge_tpus.store, 3, 2.0)
    faults = edge_delegates.environment(
        only="usb:1", abort_every=5, when_file=edge_tpus.armed, count_file=edge_tpus.counted, lock_dir=edge_tpus.path
    )
    monkeypatch.setenv("FAKE_EDGETPU", faults)
    with edge_tpus.open_edgetpu() as runtime:
        model = _model(runtime, 3)
        edge_tpus.armed.touch()
        with ThreadPoolExecutor(4) as pool:
            places = Counter(pool.map(lambda number: _ask(model, number % 8).place, range(100)))
        assert places["device:edgetpu:usb:0"] > places[CPU]
        edge_tpus.armed.unlink()
        assert _until(lambda: [one.state for one in model.engines[:2]] == ["ready", "ready"])


def test_a_pulled_out_stick_comes_back(edge_tpus, monkeypatch):
    """A stick leaves the bus while its runs fail: `engines` says so, and it is used again when it returns."""
    publish_edgetpu(edge_tpus.store, 3, 2.0)
    edge_tpus.stick.touch()
    monkeypatch.setenv("FAKE_EDGETPU", edge_delegates.environment(only="usb:0", vanish_file=edge_tpus.stick))
    port = edge_tpus.root.path / "sys/bus/usb/devices/2-1"
    with edge_tpus.open_edgetpu("edgetpu:usb:0", "cpu") as runtime:
        model = _model(runtime, 3)
        assert _ask(model).place == "device:edgetpu:usb:0"
        edge_tpus.stick.unlink()
        port.rename(edge_tpus.path / "drawer")
        assert {_ask(model).place for _ in range(5)} == {CPU}
        assert _until(lambda: "unhealthy" in _said(model))
        _plug(edge_tpus, edge_tpus.path / "drawer")
        assert _back(model)


def _unplug(place: _Place) -> Path:
    """Leaves no stick on the bus; where the one at 2-1 lies meanwhile."""
    place.stick.unlink(missing_ok=True)
    devices, drawer = place.root.path / "sys/bus/usb/devices", place.path / "drawer"
    (devices / "2-1").rename(drawer)
    shutil.rmtree(devices / "2-2", ignore_errors=True)
    return drawer


def _show(place: _Place, drawer: Path) -> None:
    drawer.rename(place.root.path / "sys/bus/usb/devices/2-1")


def _plug(place: _Place, drawer: Path) -> None:
    """Brings the stick back: the kernel shows it before a library can open it, as with a real one."""
    _show(place, drawer)
    place.stick.touch()


def test_a_version_that_was_loaded_while_a_stick_was_away_for_a_moment_takes_it(edge_tpus, monkeypatch):
    """An absence too short to be one for others is all that a new version has seen: it is told of the stick."""
    publish_edgetpu(edge_tpus.store, 3, 2.0)
    edge_tpus.stick.touch()
    monkeypatch.setenv("FAKE_EDGETPU", edge_delegates.environment(vanish_file=edge_tpus.stick))
    shutil.rmtree(edge_tpus.root.path / "sys/bus/usb/devices/2-2")
    with edge_tpus.open_edgetpu() as runtime:
        first = _model(runtime, 3)
        assert _ask(first).place == "device:edgetpu:usb:0"
        drawer = _unplug(edge_tpus)
        publish_edgetpu(edge_tpus.store, 4, 3.0)
        model = _model(runtime, 4)
        assert _ask(model, factor=3.0).place == CPU
        _plug(edge_tpus, drawer)
        assert _until(lambda: _ask(model, factor=3.0).place == "device:edgetpu:usb:0")
        assert [(one.device, one.state) for one in model.engines] == [("edgetpu:usb:0", "ready"), ("cpu", "standby")]


@pytest.mark.parametrize("order", ["any first", "named first"])
def test_a_stick_that_comes_is_one_device_under_its_names(edge_tpus, monkeypatch, order):
    """One version takes any Edge TPU and another this very one: when it comes both run in one worker, whoever asks."""
    for model in ("any", "named"):
        publish_edgetpu(edge_tpus.store, 3, 2.0, model=model)
    drawer = _unplug(edge_tpus)
    monkeypatch.setenv("FAKE_EDGETPU", edge_delegates.environment(vanish_file=edge_tpus.stick, lock_dir=edge_tpus.path))
    delegates = {"any": ["edgetpu", "cpu"], "named": ["edgetpu:usb:0", "cpu"]}
    with edge_tpus.open_edgetpu(models={name: {"delegates": one} for name, one in delegates.items()}) as runtime:
        models = [runtime.model(name) for name in sorted(delegates, reverse=order == "named first")]
        assert {_ask(model).place for model in models} == {CPU}
        _plug(edge_tpus, drawer)
        for model in models:
            assert _until(lambda model=model: _ask(model).place == "device:edgetpu:usb:0")
            assert [one.device for one in model.engines] == ["edgetpu:usb:0", "cpu"]


def test_a_stick_that_the_library_opens_before_the_bus_shows_it_comes_under_its_name_too(edge_tpus, monkeypatch):
    """While it has no name whoever takes any has it; then it is let go of, and all have it by the name of its place."""
    delegates = {"any": ["edgetpu", "cpu"], "more": ["edgetpu", "cpu"], "named": ["edgetpu:usb:0", "cpu"]}
    for model in delegates:
        publish_edgetpu(edge_tpus.store, 3, 2.0, model=model)
    drawer = _unplug(edge_tpus)
    (edge_tpus.path / "default").symlink_to("usb:0")  # The one stick is the one that the library opens by default.
    monkeypatch.setenv("FAKE_EDGETPU", edge_delegates.environment(vanish_file=edge_tpus.stick, lock_dir=edge_tpus.path))
    with edge_tpus.open_edgetpu(models={name: {"delegates": one} for name, one in delegates.items()}) as runtime:
        named = runtime.model("named")
        assert _ask(named).place == CPU
        edge_tpus.stick.touch()
        # Loaded now: whether a number or any is asked for first, it must not have the stick alone for ever.
        models = [runtime.model("any"), runtime.model("more"), named]
        assert _until(lambda: any(_ask(model).place != CPU for model in models))
        _show(edge_tpus, drawer)
        for model in models:
            assert _until(lambda model=model: _ask(model).place == "device:edgetpu:usb:0")
            assert [one.device for one in model.engines] == ["edgetpu:usb:0", "cpu"]


def test_a_pipeline_of_segments_keeps_the_order(edge_tpus):
    """Each stick runs one segment; many requests in flight come out right and in order."""
    publish_edgetpu(edge_tpus.store, 3, 2.0, segments=2)
    with edge_tpus.open_edgetpu() as runtime:
        model = _model(runtime, 3)
        replies = list(model.predict_many(rows(1, number % 8) for number in range(60)))
        for number, reply in enumerate(replies):
            np.testing.assert_array_equal(reply.outputs["y"], rows(1, number % 8) * 2)
        assert {reply.place for reply in replies} == {"device:edgetpu:usb:0+edgetpu:usb:1"}
        counts = [edge_delegates.count(edge_tpus.counted, number) for number in "01"]
        assert counts[0] == counts[1] >= 60
