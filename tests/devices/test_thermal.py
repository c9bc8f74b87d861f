import pytest
from support.devices_roots import FakeRoot

from devices import Temperature, Throttled, read_temperatures, read_throttled


def test_zones_and_edge_tpus_in_degrees(tmp_path):
    """Both write millidegrees; an Edge TPU has trip points besides."""
    root = FakeRoot(tmp_path)
    root.machine("aarch64")
    root.pci_coral()
    root.write("sys/class/thermal/thermal_zone0/temp", "51540\n")
    root.write("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    root.write("sys/class/thermal/cooling_device0/type", "fan\n")
    assert read_temperatures(tmp_path) == (
        Temperature(source="thermal_zone0", kind="cpu-thermal", celsius=51.54),
        Temperature(
            source="apex_0", kind="edgetpu", celsius=45.25, trips_celsius=(85.0, 90.0, 95.0), place="0000:01:00.0"
        ),
    )


@pytest.mark.parametrize(
    ("celsius", "trips", "mhz"),
    [
        (84.9, (85.0, 90.0, 95.0), 500),
        (85.0, (85.0, 90.0, 95.0), 250),
        (90.0, (85.0, 90.0, 95.0), 125),
        (99.0, (85.0, 90.0, 95.0), 62.5),
        (72.0, (70.0, 75.0, 80.0), 250),
        (99.0, (), 500),
    ],
)
def test_the_clock_of_an_edge_tpu_halves_at_each_trip(celsius, trips, mhz):
    """The trips are the board's own: where they can't be read nothing is concluded."""
    assert Temperature(source="apex_0", kind="edgetpu", celsius=celsius, trips_celsius=trips).clock_mhz == mhz


@pytest.mark.parametrize(("interval", "mhz"), [("0", 500), ("5000", 250), (None, 250)])
def test_a_driver_that_never_compares_never_lowers_the_clock(tmp_path, interval, mhz):
    """With `temp_poll_interval` 0, the default of its version 1.1, the trips are figures and nothing else."""
    root = FakeRoot(tmp_path)
    root.machine("aarch64")
    root.pci_coral()
    root.write("sys/class/apex/apex_0/temp", "86000\n")
    if interval is not None:
        root.write("sys/class/apex/apex_0/temp_poll_interval", f"{interval}\n")
    assert [found.clock_mhz for found in read_temperatures(tmp_path)] == [mhz]


def test_below_zero(tmp_path):
    """A device outdoors in winter."""
    FakeRoot(tmp_path).write("sys/class/thermal/thermal_zone0/temp", "-5000\n")
    assert [found.celsius for found in read_temperatures(tmp_path)] == [-5.0]


def test_a_sensor_that_does_not_answer_is_left_out(tmp_path):
    """One broken zone does not hide the next."""
    root = FakeRoot(tmp_path)
    root.write("sys/class/thermal/thermal_zone0/temp", "\n")
    root.write("sys/class/thermal/thermal_zone1/temp", "40000\n")
    assert [found.source for found in read_temperatures(tmp_path)] == ["thermal_zone1"]


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5000, "-300000", "1000001", "\udcff\udcfe"])
def test_a_sensor_that_says_what_can_not_be_is_left_out(tmp_path, text):
    """A broken one hides neither the next nor its own device's other figures."""
    root = FakeRoot(tmp_path)
    root.write("sys/class/thermal/thermal_zone1/temp", "40000\n")
    (tmp_path / "sys/class/thermal/thermal_zone0").mkdir()
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_bytes(text.encode(errors="surrogateescape"))
    assert [found.source for found in read_temperatures(tmp_path)] == ["thermal_zone1"]


def test_no_sensors_no_values(tmp_path):
    """A virtual machine has none."""
    assert read_temperatures(tmp_path) == ()


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        (0x0, set()),
        (0x1, {"under_voltage"}),
        (0x2, {"frequency_capped"}),
        (0x4, {"throttled"}),
        (0x8, {"soft_temperature_limit"}),
        (0x10000, {"seen_under_voltage"}),
        (0x50005, {"under_voltage", "throttled", "seen_under_voltage", "seen_throttled"}),
        (0xE0008, {"soft_temperature_limit", "seen_frequency_capped", "seen_throttled", "seen_soft_temperature_limit"}),
        (0xFFF0, set()),
    ],
)
def test_the_mask_of_get_throttled(mask, names):
    """Bits 0 to 3 are now, 16 to 19 since boot, the others mean nothing."""
    throttled = Throttled.from_mask(mask)
    assert {name for name in throttled.__struct_fields__ if getattr(throttled, name)} == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "error=1",
        "throttled=",
        "throttled=much",
        "VCHI initialization failed",
        "throttled=-0x1",
        "throttled=0x" + "f" * 5000,
    ],
)
def test_another_answer_is_none(text):
    """What is no mask is not taken for a healthy board."""
    assert Throttled.from_text(text) is None


@pytest.mark.slow
def test_the_firmware_is_asked_through_its_command(tmp_path):
    """A command that answers as vcgencmd does is decoded; one that is missing or fails gives none."""
    command = tmp_path / "vcgencmd"
    command.write_text('#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x50000\n')
    command.chmod(0o755)
    assert read_throttled(str(command)) == Throttled.from_mask(0x50000)
    command.write_text("#!/bin/sh\nexit 1\n")
    assert read_throttled(str(command)) is None
    assert read_throttled(str(tmp_path / "nothing")) is None


@pytest.mark.slow
@pytest.mark.parametrize("said", ["printf 'throttled=\\377\\n'", "yes throttled=0x50005", "exec sleep 60", "sleep 3"])
def test_a_command_that_says_what_no_firmware_does_is_none(tmp_path, said):
    """Bytes that are no text, an endless answer, or none in its time."""
    command = tmp_path / "vcgencmd"
    command.write_text(f"#!/bin/sh\n{said}\n")
    command.chmod(0o755)
    assert read_throttled(str(command), 0.2) is None
