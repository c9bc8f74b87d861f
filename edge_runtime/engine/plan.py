"""Which variant of a package runs on which device, and why another device gets none. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from converter.artifact import Manifest, Variant

if TYPE_CHECKING:
    from devices import DeviceString

_ON_A_GPU = ("float32", "float16")
"""What a GPU computes in, the more exact first; a quantized model runs on it, too, and no faster."""

_TITLES = {"cpu": "a CPU", "gpu": "a GPU", "npu": "an NPU", "edgetpu": "an Edge TPU", "external": "another delegate"}


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a device, or of several that run the segments of a variant one after another.

    Attributes:
        rank: 0 for what is preferred; others stand by. Edge TPUs that stand side by side share one: each is as good as
            the next, and all are to be busy.
        devices: One; as many as there are segments where the variant has some.
        variant: What it runs; None if nothing.
        reason: Why this variant, or why none, in words.
    """

    rank: int
    devices: tuple[DeviceString, ...]
    variant: Variant | None
    reason: str

    @property
    def device(self) -> DeviceString:
        """The first of them."""
        return self.devices[0]


class _Refused(Exception):
    """Nothing in the package is for the device; the text says why."""


class _OnlyCompiled(_Refused):
    """Every variant is compiled for an Edge TPU."""


def plan(
    manifest: Manifest, devices: Sequence[DeviceString], wanted: str | None = None, target: str | None = None
) -> tuple[Placement, ...]:
    """Matches a package's variants to devices.

    Args:
        manifest: The package's.
        devices: In order of preference, expanded; one that is named twice counts where it stands first.
        wanted: The name of the variant that the user asks for, and no other; None for the package's choice.
        target: The name of this machine's device profile, for which the package may have chosen a variant of its own.

    Returns:
        A placement for every device, in their order.
    """
    found: list[Placement] = []
    unique = list(dict.fromkeys(devices))
    for rank, group in enumerate(_groups(unique)):
        if group[0].delegate.name == "edgetpu":
            found += _on_edge_tpus(manifest, group, rank, wanted, target)
            continue
        try:
            variant, reason = _CHOICES[group[0].delegate.name](manifest, wanted, target)
            found.append(Placement(rank=rank, devices=group, variant=variant, reason=reason))
        except _OnlyCompiled:
            found.append(Placement(rank=rank, devices=group, variant=None, reason=_only_compiled(manifest, unique)))
        except _Refused as refused:
            found.append(Placement(rank=rank, devices=group, variant=None, reason=str(refused)))
    return tuple(found)


def _only_compiled(manifest: Manifest, devices: Sequence[DeviceString]) -> str:
    """Why a package without another variant runs on nothing but an Edge TPU, and what to do where none is there."""
    said = f"{manifest.model} is compiled for an Edge TPU, and runs on nothing else"
    if any(device.delegate.name == "edgetpu" for device in devices):
        return said
    return (
        f"{said}; the devices that it may use here are {', '.join(map(str, devices))}: no Edge TPU was found, or asked "
        'for. Ask for it (--delegate edgetpu, delegates=["edgetpu"]); `edge-run doctor` says what it lacks'
    )


def _groups(devices: Sequence[DeviceString]) -> Iterator[tuple[DeviceString, ...]]:
    """Neighbours that are Edge TPUs together, every other device by itself."""
    for name, group in groupby(devices, lambda one: one.delegate.name):
        if name == "edgetpu":
            yield tuple(group)
        else:
            yield from ((one,) for one in group)


def _wanted(manifest: Manifest, wanted: str) -> Variant:
    for variant in manifest.variants:
        if variant.name == wanted:
            return variant
    there = ", ".join(variant.name for variant in manifest.variants)
    raise _Refused(f"variant {wanted!r} was asked for, which the package lacks; there are {there}")


def _chosen(manifest: Manifest, target: str | None) -> Variant:
    """The package's choice for the target among what needs no accelerator, else its default, else the first one."""
    names = [manifest.chosen.get(name) for name in (target or "default", "default")]
    plain = [variant for variant in manifest.variants if variant.delegate == "cpu"]
    for name in names:
        for variant in plain:
            if variant.name == name:
                return variant
    if plain:
        return plain[0]
    raise _OnlyCompiled


def _plain(manifest: Manifest, wanted: str | None, target: str | None, device: str) -> tuple[Variant, str]:
    """A variant that needs no accelerator of its own."""
    if wanted is not None:
        variant = _wanted(manifest, wanted)
        if variant.delegate != "cpu":
            compiled_for = _TITLES.get(variant.delegate, variant.delegate)
            raise _Refused(f"variant {wanted!r} was asked for, which {device} can't run: it is for {compiled_for}")
        return variant, "it was asked for"
    variant = _chosen(manifest, target)
    if target is not None and manifest.chosen.get(target) == variant.name:
        return variant, f"the package's choice for {target}"
    return variant, "the package's choice"


def _on_cpu(manifest: Manifest, wanted: str | None, target: str | None) -> tuple[Variant, str]:
    return _plain(manifest, wanted, target, _TITLES["cpu"])


def _on_gpu(manifest: Manifest, wanted: str | None, target: str | None) -> tuple[Variant, str]:
    if wanted is None:
        for name in _ON_A_GPU:
            for variant in manifest.variants:
                if variant.name == name and variant.delegate == "cpu":
                    return variant, f"a GPU computes in {name}"
    return _plain(manifest, wanted, target, _TITLES["gpu"])


def _on_npu(manifest: Manifest, wanted: str | None, target: str | None) -> tuple[Variant, str]:
    return _plain(manifest, wanted, target, _TITLES["npu"])


def _on_external(manifest: Manifest, wanted: str | None, target: str | None) -> tuple[Variant, str]:
    # Whoever asks for it knows what the library takes: it may be another build of an accelerator's.
    if wanted is not None and not (variant := _wanted(manifest, wanted)).segments:
        return variant, "it was asked for"
    return _plain(manifest, wanted, target, _TITLES["external"])


_CHOICES: Mapping[str, Callable[[Manifest, str | None, str | None], tuple[Variant, str]]] = {
    "cpu": _on_cpu,
    "gpu": _on_gpu,
    "npu": _on_npu,
    "external": _on_external,
}


def _on_edge_tpus(
    manifest: Manifest, devices: tuple[DeviceString, ...], rank: int, wanted: str | None, target: str | None
) -> list[Placement]:
    """One engine on each, or a pipeline over as many as there are segments, as often as that goes."""
    try:
        variant, reason = _compiled(manifest, len(devices), wanted, target)
    except _Refused as refused:
        return [Placement(rank=rank, devices=(one,), variant=None, reason=str(refused)) for one in devices]
    size = max(1, len(variant.segments))
    used = len(devices) // size * size
    placed = [
        Placement(rank=rank, devices=devices[at : at + size], variant=variant, reason=reason)
        for at in range(0, used, size)
    ]
    left = f"left over: variant {variant.name!r} runs on {size} Edge TPUs at a time, and {len(devices)} are there"
    return placed + [Placement(rank=rank, devices=(one,), variant=None, reason=left) for one in devices[used:]]


def _compiled(manifest: Manifest, count: int, wanted: str | None, target: str | None) -> tuple[Variant, str]:
    """The variant for so many Edge TPUs: the wanted one, else the package's choice, else the longest pipeline."""
    if wanted is not None:
        variant = _wanted(manifest, wanted)
        if variant.delegate != "edgetpu":
            raise _Refused(f"variant {wanted!r} was asked for, which is not compiled for an Edge TPU")
        candidates, reason = [variant], "it was asked for"
    else:
        candidates = [variant for variant in manifest.variants if variant.delegate == "edgetpu"]
        if not candidates:
            raise _Refused(
                "no variant for an Edge TPU in the package: convert with --target coral-usb, edgetpu_compiler on PATH"
            )
        chosen, of_any = manifest.chosen.get(target or "default"), set(manifest.chosen.values())
        candidates.sort(key=lambda one: (one.name != chosen, one.name not in of_any, -len(one.segments)))
        reason = "compiled for an Edge TPU"
    for variant in candidates:
        if len(variant.segments) <= count:
            return variant, f"{reason}, in {len(variant.segments)} segments" if variant.segments else reason
    fewest = min(candidates, key=lambda variant: len(variant.segments))
    raise _Refused(f"variant {fewest.name!r} is cut for {len(fewest.segments)} Edge TPUs, and {count} can be used here")
