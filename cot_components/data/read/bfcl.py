"""BFCL (Berkeley Function Calling Leaderboard): questions with several accepted function calls.

A folder as BFCL publishes it has `BFCL_v4_simple_python.json` with a question per line (`id`, `question`, `function`)
and `possible_answer/BFCL_v4_simple_python.json` with the accepted calls (`id`, `ground_truth`). Each accepted call is a
function name and, per argument, a list of accepted values; "" among them means that the argument may be left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cot_components.config import nearest
from cot_components.data.bad_rows import RowError
from cot_components.data.read.agent_rows import agent_messages
from cot_components.data.read.calls import TAGGED, Call, write_calls, write_json
from cot_components.data.read.files import PlacedRow, file_rows
from cot_components.data.read.messages import Content, Fields, Message
from cot_components.data.read.turns import read_turns
from cot_components.errors import UserError

Accepted = Mapping[str, Mapping[str, Sequence[Any]]]
"""Function name -> argument -> accepted values; exactly one function."""

ANSWERS = "possible_answer"
PARTS = tuple(
    f"{prefix}{part}"
    for prefix in ("", "live_")
    for part in ("simple", "simple_python", "multiple", "parallel", "parallel_multiple")
)
"""The parts of BFCL with one turn to answer and Python-style functions."""

_FILE = re.compile(r"BFCL_v\d+_(\w+)\.json")
_REFERENCE = '{"accepted": '


def is_bfcl(path: Path) -> bool:
    """Whether the folder is laid out as BFCL publishes its questions."""
    return (path / ANSWERS).is_dir()


def bfcl_files(folder: Path, split: str, subset: str | None) -> list[Path]:
    """The files of questions and of answers, alternating.

    Args:
        folder: see `is_bfcl`.
        split: `train`, meaning all rows.
        subset: parts separated by blanks; None for all of `PARTS` that the folder has.

    Raises:
        UserError: another split, an unknown part, a part without its two files, no part at all.
    """
    if split != "train":
        raise UserError(f"{folder}: a folder of BFCL has no split {split!r}; leave it out")
    found = {match[1]: path for path in sorted(folder.iterdir()) if (match := _FILE.fullmatch(path.name))}
    asked = [part for part in PARTS if part in found] if subset is None else subset.split()
    for part in asked:
        if part not in PARTS:
            raise UserError(f"{folder}: subset {part!r} is not a part of BFCL that can be scored{nearest(part, PARTS)}")
        if part not in found:
            raise UserError(f"{folder}: there is no file BFCL_v*_{part}.json")
        if not (folder / ANSWERS / found[part].name).is_file():
            raise UserError(f"{folder / ANSWERS / found[part].name}: no such file")
    if not asked:
        raise UserError(f"{folder}: there are no questions of BFCL; its parts are {', '.join(PARTS)}")
    return [file for part in asked for file in (found[part], folder / ANSWERS / found[part].name)]


def bfcl_rows(files: Sequence[Path]) -> Iterator[PlacedRow]:
    """The questions with their accepted calls in a column `ground_truth`, at the places of the questions.

    files: see `bfcl_files`
    """
    for questions, answers in zip(files[::2], files[1::2], strict=True):
        accepted = {row["id"]: row["ground_truth"] for where, row in file_rows(answers) if _has_calls(where, row)}
        for where, row in file_rows(questions):
            if isinstance(row, Mapping):
                key = row.get("id")
                known = isinstance(key, str) and key in accepted
                row = {**row, "ground_truth": accepted[key]} if known else _unanswered(key, answers)
            yield where, row


def _unanswered(key: Any, answers: Path) -> RowError:
    return RowError(f"'id' has no accepted calls in {answers}", repr(key))


def _has_calls(where: str, row: Any) -> bool:
    if isinstance(row, RowError):
        raise row.at(where)
    if not isinstance(row, Mapping) or not isinstance(row.get("id"), str) or "ground_truth" not in row:
        raise RowError("a row of accepted calls has no 'id' or no 'ground_truth'").at(where)
    return True


def from_bfcl(fields: Fields) -> Content:
    """A question; calls built from one accepted value per argument; all accepted values as the reference."""
    question, functions = fields.need("question"), fields.need("function")
    if not isinstance(question, list) or len(question) != 1:
        raise RowError(f"{fields.name('question')} is not a list with one list of turns")
    if not isinstance(functions, list) or not all(map(_has_name, functions)):
        raise RowError(f"{fields.name('function')} is not a list of functions with names")
    accepted = fields.need("ground_truth")
    if not isinstance(accepted, list) or not accepted or not all(map(_is_accepted, accepted)):
        raise RowError(f"{fields.name('ground_truth')} is not a list of calls with lists of accepted values")
    names = {name for one in accepted for name in one}
    declared = [{"name": f["name"], "parameters": _types(f.get("parameters"))} for f in functions if f["name"] in names]
    required = {function["name"]: function["parameters"].get("required", ()) for function in declared}
    shown = write_calls(_example(one, required) for one in accepted)
    turns = (*read_turns(question[0], fields.name("question")), Message("assistant", shown, calls=TAGGED))
    reference = write_json({"accepted": accepted, "functions": declared}, fields.name("ground_truth"))
    return Content(agent_messages(turns, functions), reference)


def _has_name(function: Any) -> bool:
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _is_accepted(call: Any) -> bool:
    """Whether this is a function's name with a list of accepted values per argument."""
    if not isinstance(call, Mapping) or len(call) != 1:
        return False
    (options,) = call.values()
    return isinstance(options, Mapping) and all(isinstance(values, list) and values for values in options.values())


def _types(schema: Any) -> dict[str, Any]:
    """The types and required keys of a declaration, without descriptions."""
    if not isinstance(schema, Mapping):
        return {}
    kept = {key: schema[key] for key, kind in (("type", str), ("required", list)) if isinstance(schema.get(key), kind)}
    if isinstance(schema.get("properties"), Mapping):
        kept["properties"] = {key: _types(inner) for key, inner in schema["properties"].items()}
    return kept | ({"items": _types(schema["items"])} if "items" in schema else {})


def _example(accepted: Accepted, required: Mapping[str, Sequence[str]]) -> Call:
    ((name, options),) = accepted.items()
    return Call(name, _chosen(options, required.get(name, ())))


def _chosen(options: Mapping[str, Sequence[Any]], required: Sequence[str] = ()) -> dict[str, Any]:
    """The first accepted value of each key that may not be left out."""
    needed = {key: values for key, values in options.items() if "" not in values or key in required}
    return {key: _value(next((value for value in values if value != ""), "")) for key, values in needed.items()}


def _value(option: Any) -> Any:
    if isinstance(option, Mapping):
        return _chosen(option)
    return [_value(item) for item in option] if isinstance(option, list) else option


def accepted_calls(reference: str) -> tuple[list[Accepted], list[dict[str, Any]]] | None:
    """The accepted calls and the declared functions of a reference that `from_bfcl` wrote; None for any other."""
    if not reference.startswith(_REFERENCE):
        return None
    found = json.loads(reference)
    return found["accepted"], found["functions"]
