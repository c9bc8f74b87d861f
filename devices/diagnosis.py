"""What a raw error of an interpreter or a delegate's library means on this machine, and what to do about it.

`Failed to load delegate from libedgetpu.so.1` is one text with many causes; which of them it is follows from what the
machine looks like. The other texts mean one thing each, and stand in a table.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from devices.compiled_faults import NO_GPU, no_vulkan_loader, why_no_gpu, why_no_npu
from devices.edgetpu_faults import NO_STICK, no_edge_tpu, why_not_loaded
from devices.machine import Machine

_Rule = Callable[[re.Match[str], Machine], "Diagnosis"]


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A cause and a cure, each a sentence or two for whoever sits before the device.

    Attributes:
        cause: What is wrong.
        cure: What to do.
        unless: What to add for whoever did not ask for the delegate, and may well do without.
    """

    cause: str
    cure: str
    unless: str = ""


def diagnose(error_text: str, machine: Machine) -> Diagnosis:
    """Explains an error.

    Args:
        error_text: What was raised or printed when a delegate was loaded or a model was run with it. A process that
            died is told as `killed by SIGSEGV`, one that did not come back as `no answer within 30 s`.
        machine: The machine it happened on.

    Returns:
        Always an answer; for a text that is not known, the text itself is the cause.
    """
    for pattern, rule in _RULES:
        found = pattern.search(error_text)
        if found:
            return rule(found, machine)
    first_line = (error_text.strip() or "no error text").splitlines()[0]
    return Diagnosis(
        cause=f"The error is not one that is known here: {first_line[:300]}",
        cure="Look into the kernel's log (dmesg) for the same moment, and report this text with the doctor's output.",
    )


def _missing_library(found: re.Match[str], machine: Machine) -> Diagnosis:
    library = found["library"]
    if library.rpartition("/")[2].startswith("libedgetpu"):
        attached = bool(machine.edge_tpus)
        hint = "An Edge TPU is attached and waits for it." if attached else no_edge_tpu(machine)
        return Diagnosis(
            cause=f"{library} is not installed, or is where the loader does not look. {hint}",
            cure="Install it: libedgetpu1-std of Coral's Debian archive, or better a build made for a recent LiteRT, "
            "since the stock one can crash with it.",
            unless="" if attached else NO_STICK,
        )
    if library.startswith("libvulkan"):
        return _no_loader(found, machine)
    if "/" in library:
        return Diagnosis(cause=f"There is no file {library}.", cure="Give the path of the delegate's library.")
    return Diagnosis(
        cause=f"{library} is not installed, or is where the loader does not look. It is the delegate's library itself, "
        "or one that this needs.",
        cure=f"Install the package that holds {library} (libusb-1.0-0 for libusb-1.0.so.0).",
    )


def _no_loader(found: re.Match[str], machine: Machine) -> Diagnosis:
    del found
    return _gpu(*no_vulkan_loader(machine))


def _no_adapter(found: re.Match[str], machine: Machine) -> Diagnosis:
    return _gpu(*why_no_gpu(found.string, machine))


def _gpu(cause: str, cure: str) -> Diagnosis:
    needed = cure.removesuffix(NO_GPU).rstrip()
    return Diagnosis(cause=cause, cure=needed, unless="" if needed == cure else NO_GPU)


def _no_npu(found: re.Match[str], machine: Machine) -> Diagnosis:
    del machine
    cause, cure = why_no_npu(found.string)
    return Diagnosis(cause=cause, cure=cure)


def _not_loaded(found: re.Match[str], machine: Machine) -> Diagnosis:
    if "edgetpu" in found["library"]:
        cause, cure = why_not_loaded(machine)
        return Diagnosis(cause=cause, cure=cure, unless="" if machine.edge_tpus else NO_STICK)
    said = (found["said"] or "").strip()
    if not said:
        return Diagnosis(
            cause=f"The delegate in {found['library']} refused to start, without saying why.",
            cure="See what its maker says of the hardware and options it needs.",
        )
    cure = "See what its maker says of the hardware it needs."
    if re.search(r"option|argument|\bkey\b|parameter|config", said, re.IGNORECASE):
        cure = (
            "Compare names and values behind the ? of the device string (external:/path/lib.so?option=value) with "
            "those that its maker documents for this release."
        )
    return Diagnosis(cause=f"The delegate in {found['library']} refused to start: {said[:300]}", cure=cure)


def _refused_model(found: re.Match[str], machine: Machine) -> Diagnosis:
    del machine
    said = found["said"].strip()
    return Diagnosis(
        cause="The delegate is there and its device answers, but it refuses the model that it is given"
        + (f": {said[:300]}" if said else "."),
        cure="Run this model on another delegate. If it refuses every model, its library was made for another release "
        "of TensorFlow Lite: install one for the installed interpreter.",
    )


def _failed_run(found: re.Match[str], machine: Machine) -> Diagnosis:
    del machine
    return Diagnosis(
        cause=f"The delegate took the model and failed when it ran it: {found['said'].strip()[:300] or 'no reason'}",
        cure="See that its device is attached and has power, and look into the kernel's log (dmesg) for the moment.",
    )


def _wrong_sums(found: re.Match[str], machine: Machine) -> Diagnosis:
    del machine
    return Diagnosis(
        cause=f"The delegate computes wrong results: {found[0]}.",
        cure="Do not use it. Update its driver and library, and report it to their maker.",
    )


def _custom_op(found: re.Match[str], machine: Machine) -> Diagnosis:
    if found["op"] != "edgetpu-custom-op":
        return Diagnosis(
            cause=f"The model holds the operator {found['op']}, which this interpreter does not have.",
            cure="Convert the model with built-in operators only.",
        )
    hint = "" if machine.edge_tpus else " " + no_edge_tpu(machine)
    return Diagnosis(
        cause=f"The model was compiled for an Edge TPU and was opened without its delegate.{hint}",
        cure="Open it with the delegate edgetpu, or run the variant that was not compiled for it.",
    )


def _crashed(found: re.Match[str], machine: Machine) -> Diagnosis:
    del machine
    return Diagnosis(
        cause=f"The library ended the process that loaded it ({found[0]}). Most often it was built against another "
        "version of TensorFlow Lite than the interpreter that is installed here.",
        cure="Install a build of the library that fits the installed LiteRT, or leave this delegate out. "
        "Do not load it into the application as it is.",
    )


def _stuck(found: re.Match[str], machine: Machine) -> Diagnosis:
    del machine
    return Diagnosis(
        cause=f"The accelerator does not answer ({found[0]}): it is stuck, or short of power.",
        cure="Unplug it and plug it in again, or restart the machine; use a powered USB 3 hub or a stronger supply.",
    )


def _fixed(cause: str, cure: str) -> _Rule:
    return lambda _found, _machine: Diagnosis(cause=cause, cure=cure)


_RULES: tuple[tuple[re.Pattern[str], _Rule], ...] = tuple(
    (re.compile(pattern), rule)
    for pattern, rule in (
        (r"killed by (SIG\w+|signal \d+)|ended with status \d+ and no answer", _crashed),
        (r"RAM did not enable within timeout|no answer within [\d.]+ s", _stuck),
        (r"no NPU accelerator found hardware", _no_npu),
        (
            r"tflite_runtime has no CompiledModel",
            _fixed(
                "GPUs and NPUs are reached through ai-edge-litert, and only tflite_runtime is installed.",
                "pip install ai-edge-litert, where there is a wheel of it (a 64-bit Python 3.10 or later); else leave "
                "this delegate out.",
            ),
        ),
        (r"Couldn't load Vulkan: libvulkan", _no_loader),
        (r"No adapters found|Found no drivers|VK_ERROR_INCOMPATIBLE_DRIVER", _no_adapter),
        (r"\[1, 2\] \+ \[10, 20\] gave .*", _wrong_sums),
        (r"unresolved custom op: (?P<op>[\w.-]*\w)", _custom_op),
        (r"(?P<library>[^\s:']+): cannot open shared object file: No such file", _missing_library),
        (
            r"cannot open shared object file: Permission denied",
            _fixed(
                "The library is there, but may not be read.", "Make it readable: chmod a+r, and a+x on its folders."
            ),
        ),
        (
            r"cannot read file data: Is a directory",
            _fixed("The path of the library is that of a folder.", "Give the path of the library itself."),
        ),
        (
            r"wrong ELF class|invalid ELF header|file too short|Exec format error",
            _fixed(
                "The library is damaged, or was built for another processor.",
                "Install the one for this architecture (aarch64 is arm64 in Debian's names, x86_64 is amd64).",
            ),
        ),
        (
            r"version [`'](GLIBC|GLIBCXX|CXXABI)_[\d.]+' not found",
            _fixed(
                "The library was built for a later system than this one.",
                "Install a build for this release of the system, or upgrade the system.",
            ),
        ),
        (
            r"undefined symbol: tflite_plugin_\w+",
            _fixed(
                "The library is no TensorFlow Lite delegate: it lacks the two functions that every delegate has.",
                "Give the path of the delegate's own library.",
            ),
        ),
        (
            r"undefined symbol",
            _fixed(
                "The library expects something that another library of this system does not have: versions don't fit.",
                "Install a build of the library made for this system.",
            ),
        ),
        (
            r"No module named '(ai_edge_litert|tflite_runtime)",
            _fixed("The interpreter is not installed.", "pip install ai-edge-litert, on a 64-bit Python."),
        ),
        (
            r"numpy\.core\.multiarray|_ARRAY_API not found",
            _fixed("The interpreter was built for numpy 1, and numpy 2 is installed.", "pip install 'numpy<2'."),
        ),
        (
            r"Failed to modify graph with delegate",
            _fixed(
                "The delegate is there, but can't run this model: an operator it lacks, or a device out of order.",
                "Run this model on the CPU; for a GPU see that vulkaninfo lists a device.",
            ),
        ),
        (r"Failed to load delegate from (?P<library>\S+)(?:\n(?P<said>\S.*))?", _not_loaded),
        (r"(?P<said>.*)Restored original execution plan after delegate application failure", _refused_model),
        (r"(?P<said>.*)Node number \d+ \([^)]*\) failed to (?:invoke|prepare)", _failed_run),
    )
)
"""Tried in order: a crash or a hang says more than what was printed before it."""
