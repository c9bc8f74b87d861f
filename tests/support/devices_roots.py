"""Fake roots: the parts of sys, proc, dev and etc that the probe reads, as real machines have them."""

from __future__ import annotations

from pathlib import Path

CPUINFO_X86 = "processor\t: 0\nmodel name\t: A CPU\n\nprocessor\t: 1\nmodel name\t: A CPU\n"
CPUINFO_ARM = "".join(f"processor\t: {core}\nBogoMIPS\t: 108.00\n\n" for core in range(4))


class FakeRoot:
    """Writes a machine below `path`, piece by piece."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        """One file, with its folders."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def machine(self, arch: str, *, model: str | None = None, page_kib: int = 4, memory_kib: int = 4_000_000) -> None:
        """What every machine has: processor, memory, kernel, system, buses and a loopback interface."""
        self.write("proc/sys/kernel/arch", f"{arch}\n")
        self.write("proc/sys/kernel/osrelease", "6.6.31-test\n")
        self.write("proc/cpuinfo", CPUINFO_X86 if arch == "x86_64" else CPUINFO_ARM)
        self.write("proc/meminfo", f"MemTotal:       {memory_kib} kB\nMemFree:        1 kB\n")
        self.write("proc/self/smaps", f"5555-6666 r--p 00000000 00:00 0\nKernelPageSize:       {page_kib} kB\n")
        self.write("etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
        self.write("etc/group", "root:x:0:\nplugdev:x:46:me\n")
        for bus in ("usb", "pci"):
            (self.path / f"sys/bus/{bus}/devices").mkdir(parents=True)
        self.write("sys/class/net/lo/flags", "0x9\n")
        if model:
            self.write("proc/device-tree/model", f"{model}\0")

    def usb_coral(self, *, after_inference: bool, mode: int = 0o666, node: bool = True) -> None:
        """A stick at port 2-1, beside a hub."""
        vendor, product = ("18d1", "9302") if after_inference else ("1a6e", "089a")
        values = {"idVendor": vendor, "idProduct": product, "busnum": "2", "devnum": "4", "speed": "5000"}
        for name, value in values.items():
            self.write(f"sys/bus/usb/devices/2-1/{name}", f"{value}\n")
        self.write("sys/bus/usb/devices/usb2/idVendor", "1d6b\n")
        self.write("sys/bus/usb/devices/usb2/idProduct", "0003\n")
        self.write("sys/bus/usb/devices/2-1:1.0/bInterfaceClass", "ff\n")
        if node:
            self.write("dev/bus/usb/002/004", "", mode)

    def pci_coral(self, number: int = 0, *, driver: bool = True, mode: int = 0o666) -> None:
        """A card at 0000:0{number + 1}:00.0, with the links that sysfs has."""
        address = f"0000:0{number + 1}:00.0"
        device = self.write(f"sys/devices/pci0000:00/{address}/vendor", "0x1ac1\n").parent
        (device / "device").write_text("0x089a\n")
        (self.path / "sys/bus/pci/devices" / address).symlink_to(f"../../../devices/pci0000:00/{address}")
        if driver:
            self.modules("gasket", "apex")
            self.write(f"dev/apex_{number}", "", mode)
            entry = self.write(f"sys/class/apex/apex_{number}/temp", "45250\n").parent
            for index, trip in enumerate((85_000, 90_000, 95_000)):
                (entry / f"trip_point{index}_temp").write_text(f"{trip}\n")
            (entry / "device").symlink_to(f"../../../devices/pci0000:00/{address}")

    def modules(self, *names: str) -> None:
        """Kernel modules that are loaded."""
        for name in names:
            (self.path / "sys/module" / name).mkdir(parents=True, exist_ok=True)


def others_may(path: Path) -> bool:
    """What the mode bits grant to everybody: the tests may run as root, to whom all is open."""
    return path.stat().st_mode & 0o006 == 0o006
