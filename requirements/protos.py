"""Makes the stubs of the wire contract from its protos (`make proto`), or checks that they are current (`--check`)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PROTOS = tuple(
    f"fallback_server/protocol/proto/{name}.proto"
    for name in ("tensor", "example", "model_config", "serving", "inference", "edge")
)


def compile_into(folder: Path) -> None:
    """Runs the compiler; raises RuntimeError if it fails."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT}", f"-I{well_known}", f"--python_out={folder}", f"--pyi_out={folder}", *PROTOS]
    if status := protoc.main(arguments):
        raise RuntimeError(f"the protobuf compiler ended with {status}")


def stale() -> list[str]:
    """The stubs that differ from what the compiler makes."""
    with tempfile.TemporaryDirectory() as folder:
        compile_into(Path(folder))
        made = [path for path in Path(folder).rglob("*_pb2.*") if path.is_file()]
        return [
            str(path.relative_to(folder))
            for path in made
            if not (ROOT / path.relative_to(folder)).is_file()
            or (ROOT / path.relative_to(folder)).read_bytes() != path.read_bytes()
        ]


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if old := stale():
            sys.exit(f"not current, run `make proto`: {', '.join(old)}")
    else:
        compile_into(ROOT)
