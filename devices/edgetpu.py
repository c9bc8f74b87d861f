"""Finds Edge TPUs by their hardware ids on USB and PCIe, and gives each of them its device string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from devices.delegates import DeviceString, device_string
from devices.machine import PCI_ID, USB_ID_AFTER_INFERENCE, USB_ID_BEFORE_INFERENCE, EdgeTpu, Node
from devices.tree import Tree

_USB = "sys/bus/usb/devices"
_PCI = "sys/bus/pci/devices"
_APEX = "sys/class/apex"
_VENDORS = frozenset(one[:4] for one in (USB_ID_BEFORE_INFERENCE, USB_ID_AFTER_INFERENCE, PCI_ID))


def expand(device: DeviceString, seen: Sequence[EdgeTpu]) -> tuple[DeviceString, ...]:
    """The single devices that a device string stands for.

    `edgetpu` is every Edge TPU, `edgetpu:usb` every one on USB; each gets the number that it has on its bus, from 0 in
    the order of `seen`. Whatever else is a single device already. Where none was seen, for instance because a container
    hides sysfs, the device string stands for itself: the library may know better.

    Args:
        device: What was asked for.
        seen: The Edge TPUs that are attached, as `find_edge_tpus` gives them.
    """
    if device.delegate.name != "edgetpu" or device.address not in ("", "usb", "pci"):
        return (device,)
    counts: dict[str, int] = {}
    single = []
    for edge_tpu in seen:
        number = counts.get(edge_tpu.bus, 0)
        counts[edge_tpu.bus] = number + 1
        if device.address in ("", edge_tpu.bus):
            single.append(device_string(f"edgetpu:{edge_tpu.bus}:{number}"))
    return tuple(single) or (device,)


def edge_tpus_in(tree: Tree, node: Callable[[str], Node | None]) -> tuple[EdgeTpu, ...]:
    """All that are to be seen, those on PCIe first, on each bus by address.

    Args:
        tree: Where to look.
        node: Describes a device file; None where it is missing.
    """
    return (*_on_pci(tree, node), *_on_usb(tree, node))


def _on_usb(tree: Tree, node: Callable[[str], Node | None]) -> list[EdgeTpu]:
    found = []
    for address in tree.names(_USB, expected=True):
        # A name with a colon is an interface of a device, which has no ids of its own.
        hardware_id = "" if ":" in address else _id(tree, f"{_USB}/{address}", "idVendor", "idProduct")
        if hardware_id not in (USB_ID_BEFORE_INFERENCE, USB_ID_AFTER_INFERENCE):
            continue
        bus, number = (tree.number(f"{_USB}/{address}/{name}") for name in ("busnum", "devnum"))
        located = bus is not None and number is not None
        found.append(
            EdgeTpu(
                bus="usb",
                address=address,
                hardware_id=hardware_id,
                node=node(f"dev/bus/usb/{bus:03d}/{number:03d}") if located else None,
                speed_mbps=tree.number(f"{_USB}/{address}/speed"),
            )
        )
    return found


def _on_pci(tree: Tree, node: Callable[[str], Node | None]) -> list[EdgeTpu]:
    names = _apex_names(tree)
    found = []
    for address in tree.names(_PCI, expected=True):
        if _id(tree, f"{_PCI}/{address}", "vendor", "device") == PCI_ID:
            name = names.pop(address, None)
            found.append(
                EdgeTpu(bus="pci", address=address, hardware_id=PCI_ID, node=node(f"dev/{name}") if name else None)
            )
    # In a container sysfs may hide the PCI device and /dev still hold the node.
    left = names.values() if names else (name for name in tree.names("dev") if not found and _is_apex(name))
    found += [EdgeTpu(bus="pci", address="", hardware_id=PCI_ID, node=node(f"dev/{name}")) for name in left]
    return found


def _id(tree: Tree, path: str, vendor_file: str, product_file: str) -> str:
    """`1a6e:089a`; the vendor alone, and so one file less to read, where none of its devices is an Edge TPU."""
    vendor = (tree.text(f"{path}/{vendor_file}") or "").removeprefix("0x")
    if vendor not in _VENDORS:
        return vendor
    return f"{vendor}:{(tree.text(f'{path}/{product_file}') or '').removeprefix('0x')}"


def _apex_names(tree: Tree) -> dict[str, str]:
    """`apex_N` by the PCI address that its class device links to; by its own name where the link says nothing."""
    names = {}
    for name in tree.names(_APEX):
        if _is_apex(name):
            link = tree.root / _APEX / name / "device"
            names[link.resolve().name if link.is_symlink() else name] = name
    return names


def _is_apex(name: str) -> bool:
    prefix, _, number = name.partition("_")
    return prefix == "apex" and number.isdecimal()
