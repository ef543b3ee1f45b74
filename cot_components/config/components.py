"""Finds the object behind a `_component_`; commands that only inspect a config find known components only."""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from cot_components.errors import UserError

_OURS = "cot_components"
_ACT = ("cli", "config", "files", "notebook", "runs", "tools", "training", "viz")
"""Our packages that write files or start processes; nothing in them may be named as a component."""
_LISTED = {
    "torch.nn": "CrossEntropyLoss",
    "torch.optim": "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop SGD "
    "SparseAdam",
    "torch.optim.lr_scheduler": "ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR "
    "LinearLR MultiStepLR OneCycleLR PolynomialLR SequentialLR StepLR",
    "torchao.optim": "Adam4bit Adam8bit AdamFp8 AdamW4bit AdamW8bit AdamWFp8 CPUOffloadOptimizer",
    "torchtune.modules.loss": "CEWithChunkedOutputLoss ForwardKLLoss ForwardKLWithChunkedOutputLoss",
    "torchtune.training": "FullModelHFCheckpointer FullModelMetaCheckpointer FullModelTorchTuneCheckpointer "
    "get_cosine_schedule_with_warmup",
    "torchtune.training.lr_schedulers": "get_cosine_schedule_with_warmup",
    "torchtune.training.metric_logging": "CometLogger DiskLogger MLFlowLogger StdoutLogger TensorBoardLogger "
    "WandBLogger",
}
"""Module -> names known to be safe in a config, as are the public names of `torchtune.models.*`."""

_allowed: ContextVar[tuple[str, ...] | None] = ContextVar("_allowed", default=None)  # None: everything


class ConfigError(UserError):
    """An invalid config; the message is one sentence naming the key."""


def nearest(name: Any, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest of `valid`, or the list of valid names."""
    valid = sorted(valid)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    bare = "; YAML reads a bare on, off, yes or no as a truth value: put it in quotes" if isinstance(name, bool) else ""
    return bare + (f"; valid: {', '.join(valid)}" if valid else "")


@contextmanager
def only_known(allow: Iterable[str] = ()) -> Iterator[None]:
    """Inside the block `locate` imports and returns only components of this package, listed ones of torch and
    torchtune, and those in the modules `allow`.
    """
    before = _allowed.set(tuple(allow))
    try:
        yield
    finally:
        _allowed.reset(before)


def may_import(module: str) -> bool:
    """Whether a foreign module may be imported: always, except in a command that only inspects a config, which needs
    its name in `--allow`.
    """
    allowed = _allowed.get()
    return allowed is None or any(f"{module}.".startswith(f"{name}.") for name in allowed)


def refusal(where: str, what: str, module: str) -> ConfigError:
    """The error about code that a command which only inspects a config refuses to run."""
    return ConfigError(
        f"{where}: '{what}' would be run, but this command only inspects the config; --allow {module} permits it"
    )


def locate(path: str, where: str) -> Callable[..., Any]:
    """The object a dotted path names.

    Raises:
        ConfigError: the module or the name does not exist; names the part that failed and the nearest name. Inside
            `only_known`, it is not a known component; nothing has been imported.
    """
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{where}: {path!r} is not a dotted path")
    if not (may_import(path) or parts[0] == _OURS or _is_listed(path)):
        raise refusal(where, path, parts[0])
    found = _resolve(parts, where)
    if not callable(found):
        raise ConfigError(f"{where}: '{path}' is not a component (it is a {type(found).__name__})")
    home = _home(found)
    known = _is_component_of_ours(parts, home) if parts[0] == _OURS else home.split(".")[0] == parts[0]
    if not (known or may_import(path) or may_import(home)):
        raise refusal(where, path, home)
    return found


def _resolve(parts: list[str], where: str) -> Any:
    path = ".".join(parts)
    for size in range(len(parts), 0, -1):
        module_name = ".".join(parts[:size])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
                continue
            raise ConfigError(f"{where}: '{path}' needs the module '{error.name}', which is not installed") from error
        except ValueError as error:
            raise ConfigError(f"{where}: {path!r} is not a dotted path") from error
        for part in parts[size:]:
            if not hasattr(found, part):
                public = [name for name in dir(found) if not name.startswith("_")]
                raise ConfigError(f"{where}: '{module_name}' has no '{part}'{nearest(part, public)}")
            found = getattr(found, part)
        return found
    raise ConfigError(f"{where}: no module '{parts[0]}' for '{path}'")


def _is_listed(path: str) -> bool:
    module, _, name = path.rpartition(".")
    return name in _LISTED.get(module, "").split() or module.startswith("torchtune.models.")


def _is_component_of_ours(parts: list[str], home: str) -> bool:
    """Whether it is defined in one of our modules that may hold components, is not a method, and does not write
    files."""
    package, _, place = home.partition(".")
    acts = place.split(".")[0] in _ACT
    private = any(part.startswith("_") for part in parts) or parts[-1].startswith(("write_", "save_"))
    in_module = ".".join(parts[:-1]) in sys.modules
    return package == _OURS and in_module and not acts and not private


def _home(found: Any) -> str:
    """The module in which a callable (for a partial, its function) is defined."""
    while isinstance(found, functools.partial):
        found = found.func
    return str(getattr(found, "__module__", None) or type(found).__module__)
