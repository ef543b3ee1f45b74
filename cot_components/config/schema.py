"""Configs are checked against signatures, then built: nothing is loaded, downloaded or allocated before every key is
known to be right.

The signature is the schema. A recipe's keyword arguments are its YAML keys; the keyword arguments of the component that
a node names with `_component_` are the node's keys. Errors are one sentence that names the key and the nearest valid
one.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cot_components.config.components import ConfigError, locate, nearest
from cot_components.errors import UserError

COMPONENT = "_component_"


def check(
    component: Callable[..., Any], given: Mapping[str, Any], where: str = "", supplied: Iterable[str] = ()
) -> None:
    """Check the keys and the types of `given` against the signature of `component`.

    Args:
        component: its keyword arguments are the schema. given: the config's values.
        where: dotted path of the node, "" for the whole config.
        supplied: names of arguments that the recipe itself passes.

    Raises:
        ConfigError: unknown key, missing key, wrong type.
    """
    prefix = f"{where}." if where else ""
    supplied = set(supplied)
    parameters = inspect.signature(component).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    valid = set(named) - supplied
    for key in given:
        if key not in valid and not (takes_any and isinstance(key, str)):
            raise ConfigError(f"unknown key '{prefix}{key}'{nearest(key, valid)}")
    hints = _type_hints(component)
    for key, parameter in named.items():
        if key in supplied:
            continue
        if key not in given:
            if parameter.default is parameter.empty:
                raise ConfigError(f"missing key '{prefix}{key}'")
        elif key in hints and not fits(given[key], hints[key]):
            raise ConfigError(_misfit(f"{prefix}{key}", given[key], hints[key]))


def check_nodes(main: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Check that every node of a recipe names a component. A parameter annotated `dict` or `dict | None` is a node; a
    plain mapping is annotated `dict[...]`, or with further types.

    Raises:
        ConfigError: a node that names none.
    """
    for key, hint in _type_hints(main).items():
        kinds, value = set(typing.get_args(hint)) or {hint}, values.get(key)
        if dict in kinds and kinds <= {dict, type(None)} and value is not None and COMPONENT not in value:
            off = f", or {key}=null" if type(None) in kinds else ""
            raise ConfigError(f"{key} names no component: set {key}.{COMPONENT}{off}")


def _type_hints(component: Callable[..., Any]) -> dict[str, Any]:
    if isinstance(component, functools.partial):
        component = component.func
    target = component.__init__ if inspect.isclass(component) else component  # type: ignore[misc]
    try:
        return typing.get_type_hints(target)
    except Exception:  # an unresolvable annotation of a foreign component is not checked
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value is acceptable for an argument of this type; types YAML cannot express are not checked.

    A mapping with `_component_` fits everything: it will become an object.
    """
    if isinstance(value, Mapping) and COMPONENT in value:
        return True
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    if hint in (bool, int, float, str, type(None)):
        return isinstance(value, (int, float) if hint is float else hint) and isinstance(value, bool) == (hint is bool)
    container = origin or hint
    if container is Callable:
        return callable(value)
    if inspect.isclass(container) and issubclass(container, Mapping):
        return isinstance(value, Mapping)
    if (inspect.isclass(container) and issubclass(container, (list, tuple))) or container is Sequence:
        is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        return is_list and all(fits(element, _element(hint)) for element in value)
    return True


def _element(hint: Any) -> Any:
    """X of a `list[X]`, `Sequence[X]` or `tuple[X, ...]`; Any for every other type."""
    args = [arg for arg in typing.get_args(hint) if arg is not ...]
    return args[0] if len(args) == 1 else Any


def _misfit(name: str, value: Any, hint: Any) -> str:
    """The error about a value that does not fit; about its first wrong element, if a list is allowed."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    for option in typing.get_args(hint) if union else (hint,):
        if fits(value, Sequence) and fits([], option):
            index = next(i for i, element in enumerate(value) if not fits(element, _element(option)))
            return _misfit(f"{name}[{index}]", value[index], _element(option))
    close = nearest(value, [arg for arg in typing.get_args(hint) if isinstance(value, str) and isinstance(arg, str)])
    return f"{name} must be {_spell(hint)}, got {_show(value)}" + (close if "did you mean" in close else "")


def _spell(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spell(arg) for arg in args)
    if origin is typing.Literal:
        return " or ".join(repr(arg) for arg in args)
    container = origin or hint
    if container is Callable:
        return f"a component ({COMPONENT})"
    if inspect.isclass(container) and issubclass(container, Mapping):
        return "a mapping"
    return "None" if hint is type(None) else getattr(container, "__name__", str(hint))


def _show(value: Any) -> str:
    if value == "None":
        return "the text 'None' (write null for no value)"
    return "None" if value is None else f"{value!r} ({type(value).__name__})"


def walk(config: Mapping[str, Any], supplies: Mapping[str, Iterable[str]] | None = None, where: str = "") -> None:
    """Check every node of a config that names a component, innermost keys included, before anything is built.

    Args:
        config: the config or a part of it.
        supplies: dotted path of a node -> names of the arguments the recipe passes to it when it builds it.
        where: dotted path of `config` inside the whole.

    Raises:
        ConfigError: see `check` and `locate`.
    """
    for key, value in config.items():
        path = f"{where}.{key}" if where else str(key)
        if not isinstance(value, Mapping):
            continue
        if COMPONENT in value:
            if not isinstance(value[COMPONENT], str):
                raise ConfigError(f"{path}.{COMPONENT} must be a dotted path, got {_show(value[COMPONENT])}")
            component = locate(value[COMPONENT], path)
            given = {k: v for k, v in value.items() if k != COMPONENT}
            check(component, given, path, (supplies or {}).get(path, ()))
        walk(value, supplies, path)


def build(node: Any, *args: Any, where: str = "", **supplied: Any) -> Any:
    """The object a node describes, inner nodes first; a value that names no component is returned as it is.

    An argument annotated as a mapping gets its node unbuilt: the component builds it itself.

    Args:
        node: a mapping with `_component_`, or any other value.
        args: positional arguments passed in front (a tokenizer, the parameters, the optimizer).
        where: dotted path of the node, for errors; without it they name the component.
        supplied: keyword arguments the recipe adds.

    Raises:
        UserError: a component of ours refuses its arguments, or an installed one raises an error over them.
    """
    if isinstance(node, Mapping):
        at = {key: f"{where}.{key}" if where else "" for key in node}
        if COMPONENT not in node:
            return {key: build(value, where=at[key]) for key, value in node.items()}
        component = locate(node[COMPONENT], where or COMPONENT)
        hints, given = _type_hints(component), {key: value for key, value in node.items() if key != COMPONENT}
        inner = {
            key: value if _wants_mapping(hints.get(key)) else build(value, where=at[key])
            for key, value in given.items()
        }
        try:
            return component(*args, **inner, **supplied)
        except _OVER_ARGUMENTS as error:
            if isinstance(error, UserError) or not _is_installed(component):
                raise
            raise UserError(f"{where or node[COMPONENT]}: {_said(error, node[COMPONENT])}") from error
    if isinstance(node, (list, tuple)):
        return [build(value, where=where) for value in node]
    return node


_UNSAID = (TypeError, LookupError, ArithmeticError, AssertionError, AttributeError)
"""Errors whose message alone says little."""
_OVER_ARGUMENTS = (*_UNSAID, ValueError, OSError, ImportError, RuntimeError)
"""Errors that third-party components raise for bad arguments."""


def _is_installed(component: Callable[..., Any]) -> bool:
    """Whether it belongs to an installed package other than ours. Our components raise UserError for what a user can
    fix; any other error is a bug in them (or in the user's own file), where the traceback helps.
    """
    module = str(getattr(component, "__module__", ""))
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return module.partition(".")[0] != "cot_components" and bool(
        {"site-packages", "dist-packages"} & {*Path(file).parts}
    )


def _said(error: Exception, component: str) -> str:
    """Its first line, with component and type if the line alone says little."""
    line = next(iter(str(error).strip().splitlines()), "")
    if line and not isinstance(error, _UNSAID):
        return line
    return f"{component} refuses its arguments ({type(error).__name__}: {line})"


def _wants_mapping(hint: Any) -> bool:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    containers = [typing.get_origin(option) or option for option in options]
    return any(inspect.isclass(container) and issubclass(container, Mapping) for container in containers)
