import pytest

from fallback_server.core.resources import MemoryBudget, admit, free_bytes
from fallback_server.core.servable import ServableId


@pytest.mark.parametrize(
    ("estimated", "promised", "available", "admitted"),
    [(80, 0, 100, True), (90, 0, 100, True), (91, 0, 100, False), (40, 50, 100, True), (41, 50, 100, False)],
)
def test_admission(estimated, promised, available, admitted):
    """What is needed, promised and kept in reserve (10) must fit into what is free."""
    refusal = admit(estimated_bytes=estimated, promised_bytes=promised, available_bytes=available, reserve_bytes=10)
    assert (refusal is None) is admitted


def test_what_cannot_be_told_is_admitted():
    """Neither a load of unknown size nor a machine that doesn't tell its memory is a reason to serve nothing."""
    one = ServableId("m", 1)
    assert MemoryBudget(lambda: 0).refusal(one, estimated_bytes=0, promised_bytes=0) is None
    assert MemoryBudget(lambda: None).refusal(one, estimated_bytes=1, promised_bytes=0) is None


def machine(tmp_path, group):
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (proc / "self" / "cgroup").write_text(group)
    return proc, cgroups


def limit(folder, names, *values):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, values, strict=True):
        (folder / name).write_text(f"{value}\n")


V2 = ("memory.max", "memory.current", "memory.stat")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")


def test_free_memory_is_the_least_of_machine_and_groups(tmp_path):
    """The limit of every group above counts; page cache that can be given back counts as free."""
    proc, cgroups = machine(tmp_path, "0::/pod/server\n")
    assert free_bytes(proc, cgroups) == 8000 * 1024
    limit(cgroups / "pod" / "server", V2, "max", 10, "inactive_file 1")
    assert free_bytes(proc, cgroups) == 8000 * 1024
    limit(cgroups / "pod", V2, 5000, 2000, "active_file 9\ninactive_file 100")
    assert free_bytes(proc, cgroups) == 3100


def test_control_groups_of_the_first_kind(tmp_path):
    """As on older machines; a path that can't be seen from within a container leads to the root."""
    proc, cgroups = machine(tmp_path, "9:name=systemd:/\n4:cpu,memory:/docker/12ab\n")
    limit(cgroups / "memory", V1, 4000, 3000, "total_inactive_file 500")
    assert free_bytes(proc, cgroups) == 1500


def test_a_machine_that_tells_nothing(tmp_path):
    """Nothing is known, and nothing raised."""
    assert free_bytes(tmp_path, tmp_path) is None
