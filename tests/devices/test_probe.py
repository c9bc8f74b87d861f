import platform
import sys

import pytest
from support.devices_roots import FakeRoot, others_may

from devices import Interface, probe


@pytest.fixture
def root(tmp_path):
    return FakeRoot(tmp_path)


@pytest.mark.parametrize(
    ("model", "page_kib"), [("Raspberry Pi 4 Model B Rev 1.4", 4), ("Raspberry Pi 5 Model B Rev 1.0", 16)]
)
def test_a_raspberry_pi(root, model, page_kib):
    """Board, processor, memory and page size come from the device tree and proc."""
    root.machine("aarch64", model=model, page_kib=page_kib, memory_kib=8_000_000)
    machine = probe(root.path)
    assert (machine.architecture, machine.model, machine.cores) == ("aarch64", model, 4)
    assert machine.memory_bytes == 8_000_000 * 1024
    assert machine.page_size_bytes == page_kib * 1024
    assert (machine.kernel, machine.system) == ("6.6.31-test", "Debian GNU/Linux 12 (bookworm)")
    assert machine.cpu_model is None
    assert machine.is_raspberry_pi_5 == (page_kib == 16)
    assert machine.edge_tpus == machine.modules == machine.unread == ()


def test_the_device_tree_is_also_found_in_sysfs(root):
    """Where proc's link to the device tree is missing, sysfs holds the same."""
    root.machine("aarch64")
    root.write("sys/firmware/devicetree/base/model", "A Board\0")
    assert probe(root.path).model == "A Board"


def test_a_coral_dev_board(root):
    """Its Edge TPU is on PCIe and is reached through the node that the class device links to."""
    root.machine("aarch64", model="Freescale i.MX8MQ Phanbell")
    root.pci_coral()
    machine = probe(root.path)
    assert [(found.bus, found.address, found.node.path) for found in machine.edge_tpus] == [
        ("pci", "0000:01:00.0", "/dev/apex_0")
    ]
    assert machine.modules == ("gasket", "apex")


@pytest.mark.parametrize(("after_inference", "hardware_id"), [(False, "1a6e:089a"), (True, "18d1:9302")])
def test_a_stick_is_found_under_both_of_its_ids(root, after_inference, hardware_id):
    """The first inference changes the id; it is the same Edge TPU."""
    root.machine("x86_64")
    root.usb_coral(after_inference=after_inference)
    (found,) = probe(root.path).edge_tpus
    assert (found.bus, found.address, found.hardware_id, found.speed_mbps) == ("usb", "2-1", hardware_id, 5000)
    assert found.node.path == "/dev/bus/usb/002/004"
    assert found.node.usable


def test_a_card_without_its_driver_has_no_node(root):
    """It is seen on the bus, and cannot be reached."""
    root.machine("x86_64")
    root.pci_coral(driver=False)
    machine = probe(root.path)
    assert [(found.hardware_id, found.node) for found in machine.edge_tpus] == [("1ac1:089a", None)]
    assert machine.modules == ()


def test_two_cards_have_their_own_nodes(root):
    """Each PCI address is paired with its own /dev/apex_N, whatever the numbers are."""
    root.machine("x86_64")
    root.pci_coral(1)
    root.pci_coral(0)
    assert {found.address: found.node.path for found in probe(root.path).edge_tpus} == {
        "0000:01:00.0": "/dev/apex_0",
        "0000:02:00.0": "/dev/apex_1",
    }


def test_a_node_without_a_bus_still_counts(root):
    """A container may be given /dev/apex_0 and be shown no PCI bus."""
    root.machine("aarch64")
    root.write("dev/apex_0", "", 0o666)
    (found,) = probe(root.path).edge_tpus
    assert (found.address, found.node.path) == ("", "/dev/apex_0")


def test_a_closed_node_is_told_with_mode_and_group(root):
    """Whoever reads the description sees which group would open the device."""
    root.machine("x86_64")
    root.usb_coral(after_inference=False, mode=0o660)
    (found,) = probe(root.path, may_use=others_may).edge_tpus
    assert (found.node.usable, found.node.mode) == (False, "0660")
    gid = (root.path / "dev/bus/usb/002/004").stat().st_gid
    assert found.node.group == ("root" if gid == 0 else str(gid))


def test_a_stick_whose_node_is_missing(root):
    """A container that was not given /dev/bus/usb sees the stick in sysfs only."""
    root.machine("x86_64")
    root.usb_coral(after_inference=True, node=False)
    assert [found.node for found in probe(root.path).edge_tpus] == [None]


def test_render_and_video_nodes(root):
    """GPUs and cameras are told apart from what stands beside them."""
    root.machine("x86_64")
    for name in ("dri/renderD128", "dri/card0", "video0", "video10", "videodev"):
        root.write(f"dev/{name}", "")
    machine = probe(root.path)
    assert [node.path for node in machine.render_nodes] == ["/dev/dri/renderD128"]
    assert [node.path for node in machine.video_nodes] == ["/dev/video0", "/dev/video10"]


def test_interfaces_by_the_kernels_flags(root):
    """Loopback, a cable, and one that is switched off; a file among them is passed over."""
    root.machine("x86_64")
    root.write("sys/class/net/eth0/flags", "0x1003\n")
    root.write("sys/class/net/wlan0/flags", "0x1002\n")
    root.write("sys/class/net/bonding_masters", "\n")
    assert probe(root.path).interfaces == (
        Interface(name="eth0", up=True, loopback=False, multicast=True),
        Interface(name="lo", up=True, loopback=True, multicast=False),
        Interface(name="wlan0", up=False, loopback=False, multicast=True),
    )


def test_an_empty_root_is_described_and_what_is_missing_told(tmp_path):
    """Nothing raises; the description is empty and says why."""
    machine = probe(tmp_path)
    assert (machine.architecture, machine.cores, machine.memory_bytes) == ("", None, None)
    missing = {line.partition(":")[0] for line in machine.unread}
    assert {"/sys/bus/usb/devices", "/sys/bus/pci/devices", "/sys/class/net", "/proc/cpuinfo"} <= missing


def test_garbage_does_not_raise(root):
    """Files that hold something else than they should cost their own value and no other."""
    root.machine("x86_64")
    root.usb_coral(after_inference=False)
    root.write("sys/bus/usb/devices/2-1/devnum", "four")
    root.write("proc/meminfo", "MemTotal: lots\n")
    root.write("etc/group", "::\nbroken\n")
    machine = probe(root.path)
    assert machine.memory_bytes is None
    assert [found.node for found in machine.edge_tpus] == [None]
    assert "/sys/bus/usb/devices/2-1/devnum: 'four' is no number" in machine.unread


def test_this_machine():
    """The running machine is described by its own architecture and Python."""
    machine = probe()
    assert machine.architecture == platform.machine()
    assert machine.python == platform.python_version()
    assert machine.python_bits == (64 if sys.maxsize > 2**32 else 32)
