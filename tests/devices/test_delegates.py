import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.devices_roots import FakeRoot

from devices import DELEGATES, EdgeTpu, UnknownDelegate, delegate, device_string, expand, find_edge_tpus
from devices.delegates import MAX_NAME_CHARACTERS, MAX_OPTIONS, MAX_TEXT_CHARACTERS

PCI = EdgeTpu(bus="pci", address="0000:01:00.0", hardware_id="1ac1:089a", node=None)
STICK = EdgeTpu(bus="usb", address="2-1", hardware_id="1a6e:089a", node=None)
OTHER_STICK = EdgeTpu(bus="usb", address="2-2", hardware_id="18d1:9302", node=None)


@pytest.mark.parametrize(
    ("device", "name", "address"),
    [
        ("cpu", "cpu", ""),
        ("gpu", "gpu", ""),
        ("npu", "npu", ""),
        ("edgetpu", "edgetpu", ""),
        ("edgetpu:usb", "edgetpu", "usb"),
        ("edgetpu:usb:0", "edgetpu", "usb:0"),
        ("edgetpu:pci:1", "edgetpu", "pci:1"),
        ("edgetpu::1", "edgetpu", ":1"),
        ("external:/opt/lib.so", "external", ""),
    ],
)
def test_a_device_string_names_its_delegate(device, name, address):
    """The device strings of pycoral stand behind `edgetpu`, and are what its library takes."""
    read = device_string(device)
    assert (read.text, read.delegate.name, read.address) == (device, name, address)
    assert delegate(device) is read.delegate
    assert read.options == ({"device": address} if address else {})


@pytest.mark.parametrize(
    "device",
    [
        *("", "tpu", "External:/l.so", "cpu:0", "gpu:", "npu:0"),
        *("edgetpu:", "edgetpu:serial", "edgetpu:usb:x", "edgetpu:usb:\u0663", "edgetpu:1", "edgetpu:usb:0 "),
        *("edgetpu:usb:100", "edgetpu:/opt/lib.so"),
        *("external", "external:", "external:?a=1", "external:/l\0.so"),
        *("external:/l.so?", "external:/l.so?a", "external:/l.so?=1", "external:/l.so?a=1&", "external:/l.so?a=1&a=2"),
        *("external:/l.so?a b=1", "external:/l.so?a=%", "external:/l.so?a=%zz", "external:/l.so?a=%ff"),
        *("external:/l.so?a=%00", f"external:/l.so?{'a' * (MAX_NAME_CHARACTERS + 1)}=1"),
        "external:/l.so?" + "&".join(f"o{number}=1" for number in range(MAX_OPTIONS + 1)),
    ],
)
def test_what_is_no_device_string_is_refused_with_the_grammar(device):
    """The error quotes the value, and shows what would do."""
    with pytest.raises(UnknownDelegate, match=r"external:/path/lib\.so\?option=value&other=value") as caught:
        device_string(device)
    assert repr(device) in str(caught.value)


def test_an_unknown_name_is_refused_with_those_that_are_known():
    """Whoever mistypes one sees them all."""
    with pytest.raises(UnknownDelegate, match="known are cpu, edgetpu, gpu, npu, external"):
        device_string("tpu")


def test_a_text_without_end_is_refused_and_not_repeated():
    """The error stays short."""
    with pytest.raises(UnknownDelegate, match=f"at most {MAX_TEXT_CHARACTERS}") as caught:
        device_string(f"external:/{'x' * MAX_TEXT_CHARACTERS}")
    assert len(str(caught.value)) < 500


def test_an_external_library_takes_options():
    """The path is taken as it stands, the values are decoded."""
    read = device_string("external:/opt/a%20b/lib:1.so?level=2&empty=&path=%2Fa%26b%25=c?d+e")
    assert read.library == "/opt/a%20b/lib:1.so"
    assert read.options == {"level": "2", "empty": "", "path": "/a&b%=c?d+e"}


@given(
    library=st.text(min_size=1, max_size=40).filter(lambda text: "?" not in text and "\0" not in text),
    options=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
        max_size=5,
    ),
)
def test_what_is_written_as_in_urls_is_read_back(library, options):
    """Whatever an option's value is, it arrives."""
    query = "&".join(f"{name}={quote(value)}" for name, value in options.items())
    read = device_string(f"external:{library}" + (f"?{query}" if query else ""))
    assert (read.library, read.options) == (library, options)
    assert len({read, device_string(read.text)}) == 1


@given(st.text(max_size=30), st.sampled_from(["", "edgetpu:", "external:", "external:/l.so?", "cpu"]))
def test_any_text_is_read_or_refused(text, prefix):
    """Nothing but UnknownDelegate is raised, and what is read keeps its text."""
    with contextlib.suppress(UnknownDelegate):
        assert device_string(prefix + text).text == prefix + text


@pytest.mark.parametrize(
    ("device", "seen", "stands_for"),
    [
        ("edgetpu", [PCI, STICK, OTHER_STICK], ["edgetpu:pci:0", "edgetpu:usb:0", "edgetpu:usb:1"]),
        ("edgetpu", [STICK], ["edgetpu:usb:0"]),
        ("edgetpu:usb", [PCI, STICK, OTHER_STICK], ["edgetpu:usb:0", "edgetpu:usb:1"]),
        ("edgetpu:pci", [PCI, STICK], ["edgetpu:pci:0"]),
        ("edgetpu:pci", [STICK], ["edgetpu:pci"]),
        ("edgetpu", [], ["edgetpu"]),
        ("edgetpu:usb:1", [STICK], ["edgetpu:usb:1"]),
        ("edgetpu::1", [PCI, STICK], ["edgetpu::1"]),
        ("cpu", [STICK], ["cpu"]),
        ("external:/l.so", [STICK], ["external:/l.so"]),
    ],
)
def test_a_bus_stands_for_all_that_are_on_it(device, seen, stands_for):
    """Numbers count per bus; what is a single device, or was not seen, stands for itself."""
    assert [one.text for one in expand(device_string(device), seen)] == stands_for


def test_edge_tpus_are_found_by_themselves(tmp_path):
    """Without the rest of the machine, in the order in which they are numbered."""
    root = FakeRoot(tmp_path)
    root.machine("x86_64")
    root.usb_coral(after_inference=True)
    root.pci_coral(1)
    root.pci_coral(0)
    found = find_edge_tpus(root.path)
    assert [(one.bus, one.address) for one in found] == [
        ("pci", "0000:01:00.0"),
        ("pci", "0000:02:00.0"),
        ("usb", "2-1"),
    ]
    assert found[2].node.path == "/dev/bus/usb/002/004"


def test_the_edge_tpus_library_by_platform():
    """The file names are those that Coral's own packages install."""
    edgetpu = delegate("edgetpu")
    assert edgetpu.library("linux") == "libedgetpu.so.1"
    assert edgetpu.library("darwin") == "libedgetpu.1.dylib"
    assert edgetpu.library("win32") == "edgetpu.dll"
    assert edgetpu.library("plan9") is None


def test_names_are_unique():
    """A name leads to one delegate."""
    names = [known.name for known in DELEGATES]
    assert len(set(names)) == len(names)
