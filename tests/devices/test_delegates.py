import pytest

from devices import DELEGATES, UnknownDelegate, delegate


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("cpu", "cpu"),
        ("gpu", "gpu"),
        ("edgetpu", "edgetpu"),
        ("edgetpu:usb", "edgetpu"),
        ("edgetpu:usb:0", "edgetpu"),
        ("edgetpu:pci:1", "edgetpu"),
        ("edgetpu::1", "edgetpu"),
    ],
)
def test_a_device_string_names_its_delegate(device, name):
    """The device strings of pycoral stand behind `edgetpu`; the others have none."""
    assert delegate(device).name == name


@pytest.mark.parametrize(
    "device", ["", "tpu", "cpu:0", "gpu:", "edgetpu:", "edgetpu:serial", "edgetpu:usb:x", "edgetpu:1", "edgetpu:usb:0 "]
)
def test_what_is_no_device_string_is_refused_with_what_is_known(device):
    """The error quotes the value and lists the delegates."""
    with pytest.raises(UnknownDelegate, match="known are cpu, edgetpu, gpu") as caught:
        delegate(device)
    assert repr(device) in str(caught.value)


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
