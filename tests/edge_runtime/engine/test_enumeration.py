import logging
import threading

import pytest
from support.devices_roots import FakeRoot
from support.loops import until

from devices import EdgeTpu, Node
from edge_runtime.engine import enumeration
from edge_runtime.engine.enumeration import edge_tpus, in_order
from edge_runtime.trial import Trials

PCI = EdgeTpu(
    bus="pci",
    address="0000:01:00.0",
    hardware_id="1ac1:089a",
    node=Node(path="/dev/apex_0", usable=True, mode="0660", group="apex"),
)
STICK = EdgeTpu(bus="usb", address="2-1", hardware_id="1a6e:089a", node=None)
OTHER_STICK = EdgeTpu(bus="usb", address="1-1.2", hardware_id="18d1:9302", node=None)


@pytest.fixture
def pycoral(tmp_path, monkeypatch):
    """Installs a stand-in whose list is what the text says, and that shows in which process it was loaded."""
    monkeypatch.setattr(enumeration, "_said", set())
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(body):
        folder = tmp_path / "pycoral" / "utils"
        folder.mkdir(parents=True)
        for package in (folder.parent, folder):
            (package / "__init__.py").write_text("")
        (folder / "edgetpu.py").write_text(f"import os, signal\ndef list_edge_tpus():\n    {body}\n")

    return install


@pytest.mark.slow
def test_pycoral_is_asked_where_a_board_has_it(pycoral):
    """Its order is libedgetpu's own."""
    pycoral("return [{'type': 'usb', 'path': '/sys/bus/usb/devices/2-1'}, {'type': 'pci', 'path': '/dev/apex_0'}]")
    assert [(found.bus, found.address) for found in edge_tpus()] == [("usb", "2-1"), ("pci", "/dev/apex_0")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise RuntimeError('no libedgetpu')", "no libedgetpu"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("return [{'bus': 1, 'path': 2, 'type': 3}]", "in a form that is not known"),
    ],
)
def test_a_pycoral_that_fails_is_told_once_and_sysfs_read(pycoral, caplog, body, said):
    """Even one that crashes, as the libedgetpu that it loads may."""
    pycoral(body)
    with caplog.at_level(logging.WARNING):
        assert edge_tpus() == edge_tpus() == ()
    assert [said in record.message for record in caplog.records] == [True]


def test_another_machines_files_are_read_without_pycoral(pycoral, tmp_path):
    """It knows of this machine only."""
    pycoral("raise SystemExit('it was asked')")
    root = FakeRoot(tmp_path / "root")
    root.machine("x86_64")
    root.usb_coral(after_inference=False)
    assert [found.address for found in edge_tpus(root.path)] == ["2-1"]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ([], []),
        (["usb /sys/bus/usb/devices/2-1", "usb /sys/bus/usb/devices/1-1.2"], [STICK, OTHER_STICK]),
        (["usb /sys/bus/usb/devices/1-1.2", "pci /dev/apex_0"], [OTHER_STICK, PCI]),
        (["usb /sys/bus/usb/devices/9-9"], [EdgeTpu(bus="usb", address="9-9", hardware_id="", node=None)]),
        (["pci /dev/apex_7"], [EdgeTpu(bus="pci", address="/dev/apex_7", hardware_id="", node=None)]),
    ],
)
def test_what_pycoral_lists_is_found_in_sysfs(listed, expected):
    """By the node on PCIe and by the port on USB; what sysfs hides is believed."""
    parts = [one.split() for one in listed]
    assert list(in_order([{"type": bus, "path": path} for bus, path in parts], [PCI, OTHER_STICK, STICK])) == expected


@pytest.mark.slow
def test_asking_pycoral_can_be_called_off(pycoral, caplog, tmp_path):
    """One that hangs is left when the runtime is closed, without a word: sysfs is read."""
    pycoral(f"open({str(tmp_path / 'asked')!r}, 'w'); import time; time.sleep(100)")
    trials, found = Trials(), []
    asking = threading.Thread(target=lambda: found.append(edge_tpus(trials=lambda: trials)))
    asking.start()
    until((tmp_path / "asked").exists)
    trials.call_off()
    asking.join()
    assert found == [()]
    assert not caplog.records
