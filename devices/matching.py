"""Which profile fits a machine, decided from its description alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from devices.machine import EdgeTpu, Machine
from devices.profile import DeviceProfile


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome.

    Attributes:
        profile: The board's; None where no profile is for that architecture.
        accelerators: The profiles of what was found attached to it.
        delegates: Device strings in order of preference: the accelerators' first, `cpu` last.
        reason: Why these, one sentence.
    """

    profile: DeviceProfile | None
    accelerators: tuple[DeviceProfile, ...]
    delegates: tuple[str, ...]
    reason: str


def match(machine: Machine, profiles: Sequence[DeviceProfile]) -> Match:
    """Chooses the board's profile by the device tree's model, else by architecture, and adds the accelerators."""
    board, reason = _board(machine, [found for found in profiles if found.kind == "board"])
    attached = [edge_tpu for edge_tpu in machine.edge_tpus if not (board and _is(board, edge_tpu))]
    accelerators = tuple(
        found for found in profiles if found.kind == "accelerator" and any(_is(found, seen) for seen in attached)
    )
    for found in accelerators:
        reason += f"; {found.title} attached"
    chosen = [*accelerators, *([board] if board else [])]
    return Match(
        profile=board,
        accelerators=accelerators,
        delegates=_in_order(device for found in chosen for device in found.delegates),
        reason=reason,
    )


def _board(machine: Machine, boards: Sequence[DeviceProfile]) -> tuple[DeviceProfile | None, str]:
    fitting = [found for found in boards if found.machine == machine.architecture]
    if machine.model:
        for found in fitting:
            if machine.model.startswith(found.models):
                return found, f"the device tree says {machine.model!r}"
    seen = f"the device tree's {machine.model!r} is not among the profiles" if machine.model else "no device-tree model"
    for found in fitting:
        if not found.models:
            return found, f"{seen}, the architecture is {machine.architecture}"
    return None, f"{seen}, and no profile is for the architecture {machine.architecture or '(unknown)'}"


def _is(profile: DeviceProfile, edge_tpu: EdgeTpu) -> bool:
    """Whether that Edge TPU is this accelerator, or is built into this board."""
    ids = profile.usb_ids if edge_tpu.bus == "usb" else profile.pci_ids
    return edge_tpu.hardware_id in ids


def _in_order(devices: Iterable[str]) -> tuple[str, ...]:
    """Without repetition, and with `cpu` at the end: it is what takes over from all others."""
    unique = dict.fromkeys(devices)
    return (*(device for device in unique if device != "cpu"), "cpu")
