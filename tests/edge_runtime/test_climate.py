import pytest

from devices import CpuFrequency, Temperature, Throttled
from edge_runtime.climate import climate_of, firmware_cap, policy_factor, slows


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


@pytest.mark.parametrize(
    ("frequencies", "capped_mhz", "factor"),
    [
        ([], None, 1.0),
        ([], 600, 1.0),
        ([frequency(1800, 1800, 1800)], None, 1.0),
        ([frequency(600, 1800, 1800)], None, 1.0),  # idle: nothing is throttled
        ([frequency(None, 1800, 1800)], None, 1.0),
        ([frequency(600, 900, 1800)], None, 2.0),
        ([frequency(1800, 1800, 1800)], 600, 3.0),
        ([frequency(900, 900, 1800)], 600, 3.0),
        ([frequency(600, 600, 1800)], 900, 3.0),
        ([frequency(1800, 1800, 1800)], 2000, 1.0),
        ([frequency(2000, 2000, 1800)], None, 1.0),  # overclocked beyond what the driver says it can
        ([frequency(600, 5, 4500)], None, 32.0),  # no board does: a file is wrong
        ([frequency(1800, 1800, 1800)], 5, 32.0),
        ([frequency(1800, 1800, 1800), frequency(2400, 800, 2400, "policy4")], None, 3.0),
    ],
)
def test_the_cpu_takes_longer_by_what_it_is_allowed(frequencies, capped_mhz, factor):
    """Kernel's limit and firmware's cap count, of several clusters the worst; the governor's clock does not."""
    assert climate_of((), tuple(frequencies), None, capped_mhz).cpu_factor == pytest.approx(factor)


@pytest.mark.parametrize(
    ("celsius", "factor"), [(45.0, 1), (84.9, 1), (85.0, 2), (90.0, 4), (95.0, 8), (120.0, 8), (-10.0, 1)]
)
def test_an_edge_tpu_takes_twice_as_long_from_each_trip_on(celsius, factor):
    """500, 250, 125 and 62.5 MHz."""
    assert climate_of((apex(celsius),), ()).edge_tpu_factors == {"apex_0": factor}


@pytest.mark.parametrize(
    ("kind", "place", "factor"),
    [
        ("cpu", "", 3.0),
        ("edgetpu", "pci 0000:01:00.0", 1.0),
        ("edgetpu", "pci 0000:02:00.0", 4.0),
        ("edgetpu", "pci 0000:09:00.0", 1.0),
        ("edgetpu", "pci ", 1.0),
        ("edgetpu", "usb 2-1", 1.0),
        ("edgetpu", "", 1.0),
        ("gpu", "", 1.0),
    ],
)
def test_each_device_has_its_own_factor(kind, place, factor):
    """Two cards are told apart by their places; a stick, and a card that nobody can tell, have none."""
    sensors = (apex(50), apex(91, 1, "0000:02:00.0"))
    assert climate_of(sensors, (frequency(600, 600, 1800),)).factor(kind, place) == factor


@pytest.mark.parametrize(
    ("place", "sensor"), [("pci ", "0000:01:00.0"), ("pci 0000:01:00.0", ""), ("pci ", ""), ("pci x", "")]
)
def test_the_only_card_is_the_one(place, sensor):
    """Where a container hides the address on either side, one card and one sensor belong together."""
    assert climate_of((apex(91, place=sensor),), ()).factor("edgetpu", place) == 4.0


@pytest.mark.parametrize(
    ("measured", "asked", "allowed", "before", "cap"),
    [
        (600, 1800, 1800, None, 600),  # the kernel wants 1800 and gets 600
        (600, 600, 1800, None, None),  # idle: what it would get is not known
        (600, 600, 1800, 1000, 1000),  # idle: what was known holds
        (1500, 1500, 1800, 1000, 1500),  # it gets more than was known
        (1795, 1800, 1800, 1000, None),  # it gets all that it wants, and wants all
        (None, 1800, 1800, 1000, 1000),  # no answer
        (600, None, 1800, 1000, 1000),  # what it wants can't be read
        (None, 1800, 1800, None, None),
    ],
)
def test_only_a_clock_below_what_the_kernel_wants_is_a_cap(measured, asked, allowed, before, cap):
    """An idle CPU at 600 MHz is not throttled, also while the firmware says that it throttles."""
    assert firmware_cap(measured, asked, allowed, before) == cap


@pytest.mark.parametrize(
    ("mask", "found"), [(0x0, False), (0x1, False), (0x2, True), (0x4, True), (0x8, True), (0xF0000, False)]
)
def test_what_the_firmware_slows_for(mask, found):
    """Under-voltage by itself and what was since boot change nothing now."""
    assert slows(Throttled.from_mask(mask)) is found
    assert not slows(None)


def test_a_policy_that_is_not_capped_is_itself():
    """The pure part by itself: the inverse of the allowed share."""
    assert policy_factor(frequency(600, 1200, 1800)) == pytest.approx(1.5)
