"""`fallback-server check`: finds all that is wrong with flags, files, models and the network. Serves nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from fallback_server.access.known_lists import KnownLists
from fallback_server.access.revocations import read_lists
from fallback_server.archive_check import archive_fault
from fallback_server.config import ConfigInvalid, NetworkOptions, ServerOptions, TlsFiles
from fallback_server.core.model_config import ModelConfig, PolicyKind
from fallback_server.core.scan import read_folders, read_lack, read_tree, read_versions
from fallback_server.core.servable import ServableId
from fallback_server.core.unpacking import UnpackOptions
from fallback_server.settings import Reading
from fallback_server.tables import aligned
from fallback_server.tls_files import check_tls

MAX_SOCKET_PATH_BYTES = 107
"""What `sockaddr_un` holds on Linux, less the zero at its end."""

_TAKEN = "in use"
_SHADOW_COLUMN = 6


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        lines: What would be served, to be read by a person, and what would be waited for.
        faults: All that a server would refuse.
    """

    lines: tuple[str, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OnDisk:
    """The versions below a base path.

    Attributes:
        versions: Number -> why it can't be loaded yet, empty if it can.
        archives: Number -> what it is to be unpacked from, where it has no folder.
        fault: Why the base path can't be read; empty if it can.
    """

    versions: Mapping[int, str] = field(default_factory=dict)
    archives: Mapping[int, Path] = field(default_factory=dict)
    fault: str = ""


def check(reading: Reading) -> Report:
    """Looks at everything that the flags and files name."""
    lines: list[str] = []
    warnings: list[str] = []
    faults = list(reading.faults)
    options = reading.options
    repository = reading.settings.path("model_repository")
    configs = list(reading.configs)
    if repository is not None and repository.is_dir():
        listed = {config.name for config in configs}
        configs += [config for config in _below(repository) if config.name not in listed]
        if not configs and options is not None:
            warnings.append(f"--model_repository={repository} holds no folder, and so no model")
    if options is not None:
        lines += _network_lines(options)
        faults += _network_faults(options.network, lines)
    unpack = None if options is None else UnpackOptions(max_bytes=options.source.max_unpacked_bytes)
    rows: list[tuple[str, ...]] = []
    for config in configs:
        disk = look(config.base_path)
        archives = {
            ServableId(config.name, number): disk.archives[number]
            for number in taken(config, disk.versions) & disk.archives.keys()
        }
        damaged = {
            each.version: why for each, archive in archives.items() if (why := archive_fault(each, archive, unpack))
        }
        warnings += model_warnings(config, disk.versions, damaged, fault=disk.fault)
        rows.append(_row(config, disk.versions, damaged))
    if configs:
        lines += [*([""] if lines else []), *aligned(_with_heading(rows))]
    if warnings:
        lines += [*([""] if lines else []), *(f"warning: {warning}" for warning in warnings)]
    return Report(tuple(lines), tuple(faults))


def look(base_path: Path) -> OnDisk:
    """Which versions stand below a base path, as folders or archives."""
    try:
        entries = read_versions(base_path)
    except OSError as error:
        return OnDisk(fault=f"{base_path} can't be read: {error.strerror or error}")
    return OnDisk(
        {number: "" if entry.folder is None else _lacks(entry.folder) for number, entry in entries.items()},
        {number: entry.archive for number, entry in entries.items() if entry.folder is None and entry.archive},
    )


def taken(config: ModelConfig, versions: Mapping[int, str]) -> frozenset[int]:
    """Those that the policy would choose: of the complete ones, as `FileSystemSource` does. Pure.

    Args:
        config: Of the model.
        versions: On disk: number -> what it lacks.
    """
    return config.version_policy.select([number for number, lack in versions.items() if not lack])


def model_warnings(
    config: ModelConfig,
    versions: Mapping[int, str],
    damaged: Mapping[int, str] = MappingProxyType({}),
    *,
    fault: str = "",
) -> list[str]:
    """What of one model would not be served as it is configured. A server starts all the same, and waits for it. Pure.

    Args:
        config: Of the model.
        versions: On disk: number -> what it lacks.
        damaged: Those of them that would be loaded in vain, and why.
        fault: Why its base path can't be read.
    """
    model = f"model {config.name}"
    if fault:
        return [f"{model}: {fault}; it is waited for"]
    if not versions:
        hint = f"a version is a folder or an archive that is named by its number: {config.base_path}/1/saved_model.pb"
        return [f"{model}: no version in {config.base_path}; {hint}"]
    served = taken(config, versions) - damaged.keys()
    incomplete = [number for number in sorted(config.version_policy.select(versions)) if versions[number]]
    warnings = [f"{model}: version {number} {versions[number]}; it is waited for" for number in incomplete]
    warnings += [
        f"{model}: version {number} can't be loaded, and counts for the version policy all the same: {why}"
        for number, why in sorted(damaged.items())
    ]
    if config.version_policy.kind is PolicyKind.SPECIFIC:
        absent = sorted(set(config.version_policy.versions).difference(versions))
        warnings += [
            f"{model}: version {number} is to be served, and is not in {config.base_path}" for number in absent
        ]
    where = f"which is not served; {_list(served)} would be" if served else "and none is served"
    warnings += [
        f"{model}: label {label} waits for version {number}, {where}"
        for label, number in sorted(config.labels.items())
        if number not in served
    ]
    warnings += [
        f"{model}: traffic names version {number}, {where}" for number in config.traffic if number not in served
    ]
    if config.shadow is not None and config.shadow.version not in served:
        warnings.append(f"{model}: shadow names version {config.shadow.version}, {where}")
    return warnings


def certificate_fault(tls: TlsFiles) -> str:
    """Why TLS can't be spoken with a key and certificate; empty if it can."""
    try:
        check_tls(tls, "TLS")
    except ConfigInvalid as error:
        return str(error)
    return ""


def list_fault(network: NetworkOptions, tls: TlsFiles) -> str:
    """Why the lists of revoked certificates can't follow those that were in force; empty if they can."""
    if network.tls_state_file is None:
        return ""
    try:
        lists = read_lists(tls.crl_pem, tls.client_ca_pem)
        KnownLists(network.tls_state_file).check(lists, tls.client_ca_pem)
    except ConfigInvalid as error:
        return str(error)
    return ""


def port_fault(host: str, port: int) -> str:
    """Why a port can't be listened on; `in use` where only that is in the way, empty if it can."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        return _TAKEN if error.errno == errno.EADDRINUSE else f"{host}:{port} can't be listened on: {error.strerror}"
    return ""


def _below(repository: Path) -> list[ModelConfig]:
    with contextlib.suppress(OSError):
        names = sorted(folder.name for folder in read_folders(repository))
        return [ModelConfig(name=name, base_path=repository.absolute() / name) for name in names]
    return []


def _lacks(path: Path) -> str:
    """What a version's folder has not; empty if it is complete. An archive shows only when it is unpacked."""
    try:
        lack = read_lack(path, read_tree(path))
    except OSError as error:
        return f"can't be read: {error}"
    return "" if lack is None else f"in {path} is not complete: {lack}"


def _network_lines(options: ServerOptions) -> list[str]:
    network = options.network
    rest = "no REST" if network.rest_port is None else f"REST on {network.host}:{network.rest_port or 'any'}"
    metrics = f", metrics at {options.metrics_path}" if options.metrics_path and network.rest_port is not None else ""
    secure = "TLS" if network.tls else "plain text"
    rest += " (TLS)" if network.rest_tls and network.rest_port is not None else ""
    batching = options.batching
    sizes = f"; in sizes {_list(batching.allowed_batch_sizes)}" if batching.allowed_batch_sizes else ""
    batches = f"up to {batching.max_batch_size_rows} rows, {batching.num_batch_threads} at a time{sizes}"
    return [
        f"gRPC on {network.host}:{network.port or 'any'} ({secure}), {rest}{metrics}",
        f"batches of {batches}" if batching.enabled else "no batching",
    ]


def _network_faults(network: NetworkOptions, notes: list[str]) -> list[str]:
    faults = []
    for flag, port in (("--port", network.port), ("--rest_api_port", network.rest_port)):
        fault = port_fault(network.host, port) if port is not None else ""
        if fault == _TAKEN:
            # A server that is checked while it serves holds its own ports.
            notes.append(f"note: {flag}={port} is in use at the moment")
        elif fault:
            faults.append(f"{flag}: {fault}")
    if network.tls is not None and (fault := certificate_fault(network.tls) or list_fault(network, network.tls)):
        faults.append(fault)
    path = network.socket_path
    if path is not None and len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        faults.append(f"--grpc_socket_path must have at most {MAX_SOCKET_PATH_BYTES} bytes, got {path}")
    elif path is not None and not path.absolute().parent.is_dir():
        faults.append(f"--grpc_socket_path={path}: {path.absolute().parent} is no directory")
    if network.mdns:
        from fallback_server.advertiser import InterfaceUnknown, interfaces_of  # noqa: PLC0415  zeroconf is slow to load

        try:
            interfaces_of(network.mdns_interfaces)
        except InterfaceUnknown as error:
            faults.append(str(error))
    return faults


def _row(config: ModelConfig, versions: Mapping[int, str], damaged: Mapping[int, str]) -> tuple[str, ...]:
    served = taken(config, versions) - damaged.keys()
    labels = ", ".join(f"{label}={number}" for label, number in sorted(config.labels.items()))
    traffic = ", ".join(f"{number}={weight:g}" for number, weight in sorted(config.traffic.items()))
    return (
        config.name,
        _list(served) or "none",
        _list(versions) or "none",
        str(config.version_policy),
        labels or "-",
        traffic or "-",
        "-" if config.shadow is None else f"{config.shadow.version}: {config.shadow.share * 100:.3g} %",
        str(config.base_path),
    )


def _with_heading(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The table; without the column of shadows where there is none."""
    table = [("MODEL", "VERSIONS SERVED", "ON DISK", "POLICY", "LABELS", "TRAFFIC", "SHADOW", "BASE PATH"), *rows]
    if any(row[_SHADOW_COLUMN] != "-" for row in rows):
        return table
    return [row[:_SHADOW_COLUMN] + row[_SHADOW_COLUMN + 1 :] for row in table]


def _list(numbers: Collection[int] | Sequence[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
