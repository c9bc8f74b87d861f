"""Archives of versions, sound and evil."""

import gzip
import io
import stat
import tarfile
import zipfile

import zstandard

SAVED_MODEL = {"saved_model.pb": b"graph", "assets/words": b"a b c"}


def tar_bytes(members, end=True):
    """A tar of (name, content) pairs; content is bytes, None for a folder, or a TarInfo's attributes."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, dict):
                for key, value in content.items():
                    setattr(info, key, value)
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
        if not end:
            return raw.getvalue()
    return raw.getvalue()


def link(target, kind=tarfile.SYMTYPE):
    return {"type": kind, "linkname": target}


def write(path, members, **options):
    """An archive of the kind that its name says."""
    members = list(members.items()) if isinstance(members, dict) else members
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in members:
                if isinstance(content, dict):
                    info = zipfile.ZipInfo(name)
                    info.external_attr = (stat.S_IFLNK | 0o777) << 16
                    opened.writestr(info, content["linkname"])
                elif content is None:
                    opened.mkdir(name)
                else:
                    opened.writestr(name, content)
        return path
    data = tar_bytes(members, **options)
    path.write_bytes(zstandard.compress(data) if path.name.endswith(".zst") else gzip.compress(data))
    return path
