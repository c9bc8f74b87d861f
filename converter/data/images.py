"""Reads a directory of images: one subfolder a class, or no subfolders and no labels."""

from __future__ import annotations

from pathlib import Path

from converter.artifact import VARIABLE, Signature
from converter.data.samples import SampleWriter
from converter.errors import DataInvalid

MAX_IMAGE_BYTES = 256 * 2**20
"""Of one encoded image; a larger file is no picture that a model is measured on."""


def listed(path: Path) -> list[tuple[str, Path]]:
    """Every image's subfolder (empty where there are none) and file, sorted; hidden files and folders don't count.

    Raises:
        DataInvalid: no files at all, or some inside subfolders and some beside them.
    """
    try:
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        folders = [entry for entry in entries if entry.is_dir()]
        loose = [entry for entry in entries if not entry.is_dir()]
        if folders and loose:
            raise DataInvalid(
                f"{path}: {loose[0].name} lies beside the subfolders {[one.name for one in folders][:8]}; a directory "
                "of images has one subfolder a class and no other files, or no subfolders"
            )
        found = [("", file) for file in loose]
        for folder in folders:
            files = sorted(
                file
                for file in folder.rglob("*")
                if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
            )
            found.extend((folder.name, file) for file in files)
    except OSError as error:
        raise DataInvalid(f"{path}: can't be read: {error}") from error
    if not found:
        raise DataInvalid(f"{path}: no files in it; a directory of images has one subfolder a class")
    return found


def read(path: Path, names: tuple[str, ...], writer: SampleWriter, *, use_labels: bool = True) -> None:
    """Sends every image through the preprocessing of the model's input.

    Args:
        path: The directory.
        names: The package's class names.
        writer: Takes the samples.
        use_labels: Whether the folders are classes; else they are only places.

    Raises:
        DataInvalid: the model takes several inputs, its preprocessing decodes no images, or a file can't be decoded.
    """
    inputs = [spec.name for spec in writer.signature.inputs]
    if len(inputs) > 1:
        raise DataInvalid(
            f"{path}: a directory of images is for models with one input, this one takes {inputs}; "
            "give a .npz, a TFRecord or module:function"
        )
    files = listed(path)
    classes = class_indices(path, subfolders(path), names, writer.signature) if use_labels else {}
    for folder, file in files:
        source = file.relative_to(path).as_posix()
        label = classes.get(folder)
        try:
            if file.stat().st_size > MAX_IMAGE_BYTES:
                raise DataInvalid(f"{file}: {file.stat().st_size} bytes, images may have {MAX_IMAGE_BYTES}")
            raw = file.read_bytes()
        except OSError as error:
            raise DataInvalid(f"{file}: can't be read: {error}") from error
        writer.add({inputs[0]: raw}, label, source)


def subfolders(path: Path) -> list[str]:
    """The names of the subfolders, sorted, those without images too: they are classes as well."""
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_indices(path: Path, folders: list[str], names: tuple[str, ...], signature: Signature) -> dict[str, int]:
    """The class of each folder: its name's place among the class names, or the number that it is called.

    Without either it is the folder's own place in sorted order, if there are as many as the model has classes.

    Raises:
        DataInvalid: a folder is none of the class names, or their number is that of no output's classes: a guess would
            make wrong classes of all that come after.
    """
    if names and set(folders) <= set(names):
        return {folder: names.index(folder) for folder in folders}
    if folders and all(folder.isascii() and folder.isdigit() for folder in folders):
        return {folder: int(folder) for folder in folders}
    if names:
        unknown = next(folder for folder in folders if folder not in names)
        raise DataInvalid(f"{path}: subfolder {unknown!r} is none of the class names {_some(names)}")
    sizes = {spec.name: spec.shape[-1] for spec in signature.outputs if len(spec.shape) > 1}
    if folders and VARIABLE not in sizes.values() and len(folders) not in sizes.values():
        raise DataInvalid(
            f"{path}: {len(folders)} subfolders, and the outputs' last axes have {sizes}: --labels must say which "
            "class each of them is"
        )
    return {folder: index for index, folder in enumerate(folders)}


def _some(names: tuple[str, ...], most: int = 10) -> str:
    told = ", ".join(repr(name) for name in names[:most])
    return told if len(names) <= most else f"{told} and {len(names) - most} more"


def numbering(path: Path) -> str:
    """How the subfolders are numbered where no class names were given, in words; empty where that is no guess."""
    folders = subfolders(path)
    if not folders or all(folder.isdigit() for folder in folders):
        return ""
    told = ", ".join(f"{index} is {folder!r}" for index, folder in enumerate(folders[:3]))
    return f"The subfolders of {path} were taken for classes in sorted order ({told}...); --labels would name them."
