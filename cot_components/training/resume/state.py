"""Everything a step depends on, as named, unsharded CPU tensors and JSON: the same for any number of processes.

Frozen weights under adapters are not saved, because they are the starting weights.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from cot_components.errors import UserError
from cot_components.models.export import adapted_modules
from cot_components.training.distributed import World, full_weights, plain_name
from cot_components.training.exact_updates import MASTER
from cot_components.training.loop import NonFiniteError, Trainer
from cot_components.training.resume.compressed import PLAIN, put_back, share_of, whole_parts

MODEL, OPTIMIZER, RANDOM = "model.safetensors", "optimizer.safetensors", "random.safetensors"
Tensors = dict[str, Tensor]


def capture(trainer: Trainer) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Tensors by file, and the JSON part: weights, optimizer, schedule, random generators of every process.

    All processes must call it together, because sharded tensors are gathered; only the first one gets a result.
    """
    world = trainer.world
    model = _gather(_trained(trainer.model), world)
    optimizer, numbers = _optimizer_state(trainer)
    generators = world.gather(random_state(trainer.device))
    if not world.is_first:
        return {}, {}
    every = {f"{rank}.{name}": value for rank, state in enumerate(generators) for name, value in state.items()}
    schedule = None if trainer.lr_scheduler is None else _plain(trainer.lr_scheduler.state_dict())
    state = {"optimizer": numbers, "lr_scheduler": schedule, "processes": world.size}
    return {MODEL: model, OPTIMIZER: optimizer, RANDOM: every}, state


def restore(trainer: Trainer, folder: Path, state: Mapping[str, Any]) -> None:
    """Restore a captured state, in place.

    Raises:
        UserError: the weights do not fit this model; names the first that differs.
    """
    with safe_open(folder / MODEL, framework="pt") as file:
        named = dict(_trained(trainer.model))
        _check_names(set(named), set(file.keys()), folder / MODEL)
        with torch.no_grad():
            for name, value in named.items():
                saved = file.get_tensor(name)
                if saved.shape != value.shape or saved.dtype != value.dtype:
                    kinds = f"is {saved.dtype} {list(saved.shape)}, the model has {value.dtype} {list(value.shape)}"
                    raise UserError(f"{folder / MODEL}: '{name}' {kinds}")
                value.copy_(share_of(saved.to(value.device), value))
    _restore_optimizer(trainer, folder / OPTIMIZER, state["optimizer"])
    if trainer.lr_scheduler is not None:
        trainer.lr_scheduler.load_state_dict({**trainer.lr_scheduler.state_dict(), **state["lr_scheduler"]})
    _restore_random(trainer, folder / RANDOM, state)


def masters(optimizer: Mapping[str, Tensor]) -> Tensors:
    """The fp32 weights in an optimizer's captured state, by weight name."""
    return {name.removesuffix(f"/{MASTER}"): v for name, v in optimizer.items() if name.endswith(f"/{MASTER}")}


def trained_weights(trainer: Trainer) -> Tensors:
    """The state dict as ordinary CPU tensors, trained weights in fp32 if the optimizer keeps them; all processes must
    call it together.
    """
    optimizer, names = trainer.optimizer, _names(trainer.model)
    kept = [(f"{names[p]}/{MASTER}", state[MASTER]) for p, state in optimizer.state.items() if MASTER in state]
    return full_weights(trainer.model) | masters(_gather(kept, trainer.world))


def require_finite(model: nn.Module, weights: Mapping[str, Tensor], *, num_steps: int) -> None:
    """Raises NonFiniteError, which names the first weight of `model` that is NaN or infinite after `num_steps` steps:
    an update may overflow even if loss and gradient are finite.
    """
    learned = {plain_name(name) for name, _ in model.named_parameters()}  # a mask among the buffers may be infinite
    for name, value in weights.items():
        counted = name in learned and value.is_floating_point() and value.element_size() > 1  # float8 cannot say
        if counted and not torch.isfinite(value).all():
            raise NonFiniteError(
                f"after {num_steps} steps the weight '{name}' is not finite: an update was too large for its number "
                "format; it is not saved, earlier checkpoints are untouched"
            )


def random_state(device: torch.device) -> Tensors:
    """The state of every global random generator of this process."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    found = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    return found | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Undo `random_state`."""
    torch.set_rng_state(state["torch"])
    version, *words = state["python"].tolist()
    gauss = state["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    *keys, position, has_gauss = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, float(state["numpy_gauss"])))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _restore_random(trainer: Trainer, file: Path, state: Mapping[str, Any]) -> None:
    """With another number of processes the saved streams do not apply; each process starts a fresh one."""
    rank, size = trainer.world.rank, trainer.world.size
    if state["processes"] != size:
        torch.manual_seed(state["step"] * size + rank)
        return
    with safe_open(file, framework="pt") as opened:
        mine = [name for name in opened.keys() if name.startswith(f"{rank}.")]  # noqa: SIM118
        set_random_state({name.partition(".")[2]: opened.get_tensor(name) for name in mine}, trainer.device)


def _trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights that learn now or in another round, and buffers of the state dict, by their names without wrappers."""
    under_adapters = bool(adapted_modules(model))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or not under_adapters:
            yield plain_name(name), parameter
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield plain_name(name), buffer


def _gather(named: Iterable[tuple[str, Tensor]], world: World) -> Tensors:
    """Full tensors on the CPU, on the first process; compressed ones as their plain parts, `name:part`."""
    found: Tensors = {}
    for name, value in named:
        parts = whole_parts(value, world)
        if world.is_first:
            found |= {f"{name}:{part}" if part else name: whole for part, whole in parts.items()}
    return found


def _optimizer_state(trainer: Trainer) -> tuple[Tensors, dict[str, Any]]:
    optimizer, names = trainer.optimizer, _names(trainer.model)
    states = [
        (f"{names[parameter]}/{key}", value)
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, value in optimizer.state.get(parameter, {}).items()
    ]
    tensors = _gather(((n, v) for n, v in states if isinstance(v, Tensor)), trainer.world)
    groups = [
        _plain(group) | {"params": [names[parameter] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    return tensors, {"groups": groups, "numbers": {n: v for n, v in states if not isinstance(v, Tensor)}}


def _restore_optimizer(trainer: Trainer, file: Path, saved: Mapping[str, Any]) -> None:
    optimizer, names = trainer.optimizer, _names(trainer.model)
    with safe_open(file, framework="pt") as opened:
        compressed = {name.rpartition("/")[0] for name in opened.keys() if ":" in name}  # noqa: SIM118
    if compressed:
        resting = [p for p, name in names.items() if name in compressed and not p.requires_grad]
        _ask_for_gradients(resting, True)
        get_optimizer_state_dict(trainer.model, optimizer)  # makes empty states, compressed as it would
        _ask_for_gradients(resting, False)
    for group, values in zip(optimizer.param_groups, saved["groups"], strict=True):
        _check_names({names[parameter] for parameter in group["params"]}, set(values["params"]), file)
        for key, value in values.items():
            if isinstance(group.get(key), Tensor):
                group[key].fill_(value)
            elif key != "params":
                group[key] = tuple(value) if isinstance(value, list) else value
    with safe_open(file, framework="pt") as opened:
        stored: dict[str, dict[str, list[str]]] = {}  # parameter -> key -> parts
        for name in opened.keys():  # noqa: SIM118
            parameter, _, key = name.rpartition("/")
            stored.setdefault(parameter, {}).setdefault(key.partition(":")[0], []).append(name)
        for group, parameter in ((g, p) for g in optimizer.param_groups for p in g["params"]):
            on_device = bool(group.get("fused") or group.get("capturable"))
            empty, name = optimizer.state.get(parameter, {}), names[parameter]
            restored: dict[str, Any] = {}
            for key, parts in stored.get(name, {}).items():
                whole = {part.partition(":")[2]: opened.get_tensor(part) for part in parts}
                restored[key] = _read(whole, parameter, empty.get(key), on_device=on_device)
            prefix = f"{name}/"
            numbers = {n.removeprefix(prefix): v for n, v in saved["numbers"].items() if n.startswith(prefix)}
            optimizer.state[parameter] = restored | numbers


def _ask_for_gradients(parameters: Iterable[Tensor], asks: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(asks)


def _read(parts: Mapping[str, Tensor], parameter: Tensor, empty: Tensor | None, *, on_device: bool) -> Tensor:
    """One state of one parameter, on its device and sharded like it."""
    value = parts.get(PLAIN)
    if value is not None and value.shape != parameter.shape:  # a count is on the CPU, unless fused
        return value.to(parameter.device) if on_device or value.ndim else value
    return put_back(parts, parameter, empty)


def _names(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: plain_name(name) for name, parameter in model.named_parameters()}


def _check_names(wanted: set[str], saved: set[str], file: Path) -> None:
    for name in sorted(wanted ^ saved):
        raise UserError(f"{file}: '{name}' is {'missing' if name in wanted else 'not a trained weight of this model'}")


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of it that JSON can represent exactly, nested states included (sequential schedules have some);
    functions, parameters and mappings by number are left out because they do not change.
    """
    values = {key: _as_plain(value) for key, value in state.items()}
    return {key: value for key, value in values.items() if _is_plain(value)}


def _as_plain(value: Any) -> Any:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return _plain(value)
    if isinstance(value, (list, tuple)):
        return [_as_plain(item) for item in value]
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value)
    return isinstance(value, (int, float, str, bool)) or value is None
