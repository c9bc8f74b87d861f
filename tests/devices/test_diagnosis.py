import re

import pytest
from support.devices_roots import FakeRoot, others_may

from devices import diagnose, probe

NOT_LOADED = "Failed to load delegate from libedgetpu.so.1\n"


def pc(root):
    root.machine("x86_64")


def pi_5(root):
    root.machine("aarch64", model="Raspberry Pi 5 Model B Rev 1.0", page_kib=16)


def pc_with_stick(root):
    pc(root)
    root.usb_coral(after_inference=False)


def pc_with_started_stick(root):
    pc(root)
    root.usb_coral(after_inference=True)


def pc_with_closed_stick(root):
    pc(root)
    root.usb_coral(after_inference=False, mode=0o640)


def container_without_node(root):
    pc(root)
    root.usb_coral(after_inference=False, node=False)


def pc_with_card(root):
    pc(root)
    root.pci_coral()


def pc_with_closed_card(root):
    pc(root)
    root.pci_coral(mode=0o600)


def pc_with_card_no_driver(root):
    pc(root)
    root.pci_coral(driver=False)


def pc_with_card_not_taken(root):
    pc_with_card_no_driver(root)
    root.modules("gasket", "apex")


def pi_5_with_card(root):
    pi_5(root)
    root.pci_coral()


def pi_5_with_card_not_taken(root):
    pi_5(root)
    root.pci_coral(driver=False)
    root.modules("gasket", "apex")


def closed_stick_and_open_card(root):
    pc_with_closed_stick(root)
    root.pci_coral()


def nothing_readable(root):
    root.path.mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("machine", "cause", "cure"),
    [
        (pc, "No Edge TPU was found, neither on USB nor on PCIe", "lsusb for 1a6e:089a"),
        (pi_5, "No Edge TPU was found", "dtoverlay=pciex1-compat-pi5,no-mip and dtoverlay=pcie-32bit-dma-pi5"),
        (
            nothing_readable,
            "not all could be looked at .*/sys/bus/pci/devices: No such file",
            "pass the device through",
        ),
        (pc_with_closed_stick, "/dev/bus/usb/002/004 may not be opened by this user: it is 0640", "60-coral-edgetpu"),
        (pc_with_closed_card, "/dev/apex_0 may not be opened by this user: it is 0600", "60-coral-edgetpu.rules"),
        (container_without_node, "on USB port 2-1, but its file under /dev/bus/usb is missing", "all of /dev/bus/usb"),
        (pc_with_card_no_driver, "driver is not loaded .gasket and apex", "modprobe apex.*gasket-dkms"),
        (pc_with_card_not_taken, "the driver is loaded and did not take the card", "dmesg"),
        (pi_5_with_card_not_taken, "did not take the card", "pcie-32bit-dma-pi5"),
        (pi_5_with_card, "pages of 16 KiB; .* needs 4 KiB", "kernel8.img"),
        (pc_with_card, "/dev/apex_0 is there .* another process holds it", "fuser -v /dev/apex_0"),
        (pc_with_stick, "/dev/bus/usb/002/004 is there .* another process holds it", "18d1:9302 through as well"),
        (pc_with_started_stick, "another process holds it", "fuser -v /dev/bus/usb/002/004"),
        (closed_stick_and_open_card, "/dev/apex_0 is there .* another process", "fuser"),
    ],
)
def test_one_text_many_causes(tmp_path, machine, cause, cure):
    """What `Failed to load delegate` means follows from what the machine looks like."""
    machine(FakeRoot(tmp_path))
    found = diagnose(NOT_LOADED, probe(tmp_path, may_use=others_may))
    assert re.search(cause, found.cause)
    assert re.search(cure, found.cure)


@pytest.mark.parametrize(
    ("machine", "text", "cause", "cure"),
    [
        (
            pc,
            "libedgetpu.so.1: cannot open shared object file: No such file or directory",
            "libedgetpu.so.1 is not installed.* No Edge TPU was found",
            "libedgetpu1-std.*can crash with it[.]$",
        ),
        (
            pc_with_stick,
            "libedgetpu.so.1: cannot open shared object file: No such file or directory",
            "An Edge TPU is attached",
            r"can crash with it\.$",
        ),
        (
            pc,
            "/opt/x/libedgetpu.so.1: cannot open shared object file: No such file or directory",
            "/opt/x/libedgetpu.so.1 is not installed",
            "libedgetpu1-std",
        ),
        (
            pc_with_stick,
            "libusb-1.0.so.0: cannot open shared object file: No such file or directory",
            "libusb-1.0.so.0 is not installed, .* or one that this needs",
            "libusb-1.0-0",
        ),
        (
            pc,
            "/opt/mine.so: cannot open shared object file: No such file or directory",
            "There is no file /opt/mine.so",
            "path",
        ),
        (
            pc,
            "libvulkan.so.1: cannot open shared object file: No such file or directory",
            "the Vulkan loader, is not installed; no GPU",
            "libvulkan1",
        ),
        (pc, "/l/x.so: cannot open shared object file: Permission denied", "may not be read", "chmod"),
        (pc, "/l/x.so: wrong ELF class: ELFCLASS32", "another processor", "aarch64"),
        (pc, "/l/x.so: invalid ELF header", "damaged", "aarch64"),
        (pc, "/lib/libc.so.6: version `GLIBC_2.38' not found (required by /l/x.so)", "later system", "build for this"),
        (pc, "/l/x.so: undefined symbol: tflite_plugin_create_delegate", "no TensorFlow Lite delegate", "path"),
        (pc, "/l/x.so: undefined symbol: _ZN4absl", "versions don't fit", "made for this system"),
        (
            pc,
            "killed by SIGSEGV\nFailed to load delegate from libedgetpu.so.1",
            r"killed by SIGSEGV\)",
            "Do not load it",
        ),
        (pc, "no answer within 30 s", "stuck", "Unplug"),
        (pc_with_stick, "RAM did not enable within timeout (12000 ms)", "stuck", "Unplug"),
        (
            pc_with_stick,
            "Encountered unresolved custom op: edgetpu-custom-op.\nSee instructions",
            "compiled for an Edge TPU and was opened without its delegate",
            "not compiled",
        ),
        (pc, "Encountered unresolved custom op: edgetpu-custom-op.", "No Edge TPU was found", "not compiled"),
        (pc, "Encountered unresolved custom op: FlexErf.", "operator FlexErf, which", "built-in operators"),
        (pc, "No module named 'ai_edge_litert'", "interpreter is not installed", "pip install ai-edge-litert"),
        (pc, "numpy.core.multiarray failed to import", "numpy 1", "numpy<2"),
        (pc, "Failed to modify graph with delegate", "can't run this model", "vulkaninfo"),
        (
            pc,
            "Failed to load delegate from /opt/mine.so\n",
            "delegate in /opt/mine.so refused.*without saying",
            "maker",
        ),
        (
            pc,
            "Failed to load delegate from /opt/mine.so\nunknown option",
            "refused to start: unknown option",
            "names and values behind the .*maker",
        ),
        (pc, "Failed to load delegate from /opt/mine.so\nno device", "refused to start: no device", "hardware"),
        (
            pc,
            "the model is too largeRestored original execution plan after delegate application failure.",
            "refuses the model that it is given: the model is too large$",
            "another release",
        ),
        (
            pc,
            "Restored original execution plan after delegate application failure.",
            r"refuses the model that it is given\.$",
            "another release",
        ),
        (pc, "it is goneNode number 1 (mine) failed to invoke.", "failed when it ran it: it is gone$", "has power"),
        (pc, "[1, 2] + [10, 20] gave [0.0, 0.0]", "wrong results: .*gave .0.0, 0.0.", "Do not use it"),
        (pc, "ended with status 3 and no answer", r"ended the process.*ended with status 3", "Do not load it"),
        (pc, "/opt: cannot read file data: Is a directory", "that of a folder", "library itself"),
        (pc, "tflite_runtime has no CompiledModel", "only tflite_runtime is installed", "pip install ai-edge-litert"),
        (pc, "The sky is green\nand more", "not one that is known here: The sky is green$", "dmesg"),
        (pc, "", "no error text", "dmesg"),
    ],
)
def test_the_other_texts(tmp_path, machine, text, cause, cure):
    """Every text that loaders and interpreters are known to give has its cause and its cure."""
    machine(FakeRoot(tmp_path))
    found = diagnose(text, probe(tmp_path, may_use=others_may))
    assert re.search(cause, found.cause)
    assert re.search(cure, found.cure)


def test_a_gpu_that_lacks_only_the_loader(tmp_path):
    """With a render node the missing loader is a fault, not the absence of a GPU."""
    root = FakeRoot(tmp_path)
    root.machine("x86_64")
    root.write("dev/dri/renderD128", "")
    text = "libvulkan.so.1: cannot open shared object file: No such file or directory"
    assert "there is a GPU" in diagnose(text, probe(tmp_path)).cause


PRINTED = "ERROR: [delegate_webgpu.cc:359] Failed to initialize WebGPU environment: INTERNAL: No adapters found"


def with_gpu(root):
    pc(root)
    root.write("dev/dri/renderD128", "", 0o666)


def with_closed_gpu(root):
    pc(root)
    root.write("dev/dri/renderD128", "", 0o660)


@pytest.mark.parametrize(
    ("machine", "printed", "cause", "cure"),
    [
        (
            pc,
            "Warning: Couldn't load Vulkan: libvulkan.so.1: cannot open shared object file: No such file or directory",
            "Vulkan loader, is not installed; no GPU's render node",
            "libvulkan1 and mesa-vulkan-drivers",
        ),
        (
            with_gpu,
            "Warning: Couldn't load Vulkan: libvulkan.so.1: cannot open shared object file: No such file or directory",
            "not installed; there is a GPU",
            "libvulkan1",
        ),
        (pc, "Warning: vkCreateInstance: Found no drivers!", "no driver finds a GPU, and no render node", "/dev/dri"),
        (with_gpu, "Warning: vkCreateInstance: Found no drivers!", "renderD128 is there, but no Vulkan driver", "Inst"),
        (with_closed_gpu, "", "renderD128, the GPU, may not be opened by this user: it is 0660", "usermod -aG"),
        (
            with_gpu,
            "Warning: loader_get_json: Failed to open JSON file /opt/none.json\nWarning: Found no drivers!",
            "VK_ICD_FILENAMES .*names /opt/none.json",
            "unset",
        ),
        (
            pc,
            "Warning: Vulkan shaderUniform*ArrayDynamicIndexing required.\n - While initializing adapter",
            "lacks what LiteRT needs: shaderUniform.ArrayDynamicIndexing.*llvmpipe",
            "Update the GPU's driver",
        ),
    ],
)
def test_a_gpu_that_is_not_found(tmp_path, machine, printed, cause, cure):
    """Loader, driver, what the driver can do, and who may open the device are told apart."""
    machine(FakeRoot(tmp_path))
    found = diagnose(f"{printed}\n{PRINTED}", probe(tmp_path, may_use=others_may))
    assert re.search(cause, found.cause)
    assert re.search(cure, found.cure)


def test_an_npu_that_is_not_found(tmp_path):
    """The library that the accelerator for this processor misses is named, and an Edge TPU is told to be none."""
    printed = "Could not load shared library /l/x.so: libopenvino.so.2631: cannot open shared object file: No such file"
    found = diagnose(f"no NPU accelerator found hardware that it can use\n{printed}", probe(tmp_path))
    assert "lacks libopenvino.so.2631" in found.cause
    assert "a Coral is the delegate edgetpu" in found.cure


def test_a_group_other_than_root_is_joined(tmp_path):
    """Where a rule has already given the device to a group, belonging to it is all that is missing."""
    root = FakeRoot(tmp_path)
    pc_with_closed_stick(root)
    gid = (tmp_path / "dev/bus/usb/002/004").stat().st_gid
    root.write("etc/group", f"plugdev:x:{gid}:me\n")
    assert "usermod -aG plugdev" in diagnose(NOT_LOADED, probe(tmp_path, may_use=others_may)).cure
