"""The `@recipe` decorator: from `tune run NAME --config X key=value` to `main(**checked_config)`."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from yaml import YAMLError

from cot_components.config import COMPONENT, ConfigError, check, check_nodes, find_config, walk
from cot_components.config.files import read_keys
from cot_components.errors import UserError
from cot_components.runs.folder import AlreadyFinished, release
from cot_components.runs.signals import catch_stops
from cot_components.secrets import remember_origin, without_secrets
from cot_components.training.quiet import quiet_imports


class Running(NamedTuple):
    """The recipe running in this process.

    name, argv: of the command `tune run NAME ARGV...`
    config:     its values, secrets included
    defaults:   default values of its keys
    """

    name: str
    argv: tuple[str, ...]
    config: dict[str, Any]
    defaults: dict[str, Any]


_running: list[Running] = []


def running() -> Running | None:
    """The recipe running in this process; None outside a recipe."""
    return _running[-1] if _running else None


def recipe(
    main: Callable[..., None] | None = None,
    *,
    supplies: Mapping[str, Iterable[str]] | None = None,
    requires: Iterable[str] = (),
) -> Callable[..., Any]:
    """Turn `main(*, key, ...)` into a recipe: its keyword arguments are the keys of its YAML.

    A parameter annotated `dict` or `dict | None` is a node and names a component; a plain mapping is `dict[str, str]`.
    `--config` takes a path or a shipped name; overrides are torchtune's (`key=value`, `~key`). Every key is checked
    before `main` runs. Errors the user can fix, and disk errors, end in one sentence on stderr and exit code 2; SIGTERM
    and SIGINT in 143 and 130 (see `runs.signals`).

    Args:
        main: the recipe; all its parameters are keyword-only.
        supplies: dotted path of a node -> arguments the recipe passes when it builds that node (`{"optimizer":
            ["params"]}`).
        requires: dotted keys of nodes that may not be null or missing, though `main` would run without them.
    """
    if main is None:
        return functools.partial(recipe, supplies=supplies, requires=requires)
    requires = tuple(requires)

    @functools.wraps(main)
    def run() -> None:
        quiet_imports()
        try:
            try:
                with catch_stops():
                    config = read_config(main, sys.argv[1:], supplies or {}, requires)
                    _running[:] = [_started(main, config)]
                    main(**config)
            finally:
                _running.clear()
                release()  # also ends the progress bar's line, so that the next message has its own
        except AlreadyFinished as done:
            if os.environ.get("RANK", "0") == "0":
                print(done, flush=True)
        except (UserError, OSError, SafetensorError) as error:
            say(without_secrets(_sentence(error)))
            raise SystemExit(2) from None
        _leave()

    # Used, with `__wrapped__`, to check a config without running it.
    run.__dict__.update(supplies=dict(supplies or {}), requires=requires)
    return run


def _started(main: Callable[..., None], config: dict[str, Any]) -> Running:
    parameters = inspect.signature(main).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return Running(Path(sys.argv[0]).stem, tuple(sys.argv[1:]), config, defaults)


def require(main: Callable[..., None], *keys: str) -> Callable[..., Any]:
    """The recipe `main` as a method's recipe: a config without the method's nodes is refused.

    Args:
        main: a recipe, decorated.
        keys: dotted keys, as in `recipe`.
    """
    return recipe(main.__wrapped__, supplies=main.supplies, requires=keys)  # type: ignore[attr-defined]


def say(sentence: str) -> None:
    """Print the last line of this process; among several, the first reports errors common to all."""
    from cot_components.training.distributed import first_says, leave_word

    leave_word(sentence)
    rank = os.environ.get("RANK", "0")
    if not first_says(sentence):
        print(f"error: {sentence}" if rank == "0" else f"rank {rank}: error: {sentence}", file=sys.stderr, flush=True)


def _sentence(error: Exception) -> str:
    """The error's message, without the traceback that a loader's worker process adds."""
    said = str(error)
    if said.startswith("Caught "):
        return said.strip().splitlines()[-1].partition(": ")[2]
    if isinstance(error, UserError):
        return said
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {said.strip().partition(chr(10))[0]}"


def _leave() -> None:
    """Exit one of several processes immediately. Everything is written and the group closed; if a native thread aborted
    during Python's shutdown (observed with torch and gloo), torchrun would report a finished run as failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def read_config(
    main: Callable[..., None],
    argv: list[str],
    supplies: Mapping[str, Iterable[str]],
    requires: Iterable[str] = (),
) -> dict[str, Any]:
    """Parse `argv` with torchtune, resolve interpolations, check every key. Returns plain Python containers.

    Args:
        main: the recipe; its keyword arguments are the keys.
        argv: the command line after the program's name.
        supplies, requires: as in `recipe`.

    Raises:
        ConfigError: no `--config`; a file or an override that cannot be read; an interpolation of a missing key; a key
            that is unknown, missing, unset (`???`) or of the wrong type; a node that names no component, or that is
            required and missing.
        SystemExit: `--help`, which torchtune's parser answers.
    """
    config = _parse(_with_config_path(argv))
    try:
        written: Any = OmegaConf.to_container(config)
        off = tuple(f"{key}." for key, value in written.items() if _is_switched_off(value))
        unset = sorted(key for key in OmegaConf.missing_keys(config) if not key.startswith(off))
        if str(written.get("output_dir")).startswith("~"):  # now, because other keys may refer to it as ${output_dir}
            config.output_dir = os.path.expanduser(config.output_dir)
        resolved = remember_origin(written, OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"config: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise ConfigError("config: its interpolations (${...}) are circular") from None
    if unset:
        raise ConfigError(f"{unset[0]} has no default and must be set: {unset[0]}=VALUE (the config's header says why)")
    assert isinstance(resolved, dict)
    values = {str(key): None if _is_switched_off(value) else value for key, value in resolved.items()}
    check(main, values)
    check_nodes(main, values)
    walk(values, supplies)
    _check_required(values, requires)
    return values


def _check_required(values: Mapping[str, Any], requires: Iterable[str]) -> None:
    for key in requires:
        here: Any = values
        for part in key.split("."):
            here = here.get(part) if isinstance(here, Mapping) else None
        if here is None:
            raise ConfigError(
                f"{key} names no component, but this recipe requires one; set {key}.{COMPONENT}, or train "
                "without it: tune run cot_sft"
            )


def _is_switched_off(value: Any) -> bool:
    """`evaluation=null` on the command line; torchtune's parser takes it for the component of that node."""
    return isinstance(value, dict) and COMPONENT in value and value[COMPONENT] is None


def _with_config_path(argv: list[str]) -> list[str]:
    argv = list(argv)
    for index, argument in enumerate(argv):
        if argument == "--config" and index + 1 < len(argv):
            argv[index + 1] = str(find_config(argv[index + 1]))
            return argv
        if argument.startswith("--config="):
            argv[index : index + 1] = ["--config", str(find_config(argument.partition("=")[2]))]
            return argv
    if {"-h", "--help"} & set(argv):
        return argv
    raise ConfigError("--config NAME_OR_PATH is missing")


def _check_containers(argv: list[str]) -> None:
    """Check for input that torchtune's parser answers with a traceback, or silently ignores.

    Raises:
        ConfigError: a file that is not a mapping; an override below a list; one that replaces a mapping by a list or
            vice versa; one by `{}`, which would change nothing.
    """
    path = next((argv[i + 1] for i, word in enumerate(argv[:-1]) if word == "--config"), None)
    if path is None:
        return
    config = read_keys(Path(path))
    for word in argv:
        if word != path and (word.startswith("~") or "=" in word):
            _refuse_below_list(config, word)
    for key, _, value in (word.partition("=") for word in argv if word.partition("=")[2][:1] in ("[", "{")):
        here, given = OmegaConf.select(config, key), OmegaConf.select(OmegaConf.from_dotlist([f"{key}={value}"]), key)
        if isinstance(here, DictConfig) and isinstance(given, DictConfig) and here and not given:
            raise ConfigError(f"{key}={value} would change nothing in the config; {key}=null switches it off")
        if {type(here), type(given)} == {DictConfig, ListConfig}:
            kind = "keys with values" if isinstance(here, DictConfig) else "a list"
            raise ConfigError(f"{key}={value}: the config has {kind} there; {key}=null switches it off")


def _refuse_below_list(config: DictConfig, override: str) -> None:
    key = override.removeprefix("~").partition("=")[0]
    for above in (key[: part.start()] for part in re.finditer(r"[.\[]", key)):
        if isinstance(OmegaConf.select(config, above), ListConfig):
            raise ConfigError(f"{override}: the config has a list at {above}; {above}=[...] sets all of it")


_NOT_REMOVED = re.compile(r"Could not find key (\S+) in yaml config to remove")


def _parse(argv: list[str]) -> DictConfig:
    from torchtune.config import parse

    captured: list[DictConfig] = []
    program, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        _check_containers(argv)
        parse(lambda cfg: captured.append(cfg))()
    except SystemExit as end:  # parse() always exits; without a config it was --help or unreadable
        if not captured and end.code:
            raise ConfigError(f"cannot read the arguments {' '.join(argv)}") from None
        if not captured:
            raise
    except (ValueError, OmegaConfBaseException) as error:
        sentence = str(error).splitlines()[0]
        if kept := _NOT_REMOVED.fullmatch(sentence):  # torchtune's message for both cases
            sentence = f"~{kept[1]}: no such key in the config, or a component, which {kept[1]}=null switches off"
        raise ConfigError(sentence) from error
    except RecursionError:
        raise ConfigError("an override is nested too deeply") from None
    except YAMLError as error:
        raise ConfigError(f"cannot read the config or an override as YAML: {' '.join(str(error).split())}") from error
    finally:
        sys.argv = program
    return captured[0]
