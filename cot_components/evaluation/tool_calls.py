"""Tool calls in a completion, and whether they are right.

Follows BFCL's AST check for Python functions; see `data.read.bfcl` for its rows.

| compared     | right when                                                                                           |
|--------------|------------------------------------------------------------------------------------------------------|
| calls        | each allowed call is met by one call, in any order, and none is left over                            |
| arguments    | none is missing but optional ones, none is unknown to the function or the answer                     |
| text         | equal without case, blanks and any of `, . / - _ * ^`; single quotes are double ones                 |
| numbers      | equal; where an integer is declared, 5.0 is not 5; a boolean is never a number                       |
| lists        | equal item by item                                                                                   |
| objects      | for each key one of its allowed values; a key whose values hold "" may be missing                    |

If calls fit in more than one pairing, all pairings are searched, where BFCL takes the first that fits.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cot_components.data.bad_rows import RowError
from cot_components.data.read.bfcl import Accepted
from cot_components.data.read.calls import CALL_OPEN, Call, as_calls, canonical_calls, read_tagged

_ACTION = re.compile(
    r"^[ \t]*Action:[ \t]*(.+?)[ \t]*\n[ \t]*Action Input:(.*?)(?=^[ \t]*Observation:|\Z)", re.M | re.S
)
_FENCE = re.compile(r"```(?:json|python)?\s*\n(.*?)```", re.S)
_IGNORED = re.compile(r"[ ,./\-_*^]")
_NO_SCHEMA: Mapping[str, Any] = {}


def parse_calls(text: str) -> list[Call] | None:
    """The calls in the text after a thought, or None if there is none, or one that cannot be read.

    Reads `<tool_call>` tags; else `Action:` and `Action Input:`; else JSON or Python calls (`f(a=1)`, alone or in a
    list), possibly in a code fence or on the last line.
    """
    try:
        if CALL_OPEN in text:
            return _tagged_calls(text)
        if _ACTION.search(text):
            return [call for name, given in _ACTION.findall(text) for call in as_calls({"name": name, "args": given})]
    except RowError:
        return None
    fenced = _FENCE.findall(text)
    lines = text.strip().splitlines()
    for candidate in (fenced[-1] if fenced else text, lines[-1] if lines else ""):
        if (calls := _bare_calls(candidate.strip())) is not None:
            return calls
    return None


def _tagged_calls(text: str) -> list[Call]:
    calls, end = [], 0
    while (start := text.find(CALL_OPEN, end)) >= 0:
        found, end = read_tagged(text, start)
        calls += found
    return calls


def _bare_calls(text: str) -> list[Call] | None:
    if text.startswith(("{", "[{")):
        try:
            return as_calls(text)
        except RowError:
            return None
    try:
        tree = ast.parse(text, mode="eval").body
        calls = [_python_call(node) for node in (tree.elts if isinstance(tree, ast.List) else [tree])]
        canonical_calls(calls)  # raises for a value that JSON does not have, such as a set
        return calls or None
    except (RowError, SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("not a call by name")
    return Call(ast.unparse(node.func), {str(k.arg): _lists(ast.literal_eval(k.value)) for k in node.keywords})


def _lists(value: Any) -> Any:
    """The value with tuples as lists, as in JSON."""
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return {key: _lists(item) for key, item in value.items()} if isinstance(value, dict) else value


def tool_calls(text: str) -> str | None:
    """Extractor: the calls of a text as one canonical line, comparable by `exact_match`; None if there are none."""
    calls = parse_calls(text)
    return canonical_calls(calls) if calls else None


def calls_fault(
    calls: Sequence[Call] | None, allowed: Sequence[Accepted], functions: Sequence[Mapping[str, Any]] = ()
) -> str | None:
    """What is wrong with the calls, in words; None if they are right.

    allowed:   the calls that must be made, in the format of BFCL's `possible_answer` files
    functions: descriptions with `name` and `parameters` (`properties`, `required`); without them no type is known
    """
    if calls is None:
        return "no call that can be read"
    if len(calls) != len(allowed):
        return f"{len(calls)} calls instead of {len(allowed)}"
    described = {function["name"]: function["parameters"] for function in functions}
    faults = [[_call_fault(call, one, described) for one in allowed] for call in calls]
    if _can_pair([[fault is None for fault in row] for row in faults]):
        return None
    unmet = next((row for row in faults if None not in row), None)
    return unmet[0] if unmet else "two calls answer the same request"


def calls_match(
    calls: Sequence[Call] | None, allowed: Sequence[Accepted], functions: Sequence[Mapping[str, Any]] = ()
) -> bool:
    """Whether the calls are right; see `calls_fault`."""
    return calls_fault(calls, allowed, functions) is None


def _can_pair(fits: Sequence[Sequence[bool]]) -> bool:
    """Whether every row can be assigned a distinct fitting column (bipartite matching by augmenting paths)."""
    row_of: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in row_of or place(row_of[column], tried):
                    row_of[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(fits)))


def _call_fault(call: Call, allowed: Accepted, described: Mapping[str, Mapping[str, Any]]) -> str | None:
    ((name, options),) = allowed.items()
    if call.name != name:
        return f"calls {call.name}, not {name}"
    parameters = described.get(name)
    schemas = (parameters or _NO_SCHEMA).get("properties", {})
    required = (parameters or _NO_SCHEMA).get("required", ())
    for key in (*required, *(key for key, values in options.items() if "" not in values)):
        if key not in call.arguments:
            return f"{name}: {key} is missing"
    for key, value in call.arguments.items():
        if key not in options or (parameters is not None and key not in schemas):
            return f"{name}: {key} is not one of its arguments"
        if not any(_same(value, option, schemas.get(key, _NO_SCHEMA)) for option in options[key]):
            return f"{name}: {key} is {value!r}"
    return None


def _same(value: Any, option: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value equals the allowed one under the type the function declares."""
    if isinstance(option, str):
        return isinstance(value, str) and _standard(value) == _standard(option)
    if isinstance(option, bool) or isinstance(value, bool) or option is None:
        return value is option
    if isinstance(option, int | float):
        wanted = int if schema.get("type") == "integer" and isinstance(option, int) else int | float
        return isinstance(value, wanted) and value == option
    if isinstance(option, list):
        items = schema.get("items", _NO_SCHEMA)
        same_length = isinstance(value, list) and len(value) == len(option)
        return same_length and all(_same(v, o, items) for v, o in zip(value, option, strict=True))
    properties = schema.get("properties", _NO_SCHEMA)
    return (
        isinstance(value, dict)
        and value.keys() <= option.keys()
        and all(
            any(_same(value[key], one, properties.get(key, _NO_SCHEMA)) for one in choices)
            if key in value
            else "" in choices
            for key, choices in option.items()
        )
    )


def _standard(text: str) -> str:
    return _IGNORED.sub("", text).lower().replace("'", '"')
