"""Why LiteRT finds no GPU or NPU that it can run a model on, told from what it printed and what the machine is."""

from __future__ import annotations

import re

from devices.machine import Machine

_MISSING = re.compile(r"(?P<library>lib[\w.+-]+): cannot open shared object file")
_NO_FILE = re.compile(r"Failed to open JSON file (?P<path>\S+)")
_FEATURE = re.compile(r"Vulkan (?P<feature>.+?) required")

_INSTALL_DRIVER = "install mesa-vulkan-drivers on Debian and Raspberry Pi OS, or what the GPU's maker offers"
NO_GPU = "Without a GPU nothing needs doing."
"""The end of a cure, for whoever did not ask for one."""


def no_vulkan_loader(machine: Machine) -> tuple[str, str]:
    """Cause and cure where libvulkan is missing."""
    nodes = "there is a GPU" if machine.render_nodes else "no GPU's render node (/dev/dri/renderD*) is there either"
    return (
        f"libvulkan.so.1, the Vulkan loader, is not installed; {nodes}.",
        (
            "To use a GPU install the loader and the GPU's driver: libvulkan1 and mesa-vulkan-drivers on Debian and "
            f"Raspberry Pi OS. {NO_GPU}"
        ),
    )


def why_no_gpu(text: str, machine: Machine) -> tuple[str, str]:
    """Cause and cure where the loader is there, and LiteRT finds no adapter."""
    named = _NO_FILE.search(text)
    if named:
        return (
            f"VK_ICD_FILENAMES or VK_DRIVER_FILES names {named['path']}, which can't be read, so no driver was loaded.",
            "Correct it, or unset it, so that the loader looks into /usr/share/vulkan/icd.d.",
        )
    lacks = _FEATURE.search(text)
    if lacks:
        return (
            (
                f"A Vulkan driver is there, and lacks what LiteRT needs: {lacks['feature']}. Mesa's driver for the CPU "
                "(llvmpipe, lavapipe) is such a one: it is no GPU."
            ),
            f"Update the GPU's driver: {_INSTALL_DRIVER}; vulkaninfo --summary lists what is found. {NO_GPU}",
        )
    closed = [node for node in machine.render_nodes if not node.usable]
    if closed:
        node = closed[0]
        return (
            f"{node.path}, the GPU, may not be opened by this user: it is {node.mode}, group {node.group}.",
            f"Add the user to the group: sudo usermod -aG {node.group} $USER, and log in again.",
        )
    if machine.render_nodes:
        return (
            f"{machine.render_nodes[0].path} is there, but no Vulkan driver for it was found.",
            f"Install the driver: {_INSTALL_DRIVER}; vulkaninfo --summary must list the GPU.",
        )
    return (
        "The Vulkan loader is installed, but no driver finds a GPU, and no render node (/dev/dri/renderD*) is there.",
        f"In a container or virtual machine pass /dev/dri through. {NO_GPU}",
    )


def why_no_npu(text: str) -> tuple[str, str]:
    """Cause and cure where no accelerator of LiteRT's took the model."""
    missing = _MISSING.search(text)
    lacks = f" The one of them that is for this processor lacks {missing['library']}." if missing else ""
    return (
        (
            "None of the NPU accelerators that come with LiteRT (Qualcomm, MediaTek, Google Tensor, Samsung, Intel) "
            f"found its hardware and its maker's libraries.{lacks}"
        ),
        (
            "On a machine with such an NPU install its maker's runtime, in the release that the missing library's name "
            "tells (for Intel: OpenVINO and the NPU's driver). Else nothing needs doing: a Coral is the delegate "
            "edgetpu, and another accelerator is reached as external:/path/lib.so."
        ),
    )
