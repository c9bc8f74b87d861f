"""A description of one machine, as `probe` found it: plain values, no behaviour that reads anything."""

from __future__ import annotations

from typing import Literal

import msgspec

USB_ID_BEFORE_INFERENCE = "1a6e:089a"
"""A Coral USB Accelerator that has just been plugged in; its firmware has not been loaded yet."""

USB_ID_AFTER_INFERENCE = "18d1:9302"
"""The same stick once the first inference has loaded its firmware: it leaves the bus and comes back as this."""

PCI_ID = "1ac1:089a"
"""An Edge TPU on PCIe: the M.2 and mini PCIe cards, and the one on the Coral Dev Board."""

DRIVER_MODULES = ("gasket", "apex")
"""The kernel modules behind `/dev/apex_N`; a USB Accelerator needs neither."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A device file.

    Attributes:
        path: Below the root, such as `/dev/apex_0`.
        usable: Whether this process may read and write it.
        mode: The permission bits in octal, such as `0660`.
        group: The name of its group, or the number where no name is known.
    """

    path: str
    usable: bool
    mode: str
    group: str


class EdgeTpu(msgspec.Struct, frozen=True, kw_only=True):
    """One Edge TPU.

    Attributes:
        bus: Where it sits.
        address: Its place there: `2-1` (USB port) or `0000:01:00.0` (PCI address); empty where only the node was seen.
        hardware_id: Vendor and device, as in `USB_ID_BEFORE_INFERENCE`.
        node: The file it is reached through; None where there is none.
        speed_mbps: USB: the negotiated speed, 480 for USB 2 and 5000 for USB 3; None where unknown, and on PCIe.
    """

    bus: Literal["usb", "pci"]
    address: str
    hardware_id: str
    node: Node | None
    speed_mbps: int | None = None


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface, by the kernel's flags."""

    name: str
    up: bool
    loopback: bool
    multicast: bool


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine is. None and empty mean: not there, or not to be read (then `unread` says so).

    Attributes:
        architecture: As `uname -m` says it: `aarch64`, `x86_64`, `armv7l`; empty where unknown.
        model: The board's name out of the device tree; a PC has none.
        cores: Logical CPUs.
        page_size_bytes: The kernel's memory page; 16 KiB on the Raspberry Pi 5's default kernel.
        system: The distribution's name.
        python_bits: 32 for a 32-bit Python, also on a 64-bit kernel.
        modules: Which of `DRIVER_MODULES` are loaded.
        render_nodes: `/dev/dri/renderD*`: GPUs.
        video_nodes: `/dev/video*`: cameras and codecs.
        unread: What should have been there and could not be read, each with the reason.
    """

    architecture: str
    model: str | None
    cores: int | None
    cpu_model: str | None
    memory_bytes: int | None
    page_size_bytes: int | None
    kernel: str | None
    system: str | None
    python: str
    python_bits: int
    edge_tpus: tuple[EdgeTpu, ...]
    modules: tuple[str, ...]
    render_nodes: tuple[Node, ...]
    video_nodes: tuple[Node, ...]
    interfaces: tuple[Interface, ...]
    unread: tuple[str, ...]

    @property
    def is_raspberry_pi_5(self) -> bool:
        """Whether this is one, or a Compute Module 5: their PCIe needs settings of its own for an Edge TPU."""
        return self.model is not None and self.model.startswith(("Raspberry Pi 5", "Raspberry Pi Compute Module 5"))
