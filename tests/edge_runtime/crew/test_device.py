import pytest

from devices import EdgeTpu, device_string
from edge_runtime.crew import device as devices_of
from edge_runtime.crew.device import DeviceTable, address_of
from edge_runtime.errors import EngineFailed, EngineLost


def stick(bus, address):
    return EdgeTpu(bus=bus, address=address, hardware_id="1a6e:089a", node=None)


SEEN = (stick("pci", "0000:01:00.0"), stick("usb", "1-1"), stick("usb", "2-1"))


@pytest.mark.parametrize(
    ("device", "place"),
    [
        ("edgetpu:usb:1", "usb 2-1"),
        ("edgetpu:usb:0", "usb 1-1"),
        ("edgetpu:pci:0", "pci 0000:01:00.0"),
        ("edgetpu:pci", "pci 0000:01:00.0"),
        ("edgetpu::2", "usb 2-1"),
        ("edgetpu:usb:2", ""),
        ("edgetpu:usb", ""),
        ("edgetpu", ""),
        ("cpu", ""),
    ],
)
def test_address_is_where_the_library_counts_it(device, place):
    """A numbered device string leads to one place; one that could be any of several leads to none."""
    assert address_of(device_string(device), SEEN) == place


def test_a_device_is_one_for_all_versions(tmp_path):
    """Versions that name the same device share its gate; the CPU has a permit a core, an accelerator one."""
    table = DeviceTable(lambda: 0.0, cpu_permits=3)
    assert table.get(device_string("cpu")) is table.get(device_string("cpu"))
    assert table.get(device_string("edgetpu:usb:1"), SEEN).address == "usb 2-1"
    assert len(table.all()) == 2


def test_place_is_learnt_when_it_is_opened():
    """A stick that was not attached at first has a place from the time on at which it is found."""
    table = DeviceTable(lambda: 0.0)
    device = table.get(device_string("edgetpu:pci:0"))
    assert device.address == ""
    assert table.locate(device, ()) == "pci:0"
    assert device.address == ""
    assert table.locate(device, SEEN) == "pci:0"
    assert device.address == "pci 0000:01:00.0"
    with pytest.raises(EngineLost, match="nothing is attached at pci"):
        table.locate(device, ())


def test_stick_at_another_port_is_the_same_device():
    """A stick that comes back elsewhere is taken for the one that went, and the library is asked by the new number."""
    table = DeviceTable(lambda: 0.0)
    first = table.get(device_string("edgetpu:usb:0"), SEEN)
    second = table.get(device_string("edgetpu:usb:1"), SEEN)
    left = (stick("usb", "2-1"),)
    assert table.locate(second, left) == "usb:0"
    with pytest.raises(EngineLost, match="1 attached, and this one is not among them"):
        table.locate(first, left)
    moved = (stick("usb", "2-1"), stick("usb", "4-2"))
    assert (table.locate(first, moved), first.address) == ("usb:1", "usb 4-2")
    assert table.locate(second, moved) == "usb:0"


@pytest.mark.parametrize("name", ["edgetpu", "edgetpu:usb"])
def test_any_edge_tpu_is_no_second_name_for_one_that_is_seen(name):
    """What stands for any while none is seen is opened as such then only, and never has the place of one that is."""
    table = DeviceTable(lambda: 0.0)
    one = (stick("usb", "1-1"),)
    any_one = table.get(device_string(name))
    assert any_one.stands_in
    assert table.locate(any_one, ()) == device_string(name).address
    with pytest.raises(EngineLost, match="used by their own names"):
        table.locate(any_one, one)
    named = table.get(device_string("edgetpu:usb:0"), one)
    assert (named is any_one, named.stands_in, named.address) == (False, False, "usb 1-1")
    assert table.locate(named, one) == "usb:0"


def test_new_stick_that_shifts_the_numbers_is_found():
    """A stick that comes before another in the library's order gives the new name to itself, not to the other."""
    table = DeviceTable(lambda: 0.0)
    old = table.get(device_string("edgetpu:usb:0"), (stick("usb", "2-1"),))
    both = (stick("usb", "1-1"), stick("usb", "2-1"))
    new = table.get(device_string("edgetpu:usb:1"), both)
    assert (new is old, new.address) == (False, "usb 1-1")
    assert (table.locate(new, both), table.locate(old, both)) == ("usb:0", "usb:1")


def test_no_other_stick_stands_in_for_one_that_the_user_named():
    """`edgetpu:usb:1` is the second one on USB: the only one that is attached does not pass for it."""
    table = DeviceTable(lambda: 0.0)
    one = (stick("usb", "1-1"),)
    device = table.get(device_string("edgetpu:usb:1"), one, exact=True)
    with pytest.raises(EngineLost):
        table.locate(device, one)
    assert table.locate(device, SEEN) == "usb:1"


def test_devices_are_bounded(monkeypatch):
    """A runtime that is asked for ever more devices refuses, and says how many it uses."""
    monkeypatch.setattr(devices_of, "MAX_DEVICES", 2)
    table = DeviceTable(lambda: 0.0)
    table.get(device_string("edgetpu:usb:0"))
    table.get(device_string("edgetpu:usb:1"))
    with pytest.raises(EngineFailed, match="at most 2 devices"):
        table.get(device_string("edgetpu:usb:2"))


class Version:
    """A user of devices."""

    def worker_ended(self, device):
        pass


def test_the_stick_that_the_user_named_is_left_to_that_name():
    """One that any name could take is not taken while a version waits for it by its number: there is one device."""
    table = DeviceTable(lambda: 0.0)
    other, named = table.get(device_string("edgetpu:usb:1")), table.get(device_string("edgetpu:usb:0"), exact=True)
    one = (stick("usb", "1-1"),)
    with pytest.raises(EngineLost):
        table.locate(other, one)
    assert table.locate(named, one) == "usb:0"
    both = (*one, stick("usb", "2-1"))
    assert table.locate(other, both) == "usb:1"


def test_a_stick_that_is_in_use_is_not_opened_by_another_name():
    """A number that now stands for a stick that another device has is refused, until nobody uses that one."""
    table = DeviceTable(lambda: 0.0)
    first, second = stick("usb", "1-1"), stick("usb", "2-1")
    named = table.get(device_string("edgetpu:usb:0"), (first, second), exact=True)
    other, version = table.get(device_string("edgetpu:usb:1"), (first, second)), Version()
    other.join(version)
    with pytest.raises(EngineLost, match=r"the one at usb 2-1 is in use as edgetpu:usb:1"):
        table.locate(named, (second,))
    other.leave(version)
    assert table.locate(named, (second,)) == "usb:0"
