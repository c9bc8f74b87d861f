"""The peers' own environment: Triton's server, its load generator, and what its models need, out of one lock."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.peers.loads import PerfAnalyzer
from benchmarks.peers.processes import ROOT, NotThere

LOCK = ROOT / "requirements" / "peers.txt"
DEFAULT = ROOT / ".venv" / "share" / "peers"


class Peers:
    """A virtual environment, made anew where the lock has changed.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path = DEFAULT) -> None:
        self._folder = folder
        self._packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def make(self) -> None:
        """Makes it, if it isn't there.

        Raises:
            NotThere: pip can't.
        """
        done = self._folder / ".made-of"
        if done.exists() and done.read_text() == LOCK.read_text():
            return
        print(f"making {self._folder} out of {LOCK.relative_to(ROOT)}", file=sys.stderr)
        pip = [self._folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", self._folder], check=True)
            subprocess.run(
                [*pip, "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", LOCK], check=True, timeout=1800
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise NotThere(f"no environment for the peers could be made: {error}") from error
        self._bundled()
        done.write_text(LOCK.read_text())

    def tritonserver(self) -> tuple[Path, dict[str, str], Path]:
        """The server's program, the environment variables that it and its models need, and the folder to run it in.

        Its interpreter passes PYTHONPATH over and imports from where it runs, so that is where its packages are.

        Raises:
            NotThere: there is none for this Python.
        """
        home = self._packages / "pytriton" / "tritonserver"
        stub = home / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
        name = "triton_python_backend_stub"
        if not (stub / name).exists():
            raise NotThere(f"no Triton for Python {sys.version_info[0]}.{sys.version_info[1]}: {stub} is not there")
        beside = home / "backends" / "python" / name
        if not beside.exists():
            beside.symlink_to(stub / name)
        for program in (home / "bin" / "tritonserver", beside):
            program.chmod(0o755)
        libraries = sysconfig.get_config_var("LIBDIR") or ""
        environment = {
            "LD_LIBRARY_PATH": libraries,
            "PYTHONHOME": sys.base_prefix,
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        return home / "bin" / "tritonserver", environment, self._packages

    def perf_analyzer(self) -> PerfAnalyzer:
        """The load generator.

        Raises:
            NotThere: it doesn't start; the text says what it lacks.
        """
        program = self._folder / "bin" / "perf_analyzer"
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self._folder / "libraries")}
        try:
            said = subprocess.run([program, "--version"], capture_output=True, text=True, env=environment, check=False)
        except OSError as error:
            raise NotThere(f"perf_analyzer does not start: {error}") from error
        if "Perf Analyzer Version" not in said.stdout + said.stderr:  # Its exit code is 99 when all is well.
            raise NotThere(f"perf_analyzer does not start: {(said.stderr or said.stdout).strip()[:300]}")
        return PerfAnalyzer(program, environment)

    def _bundled(self) -> None:
        """Links the libraries that perf_analyzer looks for to those that Triton's wheel brings."""
        libraries = self._folder / "libraries"
        libraries.mkdir(exist_ok=True)
        for wanted, pattern in (("libb64.so.0d", "libb64-*.so.0d"), ("libcudart.so.12", "libcudart-*.so.12*")):
            for found in (self._packages / "nvidia_pytriton.libs").glob(pattern):
                (libraries / wanted).unlink(missing_ok=True)
                (libraries / wanted).symlink_to(found)
