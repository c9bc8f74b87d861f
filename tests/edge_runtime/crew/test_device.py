import pytest

from devices import EdgeTpu, device_string
from edge_runtime.crew import device as devices_of
from edge_runtime.crew.device import DeviceTable, address_of
from edge_runtime.errors import EngineFailed


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


def test_place_is_learnt_when_it_is_seen_first():
    """A stick that was not attached at first has a place from the time on at which it is."""
    table = DeviceTable(lambda: 0.0)
    assert table.get(device_string("edgetpu:usb:0")).address == ""
    assert table.get(device_string("edgetpu:usb:0"), SEEN).address == "usb 1-1"
    assert table.get(device_string("edgetpu:usb:0"), ()).address == "usb 1-1"


def test_devices_are_bounded(monkeypatch):
    """A runtime that is asked for ever more devices refuses, and says how many it uses."""
    monkeypatch.setattr(devices_of, "MAX_DEVICES", 2)
    table = DeviceTable(lambda: 0.0)
    table.get(device_string("edgetpu:usb:0"))
    table.get(device_string("edgetpu:usb:1"))
    with pytest.raises(EngineFailed, match="at most 2 devices"):
        table.get(device_string("edgetpu:usb:2"))
