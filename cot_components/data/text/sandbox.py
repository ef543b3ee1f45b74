"""The jinja environment of chat templates: what `transformers` provides, with limits on time and size.

A template comes with a downloaded model, so it may be wrong or hostile. It runs in jinja's sandbox; beyond that a
render may take at most `MAX_ROUNDS` loop and macro iterations and `MAX_SECONDS`, and create nothing larger than
`MAX_SIZE`.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Sized
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_SIZE = 10_000_000
"""Characters of a text, items of a list."""
MAX_ROUNDS = 1_000_000
MAX_SECONDS = 10.0
MAX_BITS = 100_000
"""Of an integer."""

_LONG_NUMBER = re.compile(r"\d{6,}|\*")
_rounds: ContextVar[tuple[list[int], float]] = ContextVar("rounds")


class TooMuchError(jinja2.TemplateError):
    """A template that loops for too long or creates something too large."""


def _bound(size: int) -> None:
    if size > MAX_SIZE:
        raise TooMuchError(f"it makes a text or list of more than {MAX_SIZE:,} items")


def _tick() -> bool:
    count, start = _rounds.get()
    count[0] += 1
    if count[0] > MAX_ROUNDS or time.monotonic() - start > MAX_SECONDS:
        raise TooMuchError(f"its loops take more than {MAX_ROUNDS:,} rounds or {MAX_SECONDS:g} s")
    return True


def _join(parts: Iterable[Any]) -> str:
    texts = [str(part) for part in parts]
    _bound(sum(map(len, texts)))
    return "".join(texts)


class _Bounds(Extension):
    """What `_Bounded` writes into a template's loops, macros and concatenations."""

    def tick(self) -> bool:
        return _tick()

    def join(self, *parts: Any) -> str:
        return _join(parts)


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` marks the assistant's text in some templates; it renders as is."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own interface)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("body"), [], [], body).set_lineno(line)

    def body(self, caller: Callable[[], str]) -> str:
        return caller()


class _Counted(NodeTransformer):
    def __init__(self, bounds: _Bounds) -> None:
        self._bounds = bounds

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._bounds.call_method("join", node.nodes, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.test is not None:  # a loop without items has no body to count
            node.test = nodes.And(self._bounds.call_method("tick"), node.test)
        return self._with_tick(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._with_tick(node)

    def _with_tick(self, node: Any) -> nodes.Node:
        node = self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(self._bounds.call_method("tick"), lineno=node.lineno))
        return node


class _Bounded(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "%", "**"])
    concat = staticmethod(_join)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        bounds = self.extensions[_Bounds.identifier]
        assert isinstance(bounds, _Bounds)
        return _Counted(bounds).visit(super()._parse(source, name, filename))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _CHECKS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if isinstance(getattr(function, "__self__", None), _Bounds):
            return function(*args)
        _check_call(getattr(function, "__name__", ""), getattr(function, "__self__", None), function, args, kwargs)
        result = super().call(context, function, *args, **kwargs)
        if isinstance(result, str):
            _bound(len(result))
        return result


def _check_plus(left: Any, right: Any) -> None:
    if isinstance(left, Sized) and isinstance(right, Sized):
        _bound(len(left) + len(right))


def _check_times(left: Any, right: Any) -> None:
    for some, times in ((left, right), (right, left)):
        if isinstance(some, Sized) and isinstance(times, int):
            _bound(len(some) * times)
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        _check_bits(left.bit_length() * right)


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise TooMuchError(f"it makes a number of more than {MAX_BITS:,} bits")


def _check_format(text: Any, _: Any) -> None:
    if isinstance(text, str) and _LONG_NUMBER.search(text):
        raise TooMuchError("it formats something to a width that no text has")


_CHECKS = {"+": _check_plus, "*": _check_times, "**": _check_power, "%": _check_format}


def _check_call(name: str, owner: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a call whose arguments alone show that its result is too large."""
    given = [*args, *kwargs.values()]
    widths = [value for value in given if isinstance(value, int)]
    text = owner if owner is not None else getattr(getattr(function, "__wrapped__", None), "__self__", None)
    if isinstance(text, str):
        _check_text(name, text, given, max([0, *widths]))
    elif name != "range":
        _bound(max([0, *widths]))


def _check_text(name: str, text: str, given: list[Any], width: int) -> None:
    """The same for a method or filter of this name on a text."""
    if name in ("format", "format_map"):
        _check_format(text, None)
    if name in ("replace", "do_replace") and len(given) > 1 and all(isinstance(value, str) for value in given[:2]):
        _bound(len(text) + text.count(given[0]) * len(given[1]))
    if name == "join" and given and isinstance(given[0], list | tuple):
        _bound(sum(len(str(item)) + len(text) for item in given[0]))
    _bound(width * (1 + max(text.count("\n"), text.count("\t"))))
    if name == "translate":
        raise TooMuchError("it calls str.translate")


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # jinja's marks on the function, too
    def bounded(*args: Any, **kwargs: Any) -> Any:
        passed = 1 if hasattr(function, "jinja_pass_arg") else 0
        value, given = (args[passed] if len(args) > passed else ""), [*args[passed + 1 :], *kwargs.values()]
        widths = [number for number in given if isinstance(number, int)]
        if isinstance(value, str):
            _check_text(name, value, given, max([0, *widths]))
        else:
            _bound(max([0, *widths]))
        if name == "join" and isinstance(value, list | tuple):
            between = str(given[0]) if given else ""
            _bound(sum(len(str(item)) + len(between) for item in value))
        result = function(*args, **kwargs)
        if isinstance(result, str):
            _bound(len(result))
        return result

    return bounded


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike jinja's own filter this leaves `<`, `>` and `&` alone, as chat templates expect."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.cache
def compile_template(source: str) -> jinja2.Template:
    """The template, to be rendered by `render_template`.

    Raises:
        jinja2.TemplateError: a template that jinja cannot parse, or that is nested too deeply.
    """
    environment = _Bounded(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Bounds, _Generation, "jinja2.ext.loopcontrols"]
    )
    del environment.globals["lipsum"]
    environment.filters["tojson"] = _to_json
    environment.filters = {name: _bounded_filter(name, f) for name, f in environment.filters.items()}
    environment.globals |= {"raise_exception": _refuse, "namespace": Namespace}
    try:
        return environment.from_string(source)
    except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as error:
        raise jinja2.TemplateError(f"it cannot be compiled: {type(error).__name__}") from error


def render_template(source: str, **variables: Any) -> str:
    """The text that a template renders with these variables.

    Raises:
        jinja2.TemplateError: what a template refuses, and `TooMuchError`; besides these, Python's own errors.
    """
    template = compile_template(source)
    token = _rounds.set(([0], time.monotonic()))
    try:
        return template.render(**variables)
    except (RecursionError, MemoryError) as error:
        raise TooMuchError(f"it ends in a {type(error).__name__}") from error
    finally:
        _rounds.reset(token)


def names_in(source: str) -> set[str]:
    """Every name, attribute and text constant of a template: what it may read."""
    return fields_in(source) | {node.name for node in _parsed(source).find_all(nodes.Name)}


def fields_in(source: str) -> set[str]:
    """Every attribute and text constant of a template: what it may read of a message."""
    tree = _parsed(source)
    attributes = {node.attr for node in tree.find_all(nodes.Getattr)}
    return attributes | {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}


def _parsed(source: str) -> nodes.Template:
    return compile_template(source).environment.parse(source)
