"""The folder of a run: one process at a time, and what to do with a run that is already in it."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from omegaconf import OmegaConf
from safetensors import SafetensorError

from cot_components.config import ConfigError
from cot_components.config_files import read_keys
from cot_components.errors import UserError
from cot_components.training.checkpoint import damage, find_newest, read_state, remove_unfinished
from cot_components.viz.log import LOG_NAME

CHECKPOINTS, FINISHED, CONFIG, LOCK = "checkpoints", "finished.json", "config.yaml", ".lock"
EVALUATIONS, MODEL_FOLDER, ADAPTER_FOLDER = "evaluations", "model", "adapter"
VERSIONS, TOKENS, CURVES, REPORT = "versions.json", "tokens.html", "curves.png", "report.html"

FREE_TO_CHANGE = {
    *("output_dir", "resume", "save_every_n_steps", "save_every_minutes", "keep_checkpoints", "export_checkpoints"),
    *("num_workers", "device", "compile", "enable_activation_checkpointing", "cache_dir"),
    *("metric_logger", "log_every_n_steps", "evaluation", "evaluate_every_n_steps", "evaluate_before_training"),
    *("batch_size", "gradient_accumulation_steps"),
}
"""Keys that change neither data nor loss; of the two batch keys the product (times processes) is compared instead."""

_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_held: list[IO[str]] = []


class Earlier(NamedTuple):
    """A run to go on with: its newest whole checkpoint, the JSON part of that, and what to tell the user."""

    path: Path
    state: dict[str, Any]
    messages: tuple[str, ...] = ()


class AlreadyFinished(Exception):
    """The folder holds this very run, and it is done; the message says so."""


def enter_folder(folder: Path, config: Mapping[str, Any], *, resume: str) -> Earlier | None:
    """Lock the folder, write `config.yaml` into it and find what to go on with; None starts from the beginning.

    Args:
        folder: of the run.
        config: what the run is started with.
        resume: `auto`, `never`, or the path of a checkpoint (or of a run's folder: its newest one), from which the run
            starts; the same command again goes on with what that start has saved.

    Raises:
        AlreadyFinished: the run in the folder has this config and is done.
        UserError: the folder cannot be written or is in use; it holds another run, or one that may not be resumed; no
            checkpoint in it is whole; something else lies where the run will write, or the weights it starts from do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock(folder)
        exports = "keep_checkpoints" in config  # a recipe that only evaluates or scores writes no model
        if exports:
            _refuse_blocked(folder)
        earlier = _decide(folder, config, resume)
        if exports:
            _refuse_overwriting(folder, config)
        if earlier is None:
            (folder / LOG_NAME).unlink(missing_ok=True)
        written = OmegaConf.to_yaml(OmegaConf.create(without_secrets(dict(config))))
        (folder / f"{CONFIG}.new").write_text(written, encoding="utf-8")
        (folder / f"{CONFIG}.new").rename(folder / CONFIG)
    except OSError as error:
        raise UserError(f"output_dir: cannot write to {folder}: {error.strerror}") from error
    return earlier


def _decide(folder: Path, config: Mapping[str, Any], resume: str) -> Earlier | None:
    checkpoints = folder / CHECKPOINTS
    holds_run = checkpoints.is_dir() or any((folder / name).exists() for name in (LOG_NAME, FINISHED))
    named = resume not in ("auto", "never")
    again = named and holds_run and (folder / CONFIG).exists() and _read_config(folder).get("resume") == resume
    if named and not again:
        return _from_path(Path(resume), folder, config, holds_run)
    if not holds_run:
        return None
    if resume == "never":
        raise UserError(f"output_dir: {folder} already holds a run; name another (output_dir=...) or remove it")
    refuse_other_config(_read_config(folder), config, folder)
    if (folder / FINISHED).exists():
        raise AlreadyFinished(f"{folder} holds this run and it is finished; to train again: output_dir=ANOTHER")
    remove_unfinished(checkpoints)
    if again and not any(checkpoints.glob("step_*")):  # stopped before its first checkpoint
        return _from_path(Path(resume), folder, config, holds_run=False)
    found = _newest(checkpoints, config)
    return found and found._replace(messages=(*found.messages, *_set_aside_newer(found)))


def _newest(checkpoints: Path, config: Mapping[str, Any]) -> Earlier | None:
    path, damaged = find_newest(checkpoints)
    reasons = tuple(f"left out {bad}: {reason}" for bad, reason in damaged)
    if path is None:
        if damaged:
            raise UserError(f"resume: no checkpoint in {checkpoints} is whole; " + "; ".join(reasons))
        return None
    state = read_state(path)
    refuse_other_config(state["config"], config, path)
    return Earlier(path, state, (*reasons, f"resumed from {path}: {state['step']} steps done"))


def _from_path(path: Path, folder: Path, config: Mapping[str, Any], holds_run: bool) -> Earlier:
    """A checkpoint named by the user; log and evaluations of its run come along."""
    source = path if (path / CHECKPOINTS).is_dir() else path.parent.parent
    own = holds_run and source.resolve() == folder.resolve()
    if holds_run and not own:
        raise UserError(f"output_dir: {folder} already holds another run than {path}; name another (output_dir=...)")
    if source is path:
        found = _newest(path / CHECKPOINTS, config)
        if found is None:
            raise UserError(f"resume: {path} holds no checkpoint")
        earlier = found
    else:
        if not path.is_dir():
            raise UserError(f"resume: no folder {path}; auto, never, or the path of a checkpoint")
        reason = damage(path)
        if reason is not None:
            raise UserError(f"resume: {path} is damaged: {reason}")
        state = read_state(path)
        refuse_other_config(state["config"], config, path)
        earlier = Earlier(path, state, (f"resumed from {path}: {state['step']} steps done",))
    if own:
        return earlier._replace(messages=(*earlier.messages, *_set_aside_newer(earlier)))
    for name in (LOG_NAME, EVALUATIONS):
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
        elif (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    return earlier


def _set_aside_newer(earlier: Earlier) -> Iterator[str]:
    """Checkpoints later than the one to go on with, chosen or whole, must not be the newest at the next start, nor
    count among those that are kept.
    """
    for path in sorted(earlier.path.parent.glob("step_*")):
        if path.name > earlier.path.name and "." not in path.name:
            names = (f"{path.name}.set_aside{number or ''}" for number in itertools.count())
            path.rename(next(new for new in map(path.with_name, names) if not new.exists()))
            yield f"set aside {path}, which is later"
    (earlier.path.parent.parent / FINISHED).unlink(missing_ok=True)


def _refuse_blocked(folder: Path) -> None:
    """Raises UserError for a file where the run will make a folder, or the other way round: now, not at the end."""
    for name in (CHECKPOINTS, EVALUATIONS, MODEL_FOLDER, ADAPTER_FOLDER):
        if (folder / name).exists() and not (folder / name).is_dir():
            raise UserError(f"output_dir: {folder / name} is a file, and the run makes a folder of that name; move it")
    for name in (LOG_NAME, CONFIG, VERSIONS, FINISHED, TOKENS, CURVES, REPORT):
        if (folder / name).is_dir():
            raise UserError(f"output_dir: {folder / name} is a folder, and the run writes a file there; move it")


def _refuse_overwriting(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError for weights or a tokenizer to start from that lie where the run will write its own."""
    results = [(folder / name).resolve() for name in (MODEL_FOLDER, ADAPTER_FOLDER)]
    for key, value in _flat(config).items():
        if key.rpartition(".")[2] in ("checkpoint_dir", "path") and isinstance(value, str):
            start = Path(value).expanduser().resolve()
            if start in results or start.parent in results:
                raise UserError(f"{key}: {value} is where this run would write its own model; name another output_dir")


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


def lock(folder: Path) -> None:
    """Hold the folder until this process ends or `release` is called.

    Raises:
        UserError: another process holds it.
    """
    file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
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


def hold(file: IO[str]) -> IO[str]:
    """Keep a file open until `release` at the latest: until the recipe ends, however it ends. Returns it."""
    _held.append(file)
    return file


def release() -> None:
    """Let go of all folders, and close what was held open."""
    while _held:
        with suppress(OSError):  # a full disk: what could not be written has been said
            _held.pop().close()


def mark_finished(folder: Path, **facts: Any) -> None:
    """Say that everything of this run is written."""
    with writing(folder / FINISHED):
        (folder / FINISHED).write_text(json.dumps(facts) + "\n", encoding="utf-8")


def config_hash(config: Mapping[str, Any]) -> str:
    """sha256 over everything in a config that may not change within a run."""
    return hashlib.sha256(json.dumps(_flat(without_secrets(config)), sort_keys=True).encode()).hexdigest()


def refuse_other_config(before: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Raises UserError naming the keys that differ between two configs and may not."""
    old, new = _flat(before), _flat(without_secrets(now))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if differing:
        shown = ", ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(f"output_dir: {where} belongs to a run with another config ({shown}{more}); name another")


def _flat(node: Any, where: str = "") -> dict[str, Any]:
    """Leaves of a config by dotted path, without what is free to change."""
    if isinstance(node, Mapping):
        kept = {key: value for key, value in node.items() if key not in FREE_TO_CHANGE and value is not None}
        order = {f"{where}: order": ", ".join(kept)} if where.endswith("transforms") and len(kept) > 1 else {}
        return order | {
            k: v for key, value in kept.items() for k, v in _flat(value, f"{where}.{key}" if where else key).items()
        }
    if isinstance(node, (list, tuple)):
        return {k: v for i, value in enumerate(node) for k, v in _flat(value, f"{where}.{i}").items()}
    return {where: node}


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        read = OmegaConf.to_container(read_keys(folder / CONFIG), resolve=False)
    except ConfigError as error:
        said = f"{folder} holds a run without a readable {CONFIG} ({error})"
        raise UserError(f"output_dir: {said}; name another") from error
    assert isinstance(read, dict)
    return {str(key): value for key, value in read.items()}


def without_secrets(node: Any) -> Any:
    """The config with every secret of the environment (a variable named like a token or key) replaced by its name."""
    secrets = {value: name for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= 8}
    return _replaced(node, {value: f"${{oc.env:{name}}}" for value, name in secrets.items()})


def _replaced(node: Any, spelled: Mapping[str, str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _replaced(value, spelled) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_replaced(value, spelled) for value in node]
    if isinstance(node, str):
        for text, name in spelled.items():
            node = node.replace(text, name)
    return node
