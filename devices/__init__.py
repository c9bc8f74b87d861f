"""What a board is: profiles, a look at this machine, and what its accelerators' errors mean.

Standard library and msgspec; imports nothing else of this project. Nothing is read or probed at import.

`probe` looks, `match` and `diagnose` decide from what was seen:

    machine = probe()
    fit = match(machine, load_profiles())
    diagnosis = diagnose("Failed to load delegate from libedgetpu.so.1", machine)
"""

from devices.delegates import DELEGATES, Delegate, DeviceString, delegate, device_string
from devices.diagnosis import Diagnosis, diagnose
from devices.edgetpu import expand
from devices.errors import DevicesError, ProfileInvalid, UnknownDelegate, UnknownProfile
from devices.frequency import CpuFrequency, read_arm_clock, read_frequencies
from devices.machine import EdgeTpu, Interface, Machine, Node
from devices.matching import Match, match
from devices.probe import find_edge_tpus, probe
from devices.profile import DeviceProfile, load_profiles, profile
from devices.thermal import Temperature, Throttled, read_temperatures, read_throttled

__all__ = [
    "DELEGATES",
    "CpuFrequency",
    "Delegate",
    "DeviceProfile",
    "DeviceString",
    "DevicesError",
    "Diagnosis",
    "EdgeTpu",
    "Interface",
    "Machine",
    "Match",
    "Node",
    "ProfileInvalid",
    "Temperature",
    "Throttled",
    "UnknownDelegate",
    "UnknownProfile",
    "delegate",
    "device_string",
    "diagnose",
    "expand",
    "find_edge_tpus",
    "load_profiles",
    "match",
    "probe",
    "profile",
    "read_arm_clock",
    "read_frequencies",
    "read_temperatures",
    "read_throttled",
]
