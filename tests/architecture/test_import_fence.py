"""What each package loads, seen from a fresh interpreter: import-linter does not count a parent's `__init__`."""

import json
import subprocess
import sys

import pytest

HEAVY = ["tensorflow", "ai_edge_litert", "grpc", "zeroconf", "rich", "matplotlib", "sklearn", "asyncio"]
OURS = ["converter", "devices", "edge_runtime", "fallback_server"]


def loaded_by(module):
    """The modules that are loaded once `module` is, in an interpreter that has loaded nothing else."""
    program = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def below(names, roots):
    return sorted(name for name in names if any(name == root or name.startswith(root + ".") for root in roots))


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("converter", [*HEAVY, "numpy", "msgspec"]),
        ("fallback_server", [*HEAVY, "numpy", "google"]),
        ("converter.artifact", [*HEAVY, "google", "devices", "edge_runtime", "fallback_server"]),
        ("fallback_server.protocol.tensors", [*HEAVY, "converter", "devices", "edge_runtime"]),
        ("fallback_server.protocol.mdns", [*HEAVY, "numpy", "google", "converter", "devices", "edge_runtime"]),
        (
            "fallback_server.protocol.methods",
            ["tensorflow", "ai_edge_litert", "zeroconf", "converter", "devices", "edge_runtime"],
        ),
        ("devices", [*HEAVY, "numpy", "google", "converter", "edge_runtime", "fallback_server"]),
        ("edge_runtime", [*HEAVY, "google", "fallback_server", "subprocess", "multiprocessing", "tqdm"]),
        ("edge_runtime.tasks", [*HEAVY, "google"]),
        ("edge_runtime.remote.client", ["tensorflow", "ai_edge_litert", "zeroconf"]),
        ("edge_runtime.cli", HEAVY),
        ("converter.cli", [*HEAVY, "numpy", "msgspec"]),
        ("converter.commands", ["tensorflow", "ai_edge_litert", "grpc", "zeroconf", "edge_runtime", "fallback_server"]),
        ("fallback_server.cli", ["tensorflow", "ai_edge_litert", "edge_runtime", "devices"]),
    ],
)
def test_import_loads_no_more_than_it_may(module, never):
    """Importing a package loads none of what it must not, and nothing heavy before it is needed."""
    assert below(loaded_by(module), never) == []


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("converter.artifact", ["converter"]),
        ("converter.commands", ["converter", "devices"]),
        ("fallback_server.protocol.methods", ["fallback_server"]),
        ("fallback_server.cli", ["fallback_server", "converter"]),
        ("edge_runtime.remote.client", ["edge_runtime", "converter", "fallback_server", "devices"]),
    ],
)
def test_our_own_packages_keep_to_their_contracts(module, allowed):
    """Of our own packages only the permitted ones are loaded, and of a foreign one only its contract."""
    ours = below(loaded_by(module), OURS)
    home = module.partition(".")[0]
    contracts = ["converter.artifact", "fallback_server.protocol", "devices"]
    for name in ours:
        root = name.partition(".")[0]
        assert root in allowed, name
        assert root == home or "." not in name or below([name], contracts), name
