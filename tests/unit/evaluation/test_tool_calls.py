"""Calls in completions, and BFCL's idea of the right ones: on its files, or on look-alikes with the same odd cases."""

import copy
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_components.data.read.bfcl import Accepted, accepted_calls
from cot_components.data.read.calls import Call, canonical_calls, write_calls
from cot_components.data.read.traces import read_traces
from cot_components.evaluation.comparers import exact_match
from cot_components.evaluation.extract import find_extractor
from cot_components.evaluation.tool_calls import calls_fault, calls_match, parse_calls

SCHEMAS = {
    "days": {"type": "integer"},
    "area": {"type": "float"},
    "city": {"type": "string"},
    "deep": {"type": "boolean"},
    "names": {"type": "array", "items": {"type": "string"}},
    "point": {"type": "tuple", "items": {"type": "float"}},
    "budget": {"type": "dict", "properties": {"min": {"type": "float"}, "unit": {"type": "string"}}},
    "where": {"type": "array", "items": {"type": "dict", "properties": {"field": {"type": "string"}}}},
    "rate": {"type": "float"},
}
ALLOWED = {
    "days": [3],
    "area": [0.5, 2],
    "city": ["New York, NY", "NYC"],
    "deep": ["", True],
    "names": [["Ann", "Bo"], ["Bo", "Ann"], ""],
    "point": [[1.5, 2.0]],
    "budget": [{"min": [300], "unit": ["dollars", ""]}],
    "where": [[{"field": ["age"]}, {"field": ["job", "work"]}]],
    "rate": ["", None],
}


def function(name: str, properties: dict, *required: str) -> dict:
    return {"name": name, "parameters": {"type": "dict", "properties": properties, "required": list(required)}}


FUNCTION = function("geo.find", SCHEMAS, "days", "area", "city", "point", "budget", "where")
PLAY = function("play", {"song": {"type": "string"}}, "song")


class CallTask(NamedTuple):
    allowed: Sequence[Accepted]
    functions: Sequence[Mapping[str, Any]]


def tasks() -> list[CallTask]:
    if shared := os.environ.get("COT_SHARED_DATA"):
        found = [accepted_calls(trace.answer or "") for trace in read_traces(Path(shared) / "bfcl")]
        return [CallTask(*one) for one in found if one is not None]
    find = {"geo.find": ALLOWED}
    songs = [{"play": {"song": ["a"]}}, {"play": {"song": ["a", "b"]}}]
    return [CallTask(calls, (FUNCTION, PLAY)) for calls in ([find], songs, [find, *songs])]


TASKS = tasks()


def value_of(option: Any, choose: random.Random) -> Any:
    """A value that an entry of a list of allowed values stands for."""
    if isinstance(option, dict):
        chosen = {key: choose.choice(values) for key, values in option.items()}
        return {key: value_of(value, choose) for key, value in chosen.items() if value != ""}
    return [value_of(item, choose) for item in option] if isinstance(option, list) else option


def right_calls(task: CallTask, choose: random.Random) -> list[Call]:
    """Calls in any order with any of the allowed values, optional arguments there or not."""
    required = {function["name"]: function["parameters"]["required"] for function in task.functions}
    calls = []
    for one in task.allowed:
        ((name, options),) = one.items()
        chosen = {
            key: choose.choice([v for v in values if v != ""] if key in required[name] else values)
            for key, values in options.items()
            if key not in required[name] or [v for v in values if v != ""]
        }
        arguments = {key: value_of(value, choose) for key, value in chosen.items() if value != ""}
        for key in required[name]:
            arguments.setdefault(key, "")
        calls.append(Call(name, arguments))
    choose.shuffle(calls)
    return calls


def test_the_ground_truth_is_right_on_every_row() -> None:
    faults = [calls_fault(right_calls(task, random.Random(0)), *task) for task in TASKS]
    assert not [fault for fault in faults if fault]
    assert len(faults) == (800 if os.environ.get("COT_SHARED_DATA") else 3)


@given(st.sampled_from(TASKS), st.integers(0, 10**6))
def test_any_allowed_value_in_any_order_and_spelling_is_right(task: CallTask, seed: int) -> None:
    calls = right_calls(task, random.Random(seed))
    assert calls_fault(calls, task.allowed, task.functions) is None
    assert parse_calls(write_calls(calls)) == calls
    assert calls_match(parse_calls(f"I call them.\n{write_calls(calls)}"), task.allowed, task.functions)


def wrong(value: Any) -> Any:
    """A value of the same kind that nobody allows."""
    if isinstance(value, bool) or value is None:
        return "neither"
    if isinstance(value, int | float):
        return value + 1001.5 if isinstance(value, float) else value + 1001
    if isinstance(value, str):
        return value + " zzz"
    return [*value, "zzz"] if isinstance(value, list) else value | {"zzz": 1}


@given(st.sampled_from(TASKS), st.integers(0, 10**6), st.sampled_from(["value", "type", "name", "less", "more", "key"]))
def test_what_leaves_the_allowed_set_is_wrong(task: CallTask, seed: int, kind: str) -> None:
    choose = random.Random(seed)
    calls = copy.deepcopy(right_calls(task, choose))
    number = choose.randrange(len(calls))
    name, arguments = calls[number]
    if kind in ("value", "type") and not arguments:
        kind = "key"
    if kind in ("value", "type"):
        key = choose.choice(sorted(arguments))
        arguments[key] = wrong(arguments[key]) if kind == "value" else {"a": {"b": arguments[key]}}
    elif kind == "name":
        calls[number] = Call(name + "_", arguments)
    elif kind == "less":
        del calls[number]
    elif kind == "more":
        calls.append(calls[number])
    else:
        arguments["unheard_of"] = 1
    assert not calls_match(calls, task.allowed, task.functions)
    required = {f["name"]: f["parameters"]["required"] for f in task.functions}[name]
    if required:
        missing = copy.deepcopy(right_calls(task, random.Random(seed)))
        index = next(i for i, call in enumerate(missing) if call.name == name)
        del missing[index].arguments[choose.choice(required)]
        assert not calls_match(missing, task.allowed, task.functions)


AGE, JOB, WORK = ({"field": name} for name in ("age", "job", "work"))
GOOD = {"days": 3, "area": 0.5, "city": "NYC", "point": [1.5, 2.0], "budget": {"min": 300}, "where": [AGE, JOB]}
VALUES = [
    ("city", ["new york ny", "New-York_NY."], ["York"]),
    ("days", [3], [3.0, "3", True]),
    ("area", [2, 2.0], []),
    ("point", [[1.5, 2]], [[2.0, 1.5]]),
    ("deep", [True], [1, False]),
    ("names", [["bo", "ann"]], [["bo"], "bo"]),
    ("budget", [{"min": 300.0, "unit": "Dollars"}], [{"unit": "dollars"}, {"min": 300, "max": 1}]),
    ("where", [[AGE, WORK]], [[WORK, AGE]]),
    ("rate", [None], [0]),
    ("zone", [], [1]),
]


@pytest.mark.parametrize(("key", "right", "wrong"), VALUES)
def test_each_kind_of_value(key: str, right: list[Any], wrong: list[Any]) -> None:
    def fault(value: Any) -> str | None:
        return calls_fault([Call("geo.find", GOOD | {key: value})], [{"geo.find": ALLOWED}], [FUNCTION])

    assert [fault(value) for value in right] == [None] * len(right)
    assert all(str(fault(value)).startswith(f"geo.find: {key} is") for value in wrong)


def test_a_call_is_used_once_and_pairing_is_found_where_the_first_fit_fails() -> None:
    allowed = [{"play": {"song": ["a", "b"]}}, {"play": {"song": ["a"]}}]
    a, b = Call("play", {"song": "a"}), Call("play", {"song": "b"})
    assert calls_match([a, b], allowed) and calls_match([b, a], allowed) and calls_match([a, a], allowed)
    assert "same request" in calls_fault([b, b], allowed) and "no call" in calls_fault(None, allowed)
    assert "1 calls" in calls_fault([a], allowed) and "stop" in calls_fault([Call("stop", {}), a], allowed)


def test_without_descriptions_the_answer_alone_decides() -> None:
    assert calls_match([Call("geo.find", GOOD)], [{"geo.find": ALLOWED}])
    assert calls_match([Call("f", {})], [{"f": {"x": ["", 1]}}])
    assert calls_fault([Call("f", {})], [{"f": {"x": ["", 1]}}], [function("f", {}, "x")]) == "f: x is missing"


PARSED = [Call("geo.find", {"days": 3, "names": ["a", "b"]})]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "geo.find", "parameters": {"days": 3, "names": ["a", "b"]}}\n</tool_call> Done.',
        'Thought: Hm.\nAction: geo.find\nAction Input: {"days": 3, "names": ["a", "b"]}\nObservation: no',
        '{"name": "geo.find", "arguments": {"days": 3, "names": ["a", "b"]}}',
        '[{"name": "geo.find", "arguments": "{\\"days\\": 3, \\"names\\": [\\"a\\", \\"b\\"]}"}]',
        'Like this:\n```json\n{"name": "geo.find", "arguments": {"days": 3, "names": ["a", "b"]}}\n```\nDone.',
        "geo.find(days=3, names=('a', 'b'))",
        "[geo.find(days=3, names=['a', 'b'])]",
        "I will call a tool.\ngeo.find(days=3, names=['a', 'b'])\n",
    ],
)
def test_every_way_to_write_a_call_is_read(text: str) -> None:
    assert parse_calls(text) == PARSED
    assert exact_match(find_extractor("tool_calls")(text), canonical_calls(PARSED))


NO_CALLS = ["", "Yes.", "f(1)", "f(**x)", "f(a=g())", "f(a={1, 2})", "f(a=1e999)", "[]", "[f(a=1), 2]"]


@pytest.mark.parametrize("text", [*NO_CALLS, "<tool_call>{</tool_call>", "Action: f\nAction Input: x"])
def test_what_is_no_call_is_none(text: str) -> None:
    assert parse_calls(text) is None and find_extractor("tool_calls")(text) is None


def test_canonical_lines_ignore_order_but_not_values() -> None:
    a, b = Call("f", {"x": 1, "y": 2}), Call("g", {})
    assert canonical_calls([a, b]) == canonical_calls([b, Call("f", {"y": 2, "x": 1})])
    assert canonical_calls([a]) != canonical_calls([Call("f", {"x": 1, "y": 3})])
