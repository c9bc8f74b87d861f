import msgspec
import pytest
from support.devices_roots import FakeRoot

from devices import EdgeTpu, load_profiles, match, probe

USB = EdgeTpu(bus="usb", address="2-1", hardware_id="1a6e:089a", node=None)
USB_STARTED = EdgeTpu(bus="usb", address="2-1", hardware_id="18d1:9302", node=None)
PCI = EdgeTpu(bus="pci", address="0000:01:00.0", hardware_id="1ac1:089a", node=None)


def described(tmp_path, architecture, model, *edge_tpus):
    FakeRoot(tmp_path).machine(architecture, model=model)
    return msgspec.structs.replace(probe(tmp_path), edge_tpus=edge_tpus)


PI_4 = ("aarch64", "Raspberry Pi 4 Model B Rev 1.4")
PI_5 = ("aarch64", "Raspberry Pi 5 Model B Rev 1.0")
PC = ("x86_64", None)


@pytest.mark.parametrize(
    ("seen", "name", "accelerators", "delegates"),
    [
        (PI_4, "raspberry-pi-4", "", "cpu"),
        (("aarch64", "Raspberry Pi 400 Rev 1.0"), "raspberry-pi-4", "", "cpu"),
        (("aarch64", "Raspberry Pi Compute Module 4 Rev 1.1"), "raspberry-pi-4", "", "cpu"),
        (PI_5, "raspberry-pi-5", "", "cpu"),
        ((*PI_5, PCI), "raspberry-pi-5", "coral-pcie", "edgetpu:pci cpu"),
        (("aarch64", "Freescale i.MX8MQ Phanbell", PCI), "coral-dev-board", "", "edgetpu:pci cpu"),
        (
            ("aarch64", "Google i.MX8MQ Phanbell", PCI, USB),
            "coral-dev-board",
            "coral-usb",
            "edgetpu:usb edgetpu:pci cpu",
        ),
        (("aarch64", "Some Other Board"), "generic-aarch64", "", "cpu"),
        (PC, "generic-x86_64", "", "cpu"),
        ((*PC, USB), "generic-x86_64", "coral-usb", "edgetpu:usb cpu"),
        ((*PC, USB_STARTED), "generic-x86_64", "coral-usb", "edgetpu:usb cpu"),
        ((*PC, USB, USB_STARTED, PCI), "generic-x86_64", "coral-pcie coral-usb", "edgetpu:pci edgetpu:usb cpu"),
        (("armv7l", "Raspberry Pi 4 Model B Rev 1.4"), None, "", "cpu"),
        (("armv7l", None, USB), None, "coral-usb", "edgetpu:usb cpu"),
    ],
)
def test_the_profile_that_fits(tmp_path, seen, name, accelerators, delegates):
    """Model before architecture; what is built in is not attached besides; the CPU comes last."""
    found = match(described(tmp_path, *seen), load_profiles())
    assert (found.profile.name if found.profile else None) == name
    assert [accelerator.name for accelerator in found.accelerators] == accelerators.split()
    assert list(found.delegates) == delegates.split()


@pytest.mark.parametrize(
    ("architecture", "model", "reason"),
    [
        ("aarch64", "Raspberry Pi 5 Model B Rev 1.0", "the device tree says 'Raspberry Pi 5 Model B Rev 1.0'"),
        ("x86_64", None, "no device-tree model, the architecture is x86_64"),
        (
            "armv7l",
            "Raspberry Pi 4 Model B Rev 1.4",
            "and no profile is for the architecture armv7l",
        ),
    ],
)
def test_the_reason_is_told(tmp_path, architecture, model, reason):
    """A reader of the report sees from what the profile follows."""
    assert match(described(tmp_path, architecture, model), load_profiles()).reason.endswith(reason)


def test_attached_accelerators_are_in_the_reason(tmp_path):
    """They change the order of delegates, so they are named."""
    assert match(described(tmp_path, "x86_64", None, USB), load_profiles()).reason.endswith(
        "; Coral USB Accelerator attached"
    )
