"""The Edge TPUs that are attached, in the order in which libedgetpu numbers them where that can be told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from devices import EdgeTpu, find_edge_tpus

if TYPE_CHECKING:
    from edge_runtime.trial import Trials

_log = logging.getLogger(__name__)

_PYCORAL_LIMIT_S = 10.0
"""It loads libedgetpu and looks at the buses: well under a second, also on a Pi."""

_lock = threading.Lock()
_said: set[str] = set()
"""What has been logged: the reasons are few, and each is worth one line."""


def edge_tpus(root: Path = Path("/"), trials: Callable[[], Trials] | None = None) -> tuple[EdgeTpu, ...]:
    """Asks pycoral where a board's image brings it, else reads sysfs.

    pycoral loads libedgetpu, so that it is asked in a child process, which takes up to a second. Whoever only wants to
    know whether a device is still there asks `devices.find_edge_tpus`.

    Args:
        root: As for `devices.probe`; pycoral is asked for this machine only.
        trials: Gives where asking pycoral can be called off, by another thread; then sysfs is read. None for nowhere.
    """
    seen = find_edge_tpus(root)
    if root != Path("/") or not _has_pycoral():
        return seen
    from edge_runtime.trial import ask_child  # noqa: PLC0415  subprocess and tempfile, on boards with pycoral only

    asked_in = trials() if trials is not None else None
    answer = ask_child("list_edge_tpus", limit_s=_PYCORAL_LIMIT_S, trials=asked_in)
    if asked_in is not None and asked_in.called_off:
        return seen
    if answer.failure:
        reason = f"{answer.error}\n{answer.printed}".strip().splitlines()
        _say(f"pycoral can't list the Edge TPUs, so that sysfs is read: {reason[0] if reason else answer.failure}")
        return seen
    try:
        return in_order(answer.fields["edge_tpus"], seen)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _say(f"pycoral lists Edge TPUs in a form that is not known, so that sysfs is read: {error!r}")
        return seen


def in_order(listed: Sequence[Mapping[str, str]], seen: Sequence[EdgeTpu]) -> tuple[EdgeTpu, ...]:
    """The Edge TPUs as pycoral lists them, with what sysfs knows of each.

    Args:
        listed: What pycoral says of each: its `type`, `usb` or `pci`, and its `path`: `/dev/apex_0`, or
            `/sys/bus/usb/devices/2-1`.
        seen: The same in sysfs, where it is to be seen.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is in another form.
    """
    found = []
    for one in listed:
        bus, path = one["type"], one["path"]
        if bus not in ("usb", "pci"):
            raise ValueError(f"an Edge TPU on {bus!r}")
        address = "" if bus == "pci" else path.rpartition("/")[2]
        same = [each for each in seen if each.bus == bus and (_node(each) == path or each.address == address != "")]
        if same:
            found.append(same[0])
        elif bus == "usb":
            found.append(EdgeTpu(bus="usb", address=address, hardware_id="", node=None))
        else:
            found.append(EdgeTpu(bus="pci", address=path, hardware_id="", node=None))
    return tuple(found)


def _node(edge_tpu: EdgeTpu) -> str:
    return edge_tpu.node.path if edge_tpu.node else ""


def _has_pycoral() -> bool:
    from importlib import util  # noqa: PLC0415  finds it without loading it, and is loaded anyway by then

    try:
        return util.find_spec("pycoral") is not None
    except (ImportError, ValueError):
        return False


def _say(text: str) -> None:
    with _lock:
        if text in _said:
            return
        _said.add(text)
    _log.warning("%s", text)
