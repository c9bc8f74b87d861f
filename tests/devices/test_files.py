import configparser
import os
import re
import shutil
import subprocess
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from devices import load_profiles, profile
from devices.edgetpu_faults import why_not_loaded
from devices.machine import USB_ID_AFTER_INFERENCE, USB_ID_BEFORE_INFERENCE

DEVICES = resources.files("devices")
UNITS = ("edge-application.service", "fallback-server.service")
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def rules():
    text = DEVICES.joinpath("udev/60-coral-edgetpu.rules").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def unit(name):
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read_string(DEVICES.joinpath("systemd", name).read_text())
    return parser


def test_the_rules_cover_both_ids_of_the_stick_and_the_apex_driver():
    """A rule for one id only stops working at the first inference."""
    ids = re.findall(r'ATTR\{idVendor\}=="(\w+)", ATTR\{idProduct\}=="(\w+)"', "\n".join(rules()))
    assert [":".join(pair) for pair in ids] == [USB_ID_BEFORE_INFERENCE, USB_ID_AFTER_INFERENCE]
    assert set(profile("coral-usb").usb_ids) == {":".join(pair) for pair in ids}
    assert any(line.startswith('SUBSYSTEM=="apex"') for line in rules())


def test_every_rule_is_well_formed_and_opens_the_device_to_its_group_only():
    """Comparisons have two equal signs and assignments one; nobody else may write to the device."""
    part = re.compile(r'(SUBSYSTEM|KERNEL|ENV\{\w+\}|ATTR\{\w+\})=="[^"]+"|(MODE|GROUP)="[^"]+"|TAG\+="uaccess"')
    for line in rules():
        assert all(part.fullmatch(piece) for piece in line.split(", ")), line
        assert 'MODE="0660"' in line
        assert 'GROUP="plugdev"' in line


def test_the_cure_names_the_rules_file_that_ships():
    """Whoever follows the doctor's advice finds the file."""
    names = [entry.name for entry in DEVICES.joinpath("udev").iterdir()]
    assert names == ["60-coral-edgetpu.rules"]
    assert names[0] < "73-seat-late.rules"
    assert names[0] in Path(why_not_loaded.__code__.co_filename).read_text()


@pytest.mark.parametrize("name", UNITS)
def test_units_can_be_read_and_start_at_boot(name):
    """No key stands twice, and the three sections are there."""
    parsed = unit(name)
    assert parsed.sections() == ["Unit", "Service", "Install"]
    assert parsed["Install"]["WantedBy"] == "multi-user.target"
    assert parsed["Service"]["Restart"] == "always"


@pytest.mark.parametrize("name", UNITS)
def test_units_hide_no_accelerator(name):
    """With private devices neither the Edge TPU nor a GPU would be there."""
    service = unit(name)["Service"]
    # systemd.exec(5): each of these brings a DeviceAllow, beside which every other device is refused.
    assert {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow"}.isdisjoint(service)
    assert "AF_NETLINK" in service["RestrictAddressFamilies"].split()


def test_units_call_commands_that_the_project_installs():
    """A renamed console script must not leave a unit behind that can't start."""
    scripts = tomllib.loads(PYPROJECT.read_text())["project"]["scripts"]
    server = unit("fallback-server.service")["Service"]["ExecStart"].split()
    doctor = unit("edge-application.service")["Service"]["ExecStartPre"].split()
    assert Path(server[0]).name in scripts
    assert Path(doctor[0]).name in scripts
    assert doctor[0].startswith("-")


def test_the_application_belongs_to_the_group_of_the_rules():
    """Otherwise the unit runs and the Edge TPU stays closed to it."""
    assert "plugdev" in unit("edge-application.service")["Service"]["SupplementaryGroups"].split()


def test_the_application_is_stopped_as_by_ctrl_c_and_writes_where_it_may():
    """SIGTERM would end Python in the middle of a request; what is cached is not for a home that is hidden."""
    service = unit("edge-application.service")["Service"]
    assert (service["KillSignal"], service["KillMode"]) == ("SIGINT", "mixed")
    assert f"XDG_CACHE_HOME=/var/cache/{service['CacheDirectory']}" in service["Environment"].split()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_knows_every_line_of_the_application_s_unit(tmp_path):
    """A misspelt or misplaced setting is ignored at run time, with a warning that nobody reads."""
    text = DEVICES.joinpath("systemd/edge-application.service").read_text()
    file = tmp_path / "edge-application.service"
    file.write_text(text.replace("/opt/edge-application/.venv/bin/", "/bin/").replace("/bin/python ", "/bin/sh "))
    done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if file.name in line and "not executable" not in line] == []


BOARDS = Path(__file__).parents[2] / "docs" / "boards"


def test_every_profile_has_a_document_and_every_document_a_profile():
    """Whoever reads the doctor's line finds the board's page by its name, and the index leads to each."""
    names = {found.name for found in load_profiles()}
    assert {file.stem for file in BOARDS.glob("*.md")} - {"README"} == names
    index = (BOARDS / "README.md").read_text()
    assert set(re.findall(r"^\| \[([\w-]+)\]", index, re.MULTILINE)) == names


@pytest.mark.parametrize("file", sorted(BOARDS.glob("*.md")), ids=lambda file: file.stem)
def test_a_board_s_document_leads_nowhere_else(file):
    """Its links and paths are to files that ship, and its profile's delegates and hardware ids are named."""
    text = file.read_text()
    assert [link for link in re.findall(r"\]\(([^)]+)\)", text) if not (BOARDS / link).is_file()] == []
    shipped = re.findall(r"`?(?:cp )?((?:devices|benchmarks)/[\w./-]+\.\w+)", text)
    assert [path for path in shipped if not (BOARDS.parents[1] / path).is_file()] == []
    if file.stem != "README":
        found = profile(file.stem)
        assert [one for one in found.delegates if f"`{one}`" not in text and f'"{one}"' not in text] == []
        ids = (*found.usb_ids, *found.pci_ids) if found.kind == "accelerator" else ()
        assert [one for one in ids if one not in text] == []


def test_only_profiles_lie_among_the_profiles():
    """A stray file there would ship, and be read by nobody."""
    assert {Path(entry.name).suffix for entry in DEVICES.joinpath("profiles").iterdir()} == {".toml"}


def fetch(target, path):
    command = ["/bin/sh", str(DEVICES.joinpath("fetch-swiftshader.sh")), str(target)]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": path}, check=False)


def test_the_software_gpu_is_fetched_once(tmp_path):
    """Where its files lie nothing is done; how to use them is said."""
    for name in ("libvk_swiftshader.so", "vk_swiftshader_icd.json", "libvulkan.so.1"):
        (tmp_path / name).write_text("there")
    done = fetch(tmp_path, os.environ["PATH"])
    assert done.returncode == 0
    assert done.stdout == (f"export LD_LIBRARY_PATH={tmp_path} VK_ICD_FILENAMES={tmp_path}/vk_swiftshader_icd.json\n")
    assert {file.read_text() for file in tmp_path.iterdir()} == {"there"}


def test_a_software_gpu_that_cant_be_fetched_is_said(tmp_path):
    """Without Debian's tools one line tells what is missing, and nothing is left behind."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cat", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    done = fetch(tmp_path / "target", str(tools))
    assert done.returncode == 1
    assert done.stderr.startswith("fetch-swiftshader: apt-get and dpkg-deb are needed")
    assert list(tmp_path.iterdir()) == [tools]
