import hashlib
import shutil

import pytest

from converter.artifact.digest import file_entry, tree_digest


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(b"1")
    (root / "sub" / "b").write_bytes(b"2")
    return root


def test_a_files_entry_is_its_size_and_sha256(tree):
    """The digest is SHA-256 of the bytes, in hexadecimal."""
    entry = file_entry(tree / "a")
    assert (entry.size_bytes, entry.sha256) == (1, hashlib.sha256(b"1").hexdigest())


def test_a_copy_has_the_same_digest(tree, tmp_path):
    """Neither the place nor the times matter."""
    shutil.copytree(tree, tmp_path / "copy")
    assert tree_digest(tmp_path / "copy") == tree_digest(tree)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a").rename(root / "c"),
        lambda root: (root / "a").write_bytes(b"3"),
        lambda root: (root / "c").write_bytes(b""),
        lambda root: (root / "sub" / "b").unlink(),
    ],
)
def test_any_change_gives_another_digest(tree, change):
    """Renaming, altering, adding and removing a file all show."""
    before = tree_digest(tree)
    change(tree)
    assert tree_digest(tree) != before


def test_what_is_left_out_does_not_count(tree):
    """Files below the paths that are named; others of a like name count."""
    before = tree_digest(tree)
    (tree / "laid" / "in").mkdir(parents=True)
    (tree / "laid" / "in" / "c").write_bytes(b"3")
    assert tree_digest(tree, without=("laid/in/",)) == before
    (tree / "laid" / "into").write_bytes(b"4")
    assert tree_digest(tree, without=("laid/in/",)) != before


def test_linked_folders_count_and_loops_end(tree, tmp_path):
    """Weights behind a link are part of the tree, and a link upwards does not loop."""
    real = tree_digest(tree)
    (tree / "sub").rename(tmp_path / "elsewhere")
    (tree / "sub").symlink_to(tmp_path / "elsewhere")
    assert tree_digest(tree) == real
    (tree / "up").symlink_to(tree)
    assert tree_digest(tree) == real
