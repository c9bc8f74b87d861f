import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.converter_packages import manifest_for, signature, write_files

from converter.artifact import (
    FORMAT_VERSION,
    FileEntry,
    FormatTooNew,
    InputPreprocess,
    Manifest,
    ManifestInvalid,
    PackageError,
    Preprocess,
    Quantization,
    Signature,
    Source,
    TensorSpec,
    Variant,
)
from converter.artifact.schema import MAX_FILES, check_name, check_path, check_version, decode, encode
from converter.artifact.signature import DTYPES

finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,15}", fullmatch=True)
quantizations = st.builds(
    Quantization,
    scales=st.tuples(st.floats(1e-6, 1e6)),
    zero_points=st.tuples(st.integers(-128, 255)),
    axis=st.integers(0, 3),
)
specs = st.builds(
    TensorSpec,
    name=text,
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=st.lists(st.integers(-1, 512), max_size=4).map(tuple),
    quantization=st.none() | quantizations,
)


def unique(strategy):
    return st.lists(strategy, min_size=1, max_size=3, unique_by=lambda one: one.name).map(tuple)


signatures = st.builds(Signature, name=text, inputs=unique(specs), outputs=unique(specs), batch_axis=st.none())
metrics = st.dictionaries(text, st.dictionaries(text, finite, max_size=2), max_size=2)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)


@st.composite
def manifests(draw):
    """Any manifest that is allowed."""
    logical = draw(unique(signatures))
    files = {
        f"{name}.tflite": FileEntry(size_bytes=draw(st.integers(0, 2**40)), sha256=draw(digests))
        for name in draw(st.lists(names, min_size=1, max_size=3, unique=True))
    }
    variants = tuple(
        Variant(name=path, file=path, size_bytes=entry.size_bytes, signatures=logical, metrics=draw(metrics))
        for path, entry in files.items()
    )
    inputs = sorted({spec.name for one in logical for spec in one.inputs})
    preprocess = st.builds(InputPreprocess, scale=st.floats(0.001, 10), mean=st.tuples() | st.tuples(finite))
    return Manifest(
        format_version=FORMAT_VERSION,
        model=draw(names),
        version=draw(st.integers(1, 2**63 - 1)),
        signatures=logical,
        variants=variants,
        chosen={"default": variants[0].name},
        source=Source(format="saved_model", digest=draw(text), metrics=draw(metrics)),
        files=files,
        labels=tuple(draw(st.lists(text, max_size=3))),
        preprocess=Preprocess(inputs=draw(st.dictionaries(st.sampled_from(inputs), preprocess, max_size=2))),
        evaluation_samples=draw(st.integers(0, 10**9)),
        tools=draw(st.dictionaries(text, text, max_size=2)),
    )


@given(manifests())
def test_a_manifest_survives_writing_and_reading(manifest):
    """What is read is what was written, and writing it again gives the same bytes."""
    data = encode(manifest)
    assert decode(data) == manifest
    assert encode(decode(data)) == data


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | text, st.lists).map(msgspec.json.encode))
def test_any_bytes_are_a_package_error(data):
    """Whatever is no manifest is refused by a package error."""
    with pytest.raises(PackageError):
        decode(data)


@pytest.mark.parametrize(
    "data", [b"[" * 200_000, b'{"format_version":1,"x":' + b"[" * 200_000, b'{"format_version":1,"model":"\xff"}']
)
def test_hostile_json_is_invalid(data):
    """Deep nesting and broken UTF-8 do not surface as errors of the JSON library."""
    with pytest.raises(ManifestInvalid):
        decode(data)


@pytest.fixture
def good(tmp_path):
    return manifest_for(write_files(tmp_path))


def test_only_later_formats_are_too_new(good):
    """The format after ours is too new, 0 is impossible."""
    with pytest.raises(FormatTooNew, match=str(FORMAT_VERSION + 1)):
        decode(encode(msgspec.structs.replace(good, format_version=FORMAT_VERSION + 1)))
    with pytest.raises(ManifestInvalid, match="format_version 0"):
        decode(encode(msgspec.structs.replace(good, format_version=0)))


@pytest.mark.parametrize("number", [b"9" * 30, b"9" * 5_000, b"1e400", b"-" + b"9" * 5_000, b"2.5"])
def test_an_impossible_format_version_is_refused(number):
    """However large the number that stands there, the answer is a package error."""
    with pytest.raises((FormatTooNew, ManifestInvalid)):
        decode(b'{"format_version": ' + number + b"}")


def test_fields_that_a_later_program_adds_are_passed_over(good):
    """A field that is unknown within the same format does not make a package unreadable."""
    data = encode(good).replace(b'"model":', b'"nickname": "x", "model":')
    assert decode(data) == good


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "../x"}, "model name"),
        ({"version": 0}, "version 0"),
        ({"version": 2**63}, "version"),
        ({"signatures": ()}, "signatures"),
        ({"signatures": (signature(), signature())}, "different names"),
        ({"variants": ()}, "variants"),
        ({"chosen": {}}, "default"),
        ({"chosen": {"default": "int4"}}, "int4"),
        ({"files": {}}, "not among the files"),
        ({"preprocess": Preprocess(inputs={"sound": InputPreprocess()})}, "sound"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_invalid(good, changes, says):
    """Each contradiction is refused with what it is about, when made and when read."""
    fields = {name: getattr(good, name) for name in good.__struct_fields__}
    with pytest.raises(ManifestInvalid, match=says):
        Manifest(**{**fields, **changes})


@pytest.mark.parametrize("path", ["manifest.json", "manifest.sha256", "../x", "/x"])
def test_a_manifest_lists_neither_itself_nor_what_is_outside(good, path):
    """The listed files are the package's own."""
    fields = {name: getattr(good, name) for name in good.__struct_fields__}
    entry = FileEntry(size_bytes=1, sha256="0" * 64)
    with pytest.raises(ManifestInvalid):
        Manifest(**{**fields, "files": {**good.files, path: entry}})


def test_a_variant_must_have_the_manifests_names(good):
    """A variant whose tensors are named otherwise can't answer the same requests."""
    other = msgspec.structs.replace(signature(), name="other")
    variant = msgspec.structs.replace(good.variants[0], signatures=(other,))
    with pytest.raises(ManifestInvalid, match="not the manifest's"):
        Manifest(**{**{name: getattr(good, name) for name in good.__struct_fields__}, "variants": (variant,)}
                 | {"chosen": {"default": variant.name}})  # fmt: skip


def test_variants_and_signatures_are_found_by_name(good):
    """An unknown name is a KeyError."""
    assert good.variant("int8").name == "int8"
    assert good.signature("serving_default").batch_axis == 0
    with pytest.raises(KeyError):
        good.variant("x")
    with pytest.raises(KeyError):
        good.signature("x")


@pytest.mark.parametrize("name", ["", ".x", "-x", "a/b", "a b", "ä", "a" * 129, "a\n"])
def test_names_that_are_no_folder_everywhere_are_invalid(name):
    """A model's name is a folder's and a URL's part."""
    with pytest.raises(ManifestInvalid):
        check_name(name)


@pytest.mark.parametrize("path", ["", "/", "a//b", "./a", "a/", "..", "a/../b", "a\\b", "a\0b", "/a"])
def test_paths_that_are_not_plain_are_invalid(path):
    """A path has one spelling and stays inside."""
    with pytest.raises(ManifestInvalid):
        check_path(path)


def test_versions_are_positive_int64():
    """1 and the largest int64 are the bounds."""
    assert check_version(1) == 1
    assert check_version(2**63 - 1) == 2**63 - 1
    for version in (0, -1, 2**63):
        with pytest.raises(ManifestInvalid):
            check_version(version)


@pytest.mark.parametrize(
    ("added", "way", "said"),
    [
        (MAX_FILES - 3, "{}", None),
        (MAX_FILES - 1, "{}", f"a package of {MAX_FILES + 1} files: at most {MAX_FILES}"),
        (MAX_FILES // 2 - 2, "d{}/x", None),
        (MAX_FILES // 2, "d{}/x", f"{MAX_FILES // 2 + 2} files in {MAX_FILES // 2 + 1} folders: at most {MAX_FILES}"),
        (MAX_FILES // 5, "d{}/a/b/c/d/e/x", f"{MAX_FILES // 5 + 2} files in {MAX_FILES // 5 * 6 + 1} folders: at most"),
    ],
)
def test_a_package_has_a_bounded_number_of_files_and_folders(good, added, way, said):
    """Empty ones take a disk's entries as well: whoever reads the manifest refuses it, with the count and the bound."""
    empty = FileEntry(size_bytes=0, sha256="0" * 64)
    files = {**good.files, **{way.format(number): empty for number in range(added)}}
    data = msgspec.json.encode({**msgspec.to_builtins(good), "files": msgspec.to_builtins(files)})
    if said is None:
        assert decode(data).files == files
    else:
        with pytest.raises(ManifestInvalid, match=said):
            decode(data)
