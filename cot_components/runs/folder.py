"""The folder of a run: one process at a time, and how to continue a run that is already there."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypeVar

from omegaconf import OmegaConf

from cot_components.errors import UserError
from cot_components.files import entries, write_whole
from cot_components.runs.checkpoint import damage, find_newest, read_state, remove_unfinished
from cot_components.runs.finished import why_unfinished
from cot_components.runs.layout import (
    ADAPTER,
    CHECKPOINTS,
    CONFIG,
    EVALUATIONS,
    FILES,
    FINISHED,
    FOLDERS,
    LOCK,
    LOG,
    MODEL,
)
from cot_components.runs.same_config import flat, read_config, refuse_other_config
from cot_components.secrets import without_secrets


class Closes(Protocol):
    """A file, or a progress bar."""

    def close(self) -> None: ...


_held: list[Closes] = []
_Held = TypeVar("_Held", bound=Closes)
_EFFECTIVE = os.access in os.supports_effective_ids


class Earlier(NamedTuple):
    """A run to resume: its newest intact checkpoint, that checkpoint's JSON state, and messages for the user."""

    path: Path
    state: dict[str, Any]
    messages: tuple[str, ...] = ()


class AlreadyFinished(Exception):
    """The folder holds this very run, and it is finished; the message says so."""


def enter_folder(folder: Path, config: Mapping[str, Any], *, resume: str) -> Earlier | None:
    """Lock the folder, write `config.yaml` into it and find the run to resume; None starts from the beginning.

    Args:
        folder: of the run.
        config: of this run.
        resume: `auto`, `never`, or the path of a checkpoint (or of a run's folder: its newest one), from which the run
            starts; repeating the command resumes from what that run has saved.

    Raises:
        AlreadyFinished: the run in the folder has this config and is finished.
        UserError: the folder or a part of it cannot be read or written, or is in use; it holds another run, or one that
            may not be resumed; no checkpoint in it is intact; the run would write over something else, or over the
            weights it starts from.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("", LOCK, *FOLDERS, *FILES):
            _refuse_closed(folder / name, below=name in FOLDERS, only_read=name == CHECKPOINTS)
        lock(folder)
        exports = "keep_checkpoints" in config  # a recipe that only evaluates or scores writes no model
        if exports:
            _refuse_blocked(folder)
        earlier = _decide(folder, config, resume)
        if exports:
            _refuse_overwriting(folder, config)
        if earlier is None:
            (folder / LOG).unlink(missing_ok=True)
        written = OmegaConf.to_yaml(OmegaConf.create(without_secrets(dict(config))))
        write_whole(folder / CONFIG, written.encode())
    except OSError as error:
        raise UserError(f"output_dir: cannot write to {error.filename or folder}: {error.strerror or error}") from error
    return earlier


def _decide(folder: Path, config: Mapping[str, Any], resume: str) -> Earlier | None:
    checkpoints = folder / CHECKPOINTS
    holds_run = checkpoints.is_dir() or any((folder / name).exists() for name in (LOG, FINISHED))
    named = resume not in ("auto", "never")
    again = named and holds_run and (folder / CONFIG).exists() and read_config(folder).get("resume") == resume
    if named and not again:
        return _from_path(Path(resume), folder, config, holds_run)
    if not holds_run:
        return None
    if resume == "never":
        raise UserError(f"output_dir: {folder} already holds a run; choose another (output_dir=...) or remove it")
    refuse_other_config(read_config(folder), config, folder)
    unlike = why_unfinished(folder) if (folder / FINISHED).exists() else None
    if unlike is None and (folder / FINISHED).exists():
        raise AlreadyFinished(f"{folder} holds this run, already finished; to train again: output_dir=ANOTHER")
    remove_unfinished(checkpoints)
    if again and not _steps(checkpoints):  # stopped before its first checkpoint
        return _from_path(Path(resume), folder, config, holds_run=False)
    found = _newest(checkpoints, config)
    if found is None and unlike is not None:
        raise UserError(f"output_dir: {folder} was finished, but {unlike}, and no checkpoint is left; choose another")
    told = (f"{unlike}: finishing again from its last checkpoint",) if unlike else ()
    return found and found._replace(messages=(*told, *found.messages, *_set_aside_newer(found)))


def _newest(checkpoints: Path, config: Mapping[str, Any]) -> Earlier | None:
    path, damaged = find_newest(checkpoints)
    reasons = tuple(f"skipped {bad}: {reason}" for bad, reason in damaged)
    if path is None:
        if damaged:
            raise UserError(f"resume: no checkpoint in {checkpoints} is intact; " + "; ".join(reasons))
        return None
    state = read_state(path)
    refuse_other_config(state["config"], config, path)
    return Earlier(path, state, (*reasons, f"resumed from {path}: {state['step']} steps done"))


def _from_path(path: Path, folder: Path, config: Mapping[str, Any], holds_run: bool) -> Earlier:
    """A checkpoint named by the user; log and evaluations of its run are copied along."""
    source = path if (path / CHECKPOINTS).is_dir() else path.parent.parent
    own = holds_run and source.resolve() == folder.resolve()
    if holds_run and not own:
        raise UserError(f"output_dir: {folder} already holds another run than {path}; choose another (output_dir=...)")
    if source is path:
        found = _newest(path / CHECKPOINTS, config)
        if found is None:
            raise UserError(f"resume: {path} has no checkpoint")
        earlier = found
    else:
        if not path.is_dir():
            raise UserError(f"resume: no folder {path}; use auto, never, or the path of a checkpoint")
        reason = damage(path)
        if reason is not None:
            raise UserError(f"resume: {path} is damaged: {reason}")
        state = read_state(path)
        refuse_other_config(state["config"], config, path)
        earlier = Earlier(path, state, (f"resumed from {path}: {state['step']} steps done",))
    if own:
        return earlier._replace(messages=(*earlier.messages, *_set_aside_newer(earlier)))
    for name in (LOG, EVALUATIONS):
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
        elif (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    return earlier


def _set_aside_newer(earlier: Earlier) -> Iterator[str]:
    """Set aside checkpoints later than the one to resume from: they must not be the newest at the next start, nor count
    among those to keep.
    """
    for path in _steps(earlier.path.parent):
        if path.name > earlier.path.name and "." not in path.name:
            names = (f"{path.name}.set_aside{number or ''}" for number in itertools.count())
            path.rename(next(new for new in map(path.with_name, names) if not new.exists()))
            yield f"set aside {path}, which is later"
    (earlier.path.parent.parent / FINISHED).unlink(missing_ok=True)


def _steps(checkpoints: Path) -> list[Path]:
    return [path for path in entries(checkpoints) if path.name.startswith("step_")]


def _refuse_closed(path: Path, *, below: bool, only_read: bool) -> None:
    """Raises UserError if this user lacks permission to read part of the run, or to write where it will: an unreadable
    folder would look empty, and the run in it would start over.

    Args:
        path: of a part of the run; need not exist.
        below: also check everything in a folder.
        only_read: its files are not rewritten.
    """
    if not path.exists():
        return
    rights = {"read": os.R_OK}
    if path.is_dir():
        rights |= {"enter": os.X_OK, "write to": os.W_OK}
    elif not only_read:
        rights["write to"] = os.W_OK
    for right, mode in rights.items():
        if not os.access(path, mode, effective_ids=_EFFECTIVE):
            raise UserError(f"output_dir: this user may not {right} {path}; nothing in the run's folder was touched")
    if below and path.is_dir() and not path.is_symlink():
        for inner in entries(path):
            _refuse_closed(inner, below=True, only_read=only_read)


def _refuse_blocked(folder: Path) -> None:
    """Raises UserError for a file where the run will create a folder, or vice versa: now, not at the end."""
    for name in FOLDERS:
        if (folder / name).exists() and not (folder / name).is_dir():
            raise UserError(f"output_dir: {folder / name} is a file, but the run needs a folder of that name; move it")
    for name in FILES:
        if (folder / name).is_dir():
            raise UserError(f"output_dir: {folder / name} is a folder, but the run writes a file there; move it")


def _refuse_overwriting(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError if the weights or tokenizer to start from are where the run will write its own."""
    results = [(folder / name).resolve() for name in (MODEL, ADAPTER)]
    for key, value in flat(config).items():
        if key.rpartition(".")[2] in ("weights", "path") and isinstance(value, str):
            start = Path(value).expanduser().resolve()
            if start in results or start.parent in results:
                raise UserError(f"{key}: {value} is where this run would write its own model; use another output_dir")


def lock(folder: Path) -> None:
    """Lock the folder until this process ends or `release` is called.

    Raises:
        UserError: another process holds it.
    """
    file: IO[str] = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise UserError(f"output_dir: {folder} is in use by another process ({owner or 'unknown'})") from None
    file.truncate(0)
    file.write(f"pid {os.getpid()}\n")
    file.flush()
    hold(file)


def hold(file: _Held) -> _Held:
    """Register a file or progress bar to be closed by `release`, however the recipe ends; returns it."""
    _held.append(file)
    return file


def release() -> None:
    """Unlock all folders and close everything held open; ends a progress bar's line."""
    while _held:
        with suppress(OSError):  # a full disk, already reported
            _held.pop().close()
