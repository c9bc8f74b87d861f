import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.artifact import Manifest, Signature, Source, TensorSpec, Variant
from converter.artifact.schema import FORMAT_VERSION, FileEntry
from devices import device_string
from edge_runtime.engine.plan import plan

SIGNATURES = (
    Signature(
        name="serving_default",
        inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 2)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(1, 2)),),
    ),
)


def variant(name, segments=0):
    files = tuple(f"{name}-{number}.tflite" for number in range(segments))
    return Variant(
        name=name,
        file=files[0] if files else f"{name}.tflite",
        size_bytes=1,
        signatures=SIGNATURES,
        delegate="edgetpu" if "edgetpu" in name else "cpu",
        segments=files,
    )


def manifest(*variants, **chosen):
    files = {file for one in variants for file in (one.file, *one.segments)}
    return Manifest(
        format_version=FORMAT_VERSION,
        model="m",
        version=1,
        signatures=SIGNATURES,
        variants=variants,
        chosen={"default": variants[0].name} | {name.replace("_", "-"): one for name, one in chosen.items()},
        source=Source(format="keras", digest="sha256:none"),
        files={file: FileEntry(size_bytes=1, sha256="0" * 64) for file in files},
    )


PLAIN = (variant("int8"), variant("float16"), variant("float32"))
FULL = manifest(*PLAIN, variant("int8-edgetpu"), raspberry_pi_5="float16", coral_usb="int8-edgetpu")
FLOATS = manifest(*PLAIN)
QUANTIZED = manifest(variant("int8"), variant("dynamic"))
COMPILED = manifest(variant("int8-edgetpu"))
CUT = manifest(*PLAIN, variant("int8-edgetpu-2", segments=2))
BOTH = manifest(*PLAIN, variant("int8-edgetpu"), variant("int8-edgetpu-2", segments=2))
BOTH_ONE_CHOSEN = manifest(
    *PLAIN, variant("int8-edgetpu"), variant("int8-edgetpu-2", segments=2), coral_usb="int8-edgetpu"
)


def placed(package, devices, wanted=None, target=None):
    found = plan(package, [device_string(text) for text in devices.split()], wanted, target)
    return [(one.rank, " ".join(map(str, one.devices)), one.variant.name if one.variant else None) for one in found]


@pytest.mark.parametrize(
    ("package", "devices", "wanted", "target", "expected"),
    [
        (FULL, "cpu", None, None, [(0, "cpu", "int8")]),
        (FULL, "cpu", None, "raspberry-pi-5", [(0, "cpu", "float16")]),
        (FULL, "cpu", None, "raspberry-pi-4", [(0, "cpu", "int8")]),
        (FULL, "cpu", None, "coral-usb", [(0, "cpu", "int8")]),
        (FULL, "cpu", "float32", "raspberry-pi-5", [(0, "cpu", "float32")]),
        (FULL, "cpu", "int8-edgetpu", None, [(0, "cpu", None)]),
        (FULL, "cpu", "nonsense", None, [(0, "cpu", None)]),
        (COMPILED, "cpu", None, None, [(0, "cpu", None)]),
        (FULL, "edgetpu cpu", None, None, [(0, "edgetpu", "int8-edgetpu"), (1, "cpu", "int8")]),
        (FLOATS, "edgetpu cpu", None, None, [(0, "edgetpu", None), (1, "cpu", "int8")]),
        (FULL, "edgetpu cpu", "int8-edgetpu", None, [(0, "edgetpu", "int8-edgetpu"), (1, "cpu", None)]),
        (FULL, "edgetpu cpu", "int8", None, [(0, "edgetpu", None), (1, "cpu", "int8")]),
        (FULL, "gpu cpu", None, None, [(0, "gpu", "float32"), (1, "cpu", "int8")]),
        (FULL, "gpu cpu", "int8", None, [(0, "gpu", "int8"), (1, "cpu", "int8")]),
        (FULL, "gpu", "int8-edgetpu", None, [(0, "gpu", None)]),
        (QUANTIZED, "gpu", None, None, [(0, "gpu", "int8")]),
        (FULL, "npu external:/l cpu", None, None, [(0, "npu", "int8"), (1, "external:/l", "int8"), (2, "cpu", "int8")]),
        (FULL, "external:/l.so", "int8-edgetpu", None, [(0, "external:/l.so", "int8-edgetpu")]),
        (CUT, "external:/l.so", "int8-edgetpu-2", None, [(0, "external:/l.so", None)]),
        (FULL, "cpu cpu", None, None, [(0, "cpu", "int8")]),
        (FULL, "cpu edgetpu", None, None, [(0, "cpu", "int8"), (1, "edgetpu", "int8-edgetpu")]),
    ],
)  # fmt: skip
def test_every_device_gets_the_variant_that_is_for_it(package, devices, wanted, target, expected):
    """The user's word before the package's choice for this machine, and that before its default."""
    assert placed(package, devices, wanted, target) == expected


@pytest.mark.parametrize(
    ("package", "devices", "wanted", "target", "expected"),
    [
        (
            FULL,
            "edgetpu:pci:0 edgetpu:usb:0 cpu",
            None,
            None,
            [(0, "edgetpu:pci:0", "int8-edgetpu"), (0, "edgetpu:usb:0", "int8-edgetpu"), (1, "cpu", "int8")],
        ),
        (
            FULL,
            "edgetpu:usb:0 cpu edgetpu:usb:1 edgetpu:usb:0",
            None,
            None,
            [(0, "edgetpu:usb:0", "int8-edgetpu"), (1, "cpu", "int8"), (2, "edgetpu:usb:1", "int8-edgetpu")],
        ),
        (CUT, "edgetpu:usb:0 cpu", None, None, [(0, "edgetpu:usb:0", None), (1, "cpu", "int8")]),
        (CUT, "edgetpu:usb:0 edgetpu:usb:1", None, None, [(0, "edgetpu:usb:0 edgetpu:usb:1", "int8-edgetpu-2")]),
        (
            CUT,
            " ".join(f"edgetpu:usb:{number}" for number in range(5)),
            None,
            None,
            [
                (0, "edgetpu:usb:0 edgetpu:usb:1", "int8-edgetpu-2"),
                (0, "edgetpu:usb:2 edgetpu:usb:3", "int8-edgetpu-2"),
                (0, "edgetpu:usb:4", None),
            ],
        ),
        (BOTH, "edgetpu:usb:0", None, None, [(0, "edgetpu:usb:0", "int8-edgetpu")]),
        (BOTH, "edgetpu:usb:0 edgetpu:usb:1", None, None, [(0, "edgetpu:usb:0 edgetpu:usb:1", "int8-edgetpu-2")]),
        (
            BOTH_ONE_CHOSEN,
            "edgetpu:usb:0 edgetpu:usb:1",
            None,
            "raspberry-pi-5",
            [(0, "edgetpu:usb:0", "int8-edgetpu"), (0, "edgetpu:usb:1", "int8-edgetpu")],
        ),
        (BOTH, "edgetpu:usb:0", "int8-edgetpu-2", None, [(0, "edgetpu:usb:0", None)]),
        (
            BOTH,
            "edgetpu:usb:0 edgetpu:usb:1",
            "int8-edgetpu",
            None,
            [(0, "edgetpu:usb:0", "int8-edgetpu"), (0, "edgetpu:usb:1", "int8-edgetpu")],
        ),
    ],
)
def test_edge_tpus_side_by_side_share_a_rank_and_make_pipelines(package, devices, wanted, target, expected):
    """One engine on each, or one pipeline on as many as there are segments; what is left over is said."""
    assert placed(package, devices, wanted, target) == expected


@pytest.mark.parametrize(
    ("package", "devices", "wanted", "reason"),
    [
        (FLOATS, "edgetpu", None, "no variant for an Edge TPU in the package: convert with --target coral-usb"),
        (FULL, "cpu", "int8-edgetpu", "'int8-edgetpu' was asked for, which a CPU can't run: it is for an Edge TPU"),
        (FULL, "npu", "int8-edgetpu", "'int8-edgetpu' was asked for, which an NPU can't run"),
        (FULL, "edgetpu", "int8", "'int8' was asked for, which is not compiled for an Edge TPU"),
        (FULL, "edgetpu", "x", "'x' was asked for, which the package lacks; there are int8, float16, float32, int8-ed"),
        (FULL, "cpu", "x", "'x' was asked for, which the package lacks"),
        (COMPILED, "gpu cpu", None, "m is compiled for an Edge TPU, and runs on nothing else; the devices that it"),
        (COMPILED, "gpu cpu", None, "may use here are gpu, cpu: no Edge TPU was found, or asked for. Ask for it"),
        (COMPILED, "edgetpu cpu", None, "m is compiled for an Edge TPU, and runs on nothing else"),
        (CUT, "edgetpu", None, "'int8-edgetpu-2' is cut for 2 Edge TPUs, and 1 can be used here"),
        (CUT, "edgetpu:usb:0 edgetpu:usb:1 edgetpu:usb:2", None, "left over: variant 'int8-edgetpu-2' runs on 2 Edge"),
    ],
)
def test_what_is_refused_is_said_in_words(package, devices, wanted, reason):
    """The last device's reason names the variant and what would help."""
    refused = plan(package, [device_string(text) for text in devices.split()], wanted)[-1]
    assert refused.variant is None
    assert reason in refused.reason


DEVICES = ("cpu", "gpu", "npu", "edgetpu", "edgetpu:usb:0", "edgetpu:usb:1", "edgetpu::1", "external:/l.so?a=1")


@given(
    st.sampled_from([FULL, FLOATS, QUANTIZED, COMPILED, CUT, BOTH]),
    st.lists(st.sampled_from(DEVICES), max_size=8),
    st.sampled_from([None, "int8", "int8-edgetpu", "int8-edgetpu-2", "x"]),
    st.sampled_from([None, "coral-usb", "raspberry-pi-5"]),
)
def test_a_plan_names_every_device_once_in_order(package, devices, wanted, target):
    """Whatever is asked for: no device is lost or used twice, ranks do not fall, each has its reason."""
    found = plan(package, [device_string(text) for text in devices], wanted, target)
    assert [str(one) for placement in found for one in placement.devices] == list(dict.fromkeys(devices))
    assert sorted(placement.rank for placement in found) == [placement.rank for placement in found]
    for placement in found:
        assert placement.reason
        assert placement.device is placement.devices[0]
        assert len(placement.devices) == max(1, len(placement.variant.segments) if placement.variant else 1)
        assert wanted is None or placement.variant is None or placement.variant.name == wanted
