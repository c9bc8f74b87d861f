"""Looks at a machine through sysfs, proc and /dev, and describes it. Opens no device and starts nothing."""

from __future__ import annotations

import os
import platform
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from devices.edgetpu import edge_tpus_in
from devices.machine import DRIVER_MODULES, EdgeTpu, Interface, Machine, Node
from devices.tree import Tree

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_MULTICAST = 0x1000
"""Bits of `/sys/class/net/*/flags`, from the kernel's linux/if.h."""


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


def probe(root: Path = Path("/"), *, may_use: Callable[[Path], bool] = _may_use) -> Machine:
    """Describes the machine whose file system begins at `root`.

    Nothing that is missing or refused raises; the description's `unread` names it.

    Args:
        root: `/`, or a copy of a machine's sys, proc, dev and etc. A copy's architecture is read from
            `proc/sys/kernel/arch`; Python is this process's in any case.
        may_use: Whether this process may read and write a device file.
    """
    tree = Tree(root)

    def node(path: str) -> Node | None:
        return _node(tree, path, may_use)

    return Machine(
        architecture=_architecture(tree),
        model=tree.text("proc/device-tree/model") or tree.text("sys/firmware/devicetree/base/model"),
        cores=_cores(tree),
        cpu_model=_field(tree, "proc/cpuinfo", "model name"),
        memory_bytes=_size_bytes(_field(tree, "proc/meminfo", "MemTotal")),
        page_size_bytes=_size_bytes(_field(tree, "proc/self/smaps", "KernelPageSize")),
        kernel=tree.text("proc/sys/kernel/osrelease", expected=True),
        system=_system(tree),
        python=platform.python_version(),
        python_bits=struct.calcsize("P") * 8,
        edge_tpus=edge_tpus_in(tree, node),
        modules=tuple(module for module in DRIVER_MODULES if tree.exists(f"sys/module/{module}")),
        render_nodes=_nodes(tree, node, "dev/dri", "renderD"),
        video_nodes=_nodes(tree, node, "dev", "video"),
        interfaces=_interfaces(tree),
        unread=tuple(dict.fromkeys(tree.unread)),
    )


def find_edge_tpus(root: Path = Path("/")) -> tuple[EdgeTpu, ...]:
    """The Edge TPUs that are attached now, those on PCIe first, on each bus by address.

    Reads sysfs and the mode of /dev's files only, in well under a millisecond: it may be asked every second, also while
    a device is in use.

    Args:
        root: As for `probe`.
    """
    tree = Tree(root)
    return edge_tpus_in(tree, lambda path: _node(tree, path, _may_use))


def _architecture(tree: Tree) -> str:
    # Not the kernel's word on the running machine: under an emulator it names the host.
    if tree.root == Path("/"):
        return platform.machine()
    return tree.text("proc/sys/kernel/arch", expected=True) or ""


def _cores(tree: Tree) -> int | None:
    lines = (tree.text("proc/cpuinfo", expected=True) or "").splitlines()
    return sum(line.startswith("processor") for line in lines) or None


def _field(tree: Tree, path: str, name: str) -> str | None:
    """The value behind the first `name:` of a file such as /proc/meminfo."""
    for line in (tree.text(path) or "").splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None


def _size_bytes(text: str | None) -> int | None:
    """`24684096 kB`, as proc writes sizes: its kB are KiB."""
    number, _, unit = (text or "").partition(" ")
    return int(number) * 1024 if number.isdecimal() and unit == "kB" else None


def _system(tree: Tree) -> str | None:
    for line in (tree.text("etc/os-release") or "").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip("\"'")
    return None


def _nodes(tree: Tree, node: Callable[[str], Node | None], directory: str, prefix: str) -> tuple[Node, ...]:
    names = (name for name in tree.names(directory) if name.startswith(prefix) and name[len(prefix) :].isdigit())
    return tuple(found for name in names if (found := node(f"{directory}/{name}")))


def _node(tree: Tree, path: str, may_use: Callable[[Path], bool]) -> Node | None:
    full = tree.root / path
    try:
        status = full.stat()
    except OSError:
        return None
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    return Node(path=f"/{path}", usable=may_use(full), mode=mode, group=_group(tree, status.st_gid))


def _group(tree: Tree, gid: int) -> str:
    for line in (tree.text("etc/group") or "").splitlines():
        name, _, rest = line.partition(":")
        if rest.split(":")[1:2] == [str(gid)]:
            return name
    return str(gid)


def _interfaces(tree: Tree) -> tuple[Interface, ...]:
    found = []
    for name in tree.names("sys/class/net", expected=True):
        text = tree.text(f"sys/class/net/{name}/flags")
        try:
            flags = int(text or "", 16)
        except ValueError:
            continue  # bonding_masters and the like stand there too
        found.append(
            Interface(
                name=name,
                up=bool(flags & IFF_UP),
                loopback=bool(flags & IFF_LOOPBACK),
                multicast=bool(flags & IFF_MULTICAST),
            )
        )
    return tuple(found)
