import pytest
from support.climates import clock
from support.devices_roots import FakeRoot

from devices import CpuFrequency, read_arm_clock, read_frequencies
from devices.frequency import arm_clock_from


def test_policies_in_megahertz(tmp_path):
    """What is asked for, allowed and possible, for each group of cores."""
    root = FakeRoot(tmp_path)
    clock(root, current=600, allowed=1000, maximal=1800)
    clock(root, policy="policy4", current=2400, allowed=2400, maximal=2400, cores="4 5")
    (root.path / "sys/devices/system/cpu/cpufreq/boost").write_text("1\n")
    assert read_frequencies(tmp_path) == (
        CpuFrequency(policy="policy0", cores=4, current_mhz=600, allowed_mhz=1000, maximal_mhz=1800),
        CpuFrequency(policy="policy4", cores=2, current_mhz=2400, allowed_mhz=2400, maximal_mhz=2400),
    )


@pytest.mark.parametrize("missing", ["scaling_max_freq", "cpuinfo_max_freq"])
@pytest.mark.parametrize(
    "text", [None, "0\n", "<unknown>\n", "-1\n", "9" * 400, "100000001\n", "4999\n", "1_800_000\n", "٤٥٠٠٠\n"]
)
def test_a_policy_without_bounds_says_nothing(tmp_path, missing, text):
    """A share of an unknown is none."""
    root = FakeRoot(tmp_path)
    clock(root)
    file = tmp_path / "sys/devices/system/cpu/cpufreq/policy0" / missing
    file.unlink() if text is None else file.write_text(text)
    assert read_frequencies(tmp_path) == ()


def test_a_current_frequency_may_be_unknown(tmp_path):
    """Some drivers answer with a word; the bounds hold all the same."""
    root = FakeRoot(tmp_path)
    clock(root)
    root.write("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "<unknown>\n")
    (found,) = read_frequencies(tmp_path)
    assert (found.current_mhz, found.allowed_mhz) == (None, 1800)


def test_a_virtual_machine_has_none(tmp_path):
    """No folder, no policies."""
    assert read_frequencies(tmp_path) == ()


@pytest.mark.parametrize(
    ("text", "mhz"),
    [
        ("frequency(48)=1800404352\n", 1800.404352),
        ("frequency(0)=600000000", 600),
        ("frequency(48)=0", None),
        ("frequency(48)=4999999", None),
        ("frequency(48)=٦٠٠٠٠٠٠٠٠", None),
        ("frequency(48)=", None),
        ("frequency(48)=" + "9" * 15, None),
        ("frequency(48)=" + "9" * 5000, None),
        ("error=1", None),
        ("", None),
    ],
)
def test_the_answer_of_measure_clock(text, mhz):
    """The number in brackets differs from model to model; what is no clock is none."""
    assert arm_clock_from(text) == mhz


@pytest.mark.slow
def test_the_firmware_is_asked_through_its_command(tmp_path):
    """A command that answers as vcgencmd does is read; one that hangs, fails or is missing gives none."""
    command = tmp_path / "vcgencmd"
    command.write_text('#!/bin/sh\n[ "$1 $2" = "measure_clock arm" ] && echo "frequency(48)=600000000"\n')
    command.chmod(0o755)
    assert read_arm_clock(str(command)) == 600
    command.write_text("#!/bin/sh\nexec sleep 60\n")
    assert read_arm_clock(str(command), 0.1) is None
    assert read_arm_clock(str(tmp_path / "nothing")) is None
