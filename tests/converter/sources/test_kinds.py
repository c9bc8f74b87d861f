import zipfile

import pytest

from converter.errors import SourceInvalid
from converter.sources.kinds import check, digest

HDF5 = b"\x89HDF\r\n\x1a\n"


def test_what_can_be_read_is_told_by_its_content(tmp_path):
    """A name may say anything; HDF5 in a `.keras` is HDF5."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pbtxt").write_text("")
    (tmp_path / "old.keras").write_bytes(HDF5 + b"rest")
    with zipfile.ZipFile(tmp_path / "new.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
    assert [check(tmp_path / name) for name in ("model", "old.keras", "new.keras")] == ["saved_model", "hdf5", "keras"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.tflite", b"", "edge-convert wrap"),
        ("model.bin", b"\x1c\0\0\0TFL3", "edge-convert wrap"),
        ("saved_model.pb", b"x", "give its directory"),
        ("graph.pb", b"x", "frozen graph"),
        ("m.ckpt.index", b"x", r"checkpoint.*export"),
        ("m.ckpt.data-00000-of-00001", b"x", "checkpoint"),
        ("checkpoint", b"x", "checkpoint"),
        ("m.keras", b"junk", "damaged"),
        ("m.h5", b"", "is empty"),
        ("m.weights.h5", HDF5, "weights and no model"),
        ("m.onnx", b"x", "ONNX"),
        ("m.pt", b"x", "PyTorch"),
        ("notes.txt", b"x", "no model that can be converted"),
    ],
)
def test_other_files_are_refused_with_what_to_do(tmp_path, name, content, says):
    """In one line that names the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceInvalid, match=says) as caught:
        check(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_checkpoints_prefix_is_called_one(tmp_path):
    """No such file exists; those that begin with it do."""
    (tmp_path / "m.ckpt-7.index").write_bytes(b"x")
    with pytest.raises(SourceInvalid, match="checkpoint"):
        check(tmp_path / "m.ckpt-7")
    with pytest.raises(SourceInvalid, match="no such directory"):
        check(tmp_path / "other")


def test_a_files_digest_is_of_its_bytes_alone(tmp_path):
    """Another name, the same model."""
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).write_bytes(HDF5)
    assert digest(tmp_path / "a.h5", "hdf5") == digest(tmp_path / "b.h5", "hdf5")
    assert digest(tmp_path / "a.h5", "hdf5").startswith("sha256:")
    assert digest(tmp_path, "saved_model") != digest(tmp_path / "a.h5", "hdf5")
