"""Rules of the house that a tool can hold."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["converter", "devices", "edge_runtime", "fallback_server"]
MAX_LINES = 500
MAX_FUNCTION_LINES = 80

PUBLIC = {
    "DeadlineExceeded",
    "EdgeRuntimeError",
    "EngineFailed",
    "EngineReport",
    "InvalidConfig",
    "InvalidInput",
    "Model",
    "ModelOptions",
    "Overloaded",
    "PackageRefused",
    "Reply",
    "Runtime",
    "RuntimeClosed",
    "RuntimeOptions",
    "ServerFailed",
    "ServerRefused",
    "Stream",
    "StreamBusy",
    "VersionNotAvailable",
}


def sources(*folders):
    return [
        path
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.name.endswith("_pb2.py")
    ]


def test_files_stay_small():
    """No file passes 500 lines."""
    files = sources(*PACKAGES, "tests", "benchmarks", "examples")
    assert [str(path) for path in files if len(path.read_text().splitlines()) > MAX_LINES] == []


def test_functions_stay_small():
    """No function of the packages passes 80 lines."""
    long = [
        f"{path}:{node.name}"
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_grpc_stays_at_the_rim():
    """Only the rim imports gRPC: protocol, transport and remote."""
    rim = ("fallback_server/protocol/", "fallback_server/transport/", "edge_runtime/remote/")
    inside = [
        str(path.relative_to(ROOT))
        for path in sources(*PACKAGES)
        if any(name.partition(".")[0] in ("grpc", "grpc_health") for name in imports_of(path))
    ]
    assert [path for path in inside if not path.startswith(rim)] == []


MAY_IMPORT = {
    "converter/artifact": ["converter.artifact"],
    "fallback_server/protocol": ["fallback_server.protocol"],
    "converter": ["converter", "devices"],
    "devices": ["devices"],
    "edge_runtime": ["edge_runtime", "converter.artifact", "fallback_server.protocol", "devices"],
    "fallback_server": ["fallback_server", "converter.artifact"],
}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folders_import_each_others_contracts_only(folder):
    """A folder imports of another its contract, and nothing else; a contract imports itself alone."""
    allowed = MAY_IMPORT[folder]
    broken = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(folder)
        for name in imports_of(path)
        if name.partition(".")[0] in PACKAGES and not any(f"{name}.".startswith(f"{one}.") for one in allowed)
    ]
    assert broken == []


@pytest.mark.parametrize("package", ["converter", "fallback_server"])
def test_contract_parents_hold_a_docstring_only(package):
    """The `__init__` above a contract holds nothing that an import would load."""
    body = ast.parse((ROOT / package / "__init__.py").read_text()).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


def test_public_names_are_pinned():
    """The runtime's public names are these: a change of them is a change of the API."""
    import edge_runtime

    assert set(edge_runtime.__all__) == PUBLIC


@pytest.mark.parametrize("module", ["converter.artifact", "devices", "edge_runtime"])
def test_all_is_true(module):
    """`__all__` names what is there (that it is sorted ruff checks)."""
    loaded = __import__(module, fromlist=["__all__"])
    assert all(hasattr(loaded, name) for name in loaded.__all__)


def test_stubs_are_the_protos():
    """The committed stubs are what the compiler makes of the protos."""
    done = subprocess.run([sys.executable, str(ROOT / "requirements" / "protos.py"), "--check"], check=False)
    assert done.returncode == 0


def test_device_install_stays_small():
    """The bare distribution asks for the device's libraries and for no TensorFlow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {entry.split(">")[0] for entry in project["dependencies"]}
    assert names == {"ai-edge-litert", "grpcio", "msgspec", "numpy", "protobuf", "tqdm", "zeroconf"}
    assert project["name"] == "edge-runtime"
    assert project["requires-python"] == ">=3.11"
    assert "tensorflow" not in (ROOT / "requirements" / "device.txt").read_text()
