"""What we stand on: every lock names exact versions by their hashes, and licences fit ours. Needs no network."""

import itertools
import re
from importlib import metadata
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "requirements"

LOCKS = sorted(path.name for path in REQUIREMENTS.glob("*.txt") if not path.name.endswith("overrides.txt"))

ENTRY = re.compile(r"([A-Za-z0-9._-]+)==([^ ;]+)( ; [^\\]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "LGPL-2.1-or-later",  # Imported, and neither changed nor linked statically.
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-2.0",  # Likewise.
    "PSF-2.0",
    "Unlicense",
    "Zlib",
}
"""By SPDX's names: what may be used by, and handed out beside, what is under Apache-2.0."""

SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""What older metadata say: classifiers, and the first line of a free text."""

SILENT = {"namex": "Apache-2.0"}
"""Distributions whose metadata say nothing, and what their repositories say."""


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_every_version_by_its_hashes(lock):
    """So that nobody on the way, and no index, gives another file than the one that was tested."""
    lines = [line for line in (REQUIREMENTS / lock).read_text().splitlines() if line.strip() and line[0] != "#"]
    assert lines
    entries = [line for line in lines if not line.startswith(" ")]
    assert [line for line in entries if not ENTRY.fullmatch(line)] == []
    assert [line for line in lines if line.startswith(" ") and not HASH.fullmatch(line)] == []
    for entry, after in itertools.pairwise(lines):
        assert entry.startswith(" ") or after.startswith(" "), f"{entry} has no hash"
    assert lines[-1].startswith(" ")


def test_every_lock_is_audited():
    """By `make audit`, which needs the network; one that holds no more than another's versions need not be."""
    audit = (REQUIREMENTS.parent / "Makefile").read_text().partition("\naudit:")[2].partition("\n\n")[0]
    locks = re.search(r"for each in ([a-z -]+); do", audit)[1].split()
    everything = (REQUIREMENTS / "all.txt").read_text()
    device = ENTRY.findall((REQUIREMENTS / "device.txt").read_text())
    assert all(f"{name}=={version} " in everything for name, version, _ in device)
    assert {f"{each}.txt" for each in locks} == set(LOCKS) - {"device.txt"}


def licences_of(name):
    """What a distribution's metadata say of its licence, by SPDX's names."""
    told = metadata.metadata(name)
    if expression := told.get("License-Expression"):
        return set(re.findall(r"[A-Za-z0-9.+-]+", re.sub(r"\b(AND|OR|WITH)\b|[()]", " ", expression)))
    classes = [each.rpartition(" :: ")[2] for each in told.get_all("Classifier") or () if each.startswith("License")]
    found = {SPDX.get(each, each) for each in classes if each != "DFSG approved"}
    if not found and (text := (told.get("License") or "").strip()):
        found = {SPDX.get(each, each) for each in text.splitlines()[0].split(" AND ")}
    return found or {SILENT.get(name, "none that it tells")}


def test_licences_fit_ours():
    """Of all that the lock has and that is installed here."""
    locked = [found[1] for line in (REQUIREMENTS / "all.txt").read_text().splitlines() if (found := ENTRY.match(line))]
    installed = {}
    for name in locked:
        try:
            installed[name] = licences_of(name)
        except metadata.PackageNotFoundError:
            continue  # For another platform, or version of Python.
    assert len(installed) > len(locked) // 2
    assert {name: found for name, found in installed.items() if not found <= ALLOWED} == {}


def test_what_is_silent_of_its_licence_is_locked_still():
    """An exception whose distribution is gone is one too many."""
    assert all(f"\n{name}==" in (REQUIREMENTS / "all.txt").read_text() for name in SILENT)
