"""The delegates that this project knows: what each is, which library it lives in, and what hardware it needs."""

from __future__ import annotations

import re
import sys
from urllib.parse import unquote

import msgspec

from devices.errors import UnknownDelegate

GRAMMAR = (
    "cpu, gpu, npu, edgetpu, edgetpu:usb, edgetpu:pci, edgetpu:usb:N, edgetpu:pci:N, edgetpu::N, "
    "external:/path/lib.so?option=value&other=value"
)
"""Every device string there is. pycoral's grammar stands behind `edgetpu:`."""

MAX_OPTIONS = 32
MAX_NAME_CHARACTERS = 64
MAX_TEXT_CHARACTERS = 4096
"""An external delegate takes a handful of short options. More is a mistake, and goes no further than here."""

_EDGE_TPU = re.compile(r"edgetpu(?::(?P<address>(?:usb|pci)(?::[0-9]{1,2})?|:[0-9]{1,2}))?")
_OPTION_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_NAME_CHARACTERS}}}")
_ESCAPED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")


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


class DeviceString(msgspec.Struct, frozen=True, kw_only=True):
    """What a user or a profile calls a device. Two are one device if their texts are the same.

    Attributes:
        text: As it was written: `edgetpu:usb:0`, `external:/opt/lib.so?level=2`.
        delegate: What reaches it.
        address: An Edge TPU's, as pycoral takes it: `usb:0`, `pci`, `:1`; empty for any, and for other delegates.
        library: What `load_delegate` is given: the path of an `external`, the usual name for an `edgetpu`; else empty.
        options: What the library is given with it; an Edge TPU's address is its option `device`.
    """

    text: str
    delegate: Delegate
    address: str = ""
    library: str = ""
    options: dict[str, str] = {}

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text


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
    Delegate(
        name="npu",
        title="NPU over LiteRT's accelerators",
        kind="compiled",
        needs="an NPU of Qualcomm, MediaTek, Google, Samsung or Intel, and its maker's libraries",
    ),
    Delegate(
        name="external",
        title="Another delegate's library",
        kind="external",
        needs="a shared library with TensorFlow Lite's external delegate interface, and what that needs",
    ),
)


def delegate(device: str) -> Delegate:
    """The delegate that a device string asks for.

    Raises:
        UnknownDelegate: it is no device string.
    """
    return device_string(device).delegate


def device_string(text: str) -> DeviceString:
    """Reads a device string; see `GRAMMAR`.

    An external library's path reaches up to the first `?` and is taken as it stands. In the options' values `&`, `%`
    and whatever else a file or a shell minds are written as in URLs: `%26`.

    Raises:
        UnknownDelegate: it is none; the text quotes it and shows the grammar.
    """
    name, colon, rest = text.partition(":")
    known = next((one for one in DELEGATES if one.name == name), None)
    if known is None:
        raise _refused(text, f"known are {', '.join(one.name for one in DELEGATES)}")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise _refused(text[:60] + "...", f"it has {len(text)} characters, at most {MAX_TEXT_CHARACTERS} are taken")
    if known.name == "external":
        library, question_mark, query = rest.partition("?")
        if not library or "\0" in library:
            raise _refused(text, "the path of the library is missing" if not library else "the path holds a NUL")
        options = _options(text, query) if question_mark else {}
        return DeviceString(text=text, delegate=known, library=library, options=options)
    if known.name == "edgetpu":
        found = _EDGE_TPU.fullmatch(text)
        if found is None:
            raise _refused(text, "behind edgetpu stands where it is")
        address = found["address"] or ""
        options = {"device": address} if address else {}
        library = known.library() or ""
        return DeviceString(text=text, delegate=known, address=address, library=library, options=options)
    if colon:
        raise _refused(text, f"nothing stands behind {name}")
    return DeviceString(text=text, delegate=known)


def _options(text: str, query: str) -> dict[str, str]:
    pairs = query.split("&")
    if len(pairs) > MAX_OPTIONS:
        raise _refused(text, f"it has {len(pairs)} options, at most {MAX_OPTIONS} are taken")
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not _OPTION_NAME.fullmatch(name):
            raise _refused(
                text, f"an option's name has 1 to {MAX_NAME_CHARACTERS} letters, digits, '_', '.' or '-', not {name!r}"
            )
        if not equals:
            raise _refused(text, f"option {name!r} has no value")
        if name in options:
            raise _refused(text, f"option {name!r} is given twice")
        options[name] = _decoded(text, name, value)
    return options


def _decoded(text: str, name: str, value: str) -> str:
    try:
        decoded = unquote(value, errors="strict") if _ESCAPED.fullmatch(value) else None
    except UnicodeDecodeError:
        decoded = None
    # A library takes C strings, which end at a NUL.
    if decoded is None or "\0" in decoded:
        raise _refused(text, f"the value of option {name!r} is no text: '%' is written %25, and no NUL may be in it")
    return decoded


def _refused(text: str, reason: str) -> UnknownDelegate:
    return UnknownDelegate(f"delegate {text!r}: {reason}. Device strings are: {GRAMMAR}")
