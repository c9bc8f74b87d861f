import logging
import threading

import pytest
from support.climates import THROTTLED, UNDER_VOLTAGE, WELL, FakeFirmware, clock, heat, wait_until
from support.clock import FakeClock
from support.devices_roots import FakeRoot

from devices import CpuFrequency, Temperature, Throttled
from edge_runtime import thermal
from edge_runtime.climate import MOST_FACTOR, Climate, climate_of
from edge_runtime.thermal import CAPPED_S, FIRMWARE_S, QUIET_S, SILENT_S, Monitor, Sayings, Vcgencmd


def frequency(current, allowed, maximal, policy="policy0"):
    return CpuFrequency(policy=policy, cores=4, current_mhz=current, allowed_mhz=allowed, maximal_mhz=maximal)


def apex(celsius, number=0, place="0000:01:00.0", **changes):
    return Temperature(
        source=f"apex_{number}",
        kind="edgetpu",
        celsius=celsius,
        trips_celsius=(85.0, 90.0, 95.0),
        place=place,
        **changes,
    )


class Board:
    """A monitor on a fake board, looked through by hand."""

    def __init__(self, path, firmware=None):
        self.root = FakeRoot(path)
        self.now = FakeClock()
        self.told = []
        self.firmware = firmware
        clock(self.root)
        heat(self.root, 50)
        self.monitor = Monitor(self.told.append, clock=self.now, root=path, firmware=firmware)

    def look(self, after_s=1.0):
        self.now.advance(after_s)
        return self.monitor.look()


def test_a_look_tells_what_it_found(tmp_path):
    """Temperatures, clocks and factors of one instant, told to whoever predicts."""
    board = Board(tmp_path)
    board.root.machine("aarch64")
    board.root.pci_coral()
    clock(board.root, allowed=600)
    board.root.write("sys/class/apex/apex_0/temp", "92000\n")
    found = board.look()
    assert board.told == [found]
    assert board.monitor.climate is found
    assert (found.cpu_factor, found.edge_tpu_factors) == (3.0, {"apex_0": 4.0})
    assert [(one.source, one.celsius) for one in found.temperatures] == [("thermal_zone0", 50.0), ("apex_0", 92.0)]
    assert found.clock_mhz == (600.0, 1800.0)


def test_nothing_is_read_before_the_start_and_after_the_close(tmp_path):
    """A runtime that is not open costs nothing."""
    board = Board(tmp_path, FakeFirmware())
    assert board.monitor.climate == Climate()
    assert (board.told, board.firmware.asked) == ([], 0)
    board.monitor.close()
    assert "edge-monitor" not in {thread.name for thread in threading.enumerate()}


def test_the_firmware_is_asked_now_and_then(tmp_path):
    """It costs a process: every five seconds, more often while it throttles, seldom when it is silent."""
    board = Board(tmp_path, FakeFirmware())
    for _ in range(int(FIRMWARE_S) * 4):
        board.look()
    assert board.firmware.asked == 4
    board.firmware.mask, before = THROTTLED, board.firmware.asked
    board.look(FIRMWARE_S)
    for _ in range(int(CAPPED_S) * 4):
        board.look()
    assert board.firmware.asked == before + 5
    board.firmware.mask, before = None, board.firmware.asked
    board.look(CAPPED_S)
    for _ in range(int(SILENT_S) - 1):
        board.look()
    assert board.firmware.asked == before + 1
    assert board.monitor.climate.throttled is None


def test_a_firmware_that_throttles_is_seen_under_load_and_kept_in_mind_when_idle(tmp_path):
    """From the first look under load until the firmware says that it is over."""
    board = Board(tmp_path, FakeFirmware(THROTTLED, 600))
    assert board.look().cpu_factor == 1.0  # the governor wants 600 by itself
    clock(board.root, current=1800)
    board.firmware.mhz = 900
    assert board.look(CAPPED_S).cpu_factor == 2.0
    clock(board.root, current=600)
    board.firmware.mhz = 600
    assert board.look(CAPPED_S).cpu_factor == 2.0
    board.firmware.mask = WELL
    assert board.look(CAPPED_S).cpu_factor == 1.0


def test_a_firmware_that_throttles_is_asked_at_once_for_what_was_just_measured(tmp_path):
    """Under that load it is seen what the clock is held to; one that does not throttle is asked as seldom as ever."""
    board = Board(tmp_path, FakeFirmware(THROTTLED, 600))
    assert board.look().cpu_factor == 1.0
    clock(board.root, current=1800)
    board.monitor.look_now()
    assert (board.told[-1].cpu_factor, board.firmware.asked) == (3.0, 2)
    board.firmware.mask = WELL
    board.look(CAPPED_S)
    board.monitor.look_now()
    assert (board.told[-1].cpu_factor, board.firmware.asked) == (1.0, 3)


def test_a_governor_that_changes_its_mind_meanwhile_is_no_cap(tmp_path):
    """Between the two readings the kernel asked for less, and got it."""
    board = Board(tmp_path, FakeFirmware(THROTTLED))

    def measured():
        clock(board.root, current=600)
        return 600.0

    board.firmware.clock_mhz = measured
    clock(board.root, current=1800)
    assert board.look().cpu_factor == 1.0


def lines(caplog):
    return [record.message for record in caplog.records if record.name == thermal.__name__]


def test_a_change_is_logged_once(tmp_path, caplog):
    """One line when it begins and one when it ends, with figures, temperature and what it does to predictions."""
    caplog.set_level(logging.INFO)
    board = Board(tmp_path)
    board.look()
    assert lines(caplog) == []
    clock(board.root, allowed=600)
    heat(board.root, 85)
    for _ in range(30):
        board.look()
    assert lines(caplog) == ["throttled: CPU at 600 of 1800 MHz, 85 °C, predictions x3.0"]
    (record,) = caplog.records
    assert record.edge == {"event": "throttled", "device": "cpu", "factor": 3.0, "mhz": 600.0, "celsius": 85.0}
    clock(board.root)
    heat(board.root, 60)
    for _ in range(30):
        board.look()
    assert lines(caplog)[1:] == ["no longer throttled: CPU at up to 1800 MHz again, 60 °C"]


def test_a_factor_that_is_not_believed_is_told_of(tmp_path, caplog):
    """What the files say is held against what is possible, and the log says so."""
    board = Board(tmp_path)
    clock(board.root, allowed=10)
    assert board.look().cpu_factor == MOST_FACTOR
    (line,) = lines(caplog)
    assert "predictions x32.0, the most that is believed" in line


def said(sayings, now_s, *, cpu=1800, mask=WELL, sensors=()):
    climate = climate_of(sensors, (frequency(cpu, cpu, 1800),), Throttled.from_mask(mask))
    return [one.text.partition(",")[0] for one in sayings.news(climate, now_s)]


def test_a_clock_that_goes_up_and_down_is_no_flood():
    """At most one line in ten seconds for one device, and the last state is said in the end."""
    sayings = Sayings()
    told = [line for second in range(60) for line in said(sayings, second, cpu=(600, 1800)[second % 2])]
    assert 1 < len(told) <= 60 / QUIET_S
    assert "no longer" in "".join(told + said(sayings, 100.0))


def test_what_gets_much_worse_is_said_again():
    """A step of a tenth is not, one of a half is."""
    sayings = Sayings()
    assert said(sayings, 0, cpu=1500) == ["throttled: CPU at 1500 of 1800 MHz"]
    assert said(sayings, 20, cpu=1400) == []
    assert said(sayings, 40, cpu=600) == ["throttled: CPU at 600 of 1800 MHz"]


def test_what_is_within_noise_is_not_said():
    """A limit of 1790 of 1800 MHz is none."""
    assert said(Sayings(), 0, cpu=1790) == []


def test_an_edge_tpu_and_a_weak_supply_have_lines_of_their_own():
    """Each for itself."""
    sayings = Sayings()
    assert said(sayings, 0, mask=UNDER_VOLTAGE, sensors=(apex(86),)) == [
        "throttled: apex_0 at 250 of 500 MHz",
        "under-voltage: the power supply or its cable is too weak",
    ]
    assert said(sayings, 20, sensors=(apex(80),)) == [
        "no longer throttled: apex_0 at up to 500 MHz again",
        "the supply's voltage is well again",
    ]


def test_the_thread_looks_again_and_again_and_ends(tmp_path):
    """What changes on the board is known soon after, until it is closed."""
    root = FakeRoot(tmp_path)
    clock(root)
    monitor = Monitor(lambda climate: None, clock=FakeClock(), root=tmp_path, interval_s=0.01)
    monitor.start()
    try:
        assert monitor.climate.clock_mhz == (1800.0, 1800.0)
        assert "edge-monitor" in {thread.name for thread in threading.enumerate()}
        clock(root, allowed=600)
        wait_until(lambda: monitor.climate.cpu_factor == 3.0)
    finally:
        monitor.close()
    assert "edge-monitor" not in {thread.name for thread in threading.enumerate()}
    monitor.close()


def test_what_can_not_be_read_is_said_once_and_tried_again(tmp_path, caplog, monkeypatch):
    """Whatever a reader raises: the thread goes on, and what was last known holds."""
    board = Board(tmp_path)
    clock(board.root, allowed=600)
    board.look()
    broken = threading.Event()
    broken.set()
    read = thermal.read_temperatures

    def temperatures(root):
        if broken.is_set():
            raise OSError("no such device")
        return read(root)

    monkeypatch.setattr(thermal, "read_temperatures", temperatures)
    monitor = Monitor(board.told.append, clock=board.now, root=tmp_path, interval_s=0.01)
    monitor.start()
    try:
        wait_until(lambda: lines(caplog)[-1:] and "can't be read" in lines(caplog)[-1])
        assert len(board.told) == 1
        broken.clear()
        wait_until(lambda: monitor.climate.temperatures)
    finally:
        monitor.close()
    assert sum("can't be read" in line for line in lines(caplog)) == 1


def test_a_firmware_that_fails_costs_nothing_else(tmp_path, caplog):
    """The files are read on, the firmware counts as silent and is asked as seldom, and the log says so once."""
    board = Board(tmp_path, FakeFirmware(THROTTLED, 900))
    clock(board.root, current=1800)
    assert board.look().cpu_factor == 2.0

    def throttled():
        board.firmware.asked += 1
        raise OSError("no such device")

    board.firmware.throttled, asked = throttled, board.firmware.asked
    clock(board.root, current=600, allowed=600)
    for _ in range(int(SILENT_S) * 2):
        found = board.look()
    assert board.firmware.asked - asked == 2
    assert (found.cpu_factor, found.throttled) == (3.0, None)
    assert lines(caplog).count("the firmware can't be asked just now: OSError: no such device") == 1


@pytest.mark.slow
def test_a_command_that_says_what_no_firmware_does_is_a_silent_one(tmp_path):
    """Bytes that are no text: the files are told all the same, and the command is asked once a minute."""
    command, asked = tmp_path / "vcgencmd", tmp_path / "asked"
    command.write_text(f"#!/bin/sh\necho >> {asked}\nprintf 'throttled=\\377\\n'\n")
    command.chmod(0o755)
    board = Board(tmp_path, Vcgencmd(str(command)))
    clock(board.root, allowed=600)
    for _ in range(6):
        assert board.look().cpu_factor == 3.0
    assert len(board.told) == 6
    assert asked.read_text() == "\n"
