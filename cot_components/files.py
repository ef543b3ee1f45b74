"""File helpers: listings that never skip an unreadable folder, durable writes, hashes, JSON."""

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
"""Errors of a disk that may lose what was written to it."""


def entries(folder: Path) -> list[Path]:
    """The entries of a folder, sorted by name; none if there is no folder.

    Raises:
        OSError: no permission to read it. (`Path.glob` would find nothing instead.)
    """
    try:
        with os.scandir(folder) as found:
            return sorted(folder / entry.name for entry in found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_below(folder: Path) -> list[Path]:
    """Every file and link below a folder, sorted.

    Raises:
        OSError: no permission to read one of its folders.
    """
    found: list[Path] = []
    for path in entries(folder):
        found += files_below(path) if path.is_dir() and not path.is_symlink() else [path]
    return sorted(found)


def sync(path: Path) -> str | None:
    """Flush a file, or the names in a folder, to disk.

    Returns:
        None; or why a folder's file system cannot (some network and FUSE mounts do not sync folders).

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
    """`sync` every file below a folder, then the folders themselves; returns the first reason a folder was not
    synced."""
    files = files_below(folder)
    for path in files:
        sync(path)
    refusals = [sync(path) for path in sorted({folder, *(path.parent for path in files)})]
    return next((refusal for refusal in refusals if refusal), None)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: after any interruption it is there in full or not at all.

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
    """Turn an OSError inside the block into a one-sentence UserError with a file name: `path` if the error has none (a
    write to an open file).
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
        UserError: it cannot be read, is not JSON, is nested too deeply, or holds no object; names the file.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    except RecursionError:
        raise UserError(f"{path} is not read: its JSON is nested too deeply") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content
