"""The delegates that this project knows: what each is, which library it lives in, and what hardware it needs."""

from __future__ import annotations

import re
import sys

import msgspec

from devices.errors import UnknownDelegate

_DEVICE_STRING = re.compile(r"edgetpu(:(usb|pci)(:\d{1,2})?|::\d{1,2})?")
"""pycoral's grammar behind a common prefix: `edgetpu`, `edgetpu:usb`, `edgetpu:pci:1`, `edgetpu::1`."""


class Delegate(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of delegate.

    Attributes:
        name: What a profile or a user calls it, without the device behind the colon.
        title: For people.
        kind: `builtin` comes with the interpreter, `external` is a library for `load_delegate`, `compiled` is chosen
            when LiteRT's CompiledModel is made.
        libraries: The shared library's file name by `sys.platform`; empty where none has to be found.
        needs: The hardware and software it takes, in words.
    """

    name: str
    title: str
    kind: str
    needs: str
    libraries: dict[str, str] = {}

    def library(self, platform: str = sys.platform) -> str | None:
        """The library's file name on that platform, or None where there is none."""
        return self.libraries.get(platform)


DELEGATES: tuple[Delegate, ...] = (
    Delegate(name="cpu", title="CPU with XNNPACK", kind="builtin", needs="nothing besides the interpreter"),
    Delegate(
        name="edgetpu",
        title="Coral Edge TPU",
        kind="external",
        needs="a Coral Edge TPU on USB or PCIe (PCIe also the gasket and apex drivers), and libedgetpu",
        libraries={"linux": "libedgetpu.so.1", "darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"},
    ),
    Delegate(
        name="gpu",
        title="GPU over WebGPU (Vulkan)",
        kind="compiled",
        needs="a GPU with a Vulkan driver, and the Vulkan loader",
        libraries={"linux": "libvulkan.so.1"},
    ),
)


def delegate(device: str) -> Delegate:
    """The delegate that a device string asks for: `cpu`, `gpu`, `edgetpu`, `edgetpu:usb`, `edgetpu:pci:1`.

    Raises:
        UnknownDelegate: no delegate has that name, or what stands behind the colon is no device.
    """
    name, _, address = device.partition(":")
    for known in DELEGATES:
        if known.name == name and ((not address and device == name) or _DEVICE_STRING.fullmatch(device)):
            return known
    raise UnknownDelegate(
        f"delegate {device!r}: known are {', '.join(known.name for known in DELEGATES)}; "
        "an Edge TPU may be narrowed as in edgetpu:usb, edgetpu:pci:1 or edgetpu::1"
    )
