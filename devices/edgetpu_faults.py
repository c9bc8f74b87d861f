"""Why libedgetpu finds no Edge TPU that it can open, told from what the machine looks like."""

from __future__ import annotations

from devices.machine import PCI_ID, USB_ID_AFTER_INFERENCE, USB_ID_BEFORE_INFERENCE, EdgeTpu, Machine

_PI_5_OVERLAYS = "dtoverlay=pciex1-compat-pi5,no-mip and dtoverlay=pcie-32bit-dma-pi5"
_PAGE_SIZE_BYTES = 4096
"""The PCIe driver maps memory in pages of this size and refuses larger ones."""

NO_STICK = "Without an Edge TPU nothing needs doing."
"""For whoever did not ask for one."""

_BUSES = ("/sys/bus/usb/devices", "/sys/bus/pci/devices")


def no_edge_tpu(machine: Machine) -> str:
    """A sentence saying that none was found, or that nobody could look."""
    hidden = [line for line in machine.unread if line.startswith(_BUSES)]
    if hidden:
        return f"No Edge TPU was seen, but not all could be looked at ({'; '.join(hidden)})."
    return "No Edge TPU was found, neither on USB nor on PCIe."


def why_not_loaded(machine: Machine) -> tuple[str, str]:
    """Cause and cure behind `Failed to load delegate`, for a library that is installed."""
    if not machine.edge_tpus:
        return no_edge_tpu(machine), _plug_in(machine)
    usable = next((seen for seen in machine.edge_tpus if seen.node and seen.node.usable), None)
    if usable is None:
        return _unreachable(machine.edge_tpus[0], machine)
    if usable.bus == "pci" and (machine.page_size_bytes or 0) > _PAGE_SIZE_BYTES:
        size_kib = (machine.page_size_bytes or 0) // 1024
        return (
            f"The kernel uses memory pages of {size_kib} KiB; the Edge TPU's PCIe driver needs 4 KiB.",
            "Boot a kernel with 4 KiB pages: on a Raspberry Pi 5, kernel=kernel8.img in config.txt.",
        )
    return _busy(usable)


def _plug_in(machine: Machine) -> str:
    cure = f"Plug it in and look with lsusb for {USB_ID_BEFORE_INFERENCE}, or with lspci -n for {PCI_ID}."
    if machine.is_raspberry_pi_5:
        cure += f" A card on a Raspberry Pi 5's PCIe appears only with {_PI_5_OVERLAYS} in config.txt."
    return cure + " In a container or virtual machine, pass the device through."


def _unreachable(edge_tpu: EdgeTpu, machine: Machine) -> tuple[str, str]:
    if edge_tpu.node is not None:
        node = edge_tpu.node
        return (
            f"{node.path} may not be opened by this user: it is {node.mode}, group {node.group}.",
            _grant(node.group),
        )
    if edge_tpu.bus == "usb":
        return (
            f"The Edge TPU is on USB port {edge_tpu.address}, but its file under /dev/bus/usb is missing.",
            "In a container give it all of /dev/bus/usb, since the stick changes its number when it starts.",
        )
    return _no_apex(edge_tpu, machine)


def _grant(group: str) -> str:
    rule = "60-coral-edgetpu.rules (it ships in devices/udev) into /etc/udev/rules.d and plug the device in again"
    if group == "root":
        return f"Put the rule {rule}, and add the user to the group plugdev."
    return f"Add the user to the group: sudo usermod -aG {group} $USER, and log in again. If it stays so, put {rule}."


def _no_apex(edge_tpu: EdgeTpu, machine: Machine) -> tuple[str, str]:
    where = f"The Edge TPU is on PCIe at {edge_tpu.address or 'an unknown address'}, but /dev/apex_N is missing"
    missing = [name for name in ("gasket", "apex") if name not in machine.modules]
    if missing:
        return (
            f"{where}: the kernel driver is not loaded ({' and '.join(missing)}).",
            "sudo modprobe apex; if there is no such module, install gasket-dkms and the kernel's headers.",
        )
    cure = "Look with dmesg | grep apex for the reason; in a container pass /dev/apex_0 through."
    if machine.is_raspberry_pi_5:
        cure = f"Put {_PI_5_OVERLAYS} into config.txt and restart; then dmesg | grep apex tells more."
    return f"{where}: the driver is loaded and did not take the card.", cure


def _busy(edge_tpu: EdgeTpu) -> tuple[str, str]:
    path = edge_tpu.node.path if edge_tpu.node else ""
    cause = f"{path} is there and may be opened, so most likely another process holds it: one at a time can."
    cure = f"Find that process with sudo fuser -v {path} and end it, or reach the Edge TPU through it."
    if edge_tpu.hardware_id == USB_ID_BEFORE_INFERENCE:
        cure += (
            f" In a virtual machine or container pass {USB_ID_AFTER_INFERENCE} through as well: "
            "the stick takes that id when it starts."
        )
    return cause, cure
