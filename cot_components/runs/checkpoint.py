"""Checkpoints on disk: written to a temporary folder, verified, then renamed; a resume uses the newest intact one.

A checkpoint is a folder `step_00000120` of safetensors and JSON files with a manifest of their sizes and sha256.
Nothing in it can run code. It gets its name only when every byte is on disk, so the process may be killed at any point.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cot_components.errors import UserError
from cot_components.files import entries, files_below, read_object, sha256, sync, sync_below

FORMAT = 1
MANIFEST, STATE = "manifest.json", "state.json"
_NAME, _TEMPORARY = re.compile(r"step_(\d{8,})"), ".saving-"
_SPARE = 1.2  # free space required, as a multiple of the tensors' size
_said: set[Path] = set()  # folders on a file system that cannot sync folders, reported once


class Found(NamedTuple):
    """The newest intact checkpoint of a folder (None if there is none), and why newer ones were skipped."""

    path: Path | None
    damaged: tuple[tuple[Path, str], ...]


def reached(point: str) -> None:
    """Called at every stage of a save; the fault tests kill the process here."""


def write_checkpoint(
    folder: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    add_files: Callable[[Path], None] | None = None,
    keep: int = 2,
    say: Callable[[str], None] = print,
) -> Path:
    """Write `folder/step_<step>` and remove all but the newest `keep` checkpoints up to it.

    Args:
        folder: of all checkpoints of the run.
        step: optimizer steps done.
        tensors: file name -> its CPU tensors by name.
        state: anything JSON can hold.
        add_files: called with the folder to add further files.
        keep: number of checkpoints to keep, including this one; later ones, which can only be damaged, do not count.
        say: called with warnings: a file system that cannot sync folders, an old checkpoint that cannot be removed.

    Raises:
        UserError: not enough space, or a disk error; earlier checkpoints are untouched.
    """
    target, temporary = folder / f"step_{step:08d}", folder / f"{_TEMPORARY}{step:08d}-{os.getpid()}"
    if target.is_dir() and damage(target) is None:
        return target
    size = sum(value.numel() * value.element_size() for part in tensors.values() for value in part.values())
    try:
        remove_unfinished(folder)
        temporary.mkdir(parents=True)
        free = shutil.disk_usage(folder).free
        if free < size * _SPARE:
            raise OSError(None, f"{_megabytes(size)} needed plus a fifth to spare, {_megabytes(free)} free")
        for name, part in tensors.items():
            save_file({key: value.contiguous() for key, value in part.items()}, temporary / name)
            reached(f"after {name}")
        _write_json(temporary / STATE, state)
        if add_files is not None:
            add_files(temporary)
        reached("before manifest")
        _write_json(temporary / MANIFEST, {"format": FORMAT, "files": _measure(temporary)})
        sync_below(temporary)
        _read_back(temporary, tensors)
        reached("before rename")
        if target.exists():  # damaged, see above
            shutil.rmtree(target)
        temporary.rename(target)
        refused = sync(folder)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"cannot save a checkpoint of {_megabytes(size)} to {target}: {reason}; earlier ones are intact"
        ) from error
    if refused is not None and folder not in _said:
        _said.add(folder)
        say(refused)
    reached("before prune")
    _prune(sorted(path for path in _checkpoints(folder) if path.name <= target.name)[:-keep], say)
    return target


def _prune(old: list[Path], say: Callable[[str], None]) -> None:
    for path in old:
        try:
            shutil.rmtree(path)
        except OSError as error:
            say(f"the old checkpoint {path} cannot be removed and takes up space: {error.strerror or error}")


def damage(path: Path) -> str | None:
    """Why a checkpoint cannot be used; None if it is intact.

    Raises:
        UserError: its format was written by a newer version of this package.
    """
    try:
        manifest = read_object(path / MANIFEST)
        version, expected = manifest["format"], manifest["files"]
        named = {name: (entry["size"], entry["sha256"]) for name, entry in expected.items()}
    except UserError as error:
        return f"{MANIFEST}{str(error).removeprefix(str(path / MANIFEST))}"
    except (KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not readable"
    if version != FORMAT:
        raise UserError(f"{path} has checkpoint format {version}; this version reads {FORMAT}")
    unsafe = [name for name in named if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    if unsafe:
        return f"{MANIFEST} names a file outside: {unsafe[0]}"
    present = {file.relative_to(path).as_posix() for file in files_below(path)} - {MANIFEST}
    for name in sorted(named.keys() | present):
        if name not in present:
            return f"{name} is missing"
        if name not in named:
            return f"{name} does not belong there"
        if (path / name).is_symlink():
            return f"{name} is a link"
        size, digest = named[name]
        if (path / name).stat().st_size != size:
            return f"{name} has {(path / name).stat().st_size} bytes instead of {size}"
        if sha256(path / name) != digest:
            return f"{name} has changed (sha256)"
    return None if STATE in named else f"{STATE} is missing"


def find_newest(folder: Path) -> Found:
    """The newest intact checkpoint in `folder`, and newer damaged ones with the reason."""
    damaged: list[tuple[Path, str]] = []
    for path in sorted(_checkpoints(folder), reverse=True):
        reason = damage(path)
        if reason is None:
            return Found(path, tuple(damaged))
        damaged.append((path, reason))
    return Found(None, tuple(damaged))


def read_state(path: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    return read_object(path / STATE)


def remove_unfinished(folder: Path) -> None:
    """Remove the leftovers of killed saves; only for the process that holds the run's lock."""
    for path in entries(folder):
        if path.name.startswith(_TEMPORARY):
            shutil.rmtree(path, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.is_dir() and _NAME.fullmatch(path.name)]


def _measure(folder: Path) -> dict[str, Any]:
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in files_below(folder)
    }


def _read_back(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raises OSError unless every tensor on disk is bit-identical to the one in memory."""
    for name, part in tensors.items():
        with safe_open(folder / name, framework="pt") as file:
            same = set(file.keys()) == part.keys() and all(
                torch.equal(_bytes(file.get_tensor(key)), _bytes(value)) for key, value in part.items()
            )
        if not same:
            raise OSError(None, f"{name} read back differs from what was written")


def _bytes(value: Tensor) -> Tensor:
    return value.contiguous().flatten().view(torch.uint8)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
