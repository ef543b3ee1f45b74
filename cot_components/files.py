"""Files of a run: seen or refused, never passed over; on disk for good; hashed; read as JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from cot_components.errors import UserError

FULL_OR_BROKEN = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""What a disk says that loses what was written to it."""


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing where there is no folder.

    Raises:
        OSError: it may not be read. (`Path.glob` finds nothing there instead.)
    """
    try:
        with os.scandir(folder) as found:
            return sorted(folder / entry.name for entry in found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_below(folder: Path) -> list[Path]:
    """Every file and every link below a folder, sorted.

    Raises:
        OSError: a folder among them may not be read.
    """
    found: list[Path] = []
    for path in entries(folder):
        found += files_below(path) if path.is_dir() and not path.is_symlink() else [path]
    return sorted(found)


def sync(path: Path) -> str | None:
    """Put a file, or the names in a folder, on disk for good.

    Returns:
        None; of a folder, why its file system does not do that, as some network and FUSE mounts do not.

    Raises:
        OSError: the disk refuses a file, or is full or broken.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno in FULL_OR_BROKEN:
            raise
        return f"{path}: the file system does not sync folders ({error.strerror}); a power cut may undo a rename in it"
    return None


def sync_below(folder: Path) -> str | None:
    """`sync` of every file below a folder, then of the folders themselves; the first refusal of these."""
    files = files_below(folder)
    for path in files:
        sync(path)
    refusals = [sync(path) for path in sorted({folder, *(path.parent for path in files)})]
    return next((refusal for refusal in refusals if refusal), None)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, whatever happens meanwhile.

    Raises:
        OSError: the disk refuses.
    """
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_bytes(content)
    sync(unfinished)
    unfinished.replace(path)
    sync(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into one sentence with a file's name, `path` where the error has none
    (a write to an open file).
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"cannot write to {getattr(error, 'filename', None) or path}: {reason}") from error


def sha256(path: Path) -> str:
    """The hash of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: it cannot be read, is not JSON, nests too deep, or holds no object; names the file.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    except RecursionError:
        raise UserError(f"{path} is not read: its JSON nests too deep") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content
