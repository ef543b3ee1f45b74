"""A small folder in BFCL's own layout."""

from __future__ import annotations

import json
from pathlib import Path

BOOK = {
    "name": "book",
    "description": "Books seats.",
    "parameters": {
        "type": "dict",
        "properties": {"city": {"type": "string"}, "seats": {"type": "integer"}, "meal": {"type": "string"}},
        "required": ["city", "seats"],
    },
}
CANCEL = {
    "name": "cancel",
    "parameters": {
        "type": "dict",
        "properties": {
            "number": {"type": "integer"},
            "class": {"type": "string"},
            "fees": {"type": "dict", "properties": {"max": {"type": "float"}, "currency": {"type": "string"}}},
        },
        "required": ["number"],
    },
}
ROME = {"book": {"city": ["Rome", "Rome, Italy"], "seats": [2], "meal": ["", "vegan"]}}
ONE_EACH = [{"book": {"city": [city], "seats": [1], "meal": [""]}} for city in ("Rome", "Oslo")]
FEES = {"cancel": {"number": [7], "class": [""], "fees": [{"max": [10], "currency": ["", "EUR"]}]}}


def write_bfcl(folder: Path) -> Path:
    """`folder` with three questions: of any of several values, of two calls, of an object with an optional key."""
    parts = {
        "simple_python": [("s0", "Two seats to Rome, please.", [BOOK, CANCEL], [ROME])],
        "parallel": [
            ("p0", "A seat to Rome and one to Oslo.", [BOOK], ONE_EACH),
            ("p1", "Cancel number 7 for at most 10 euros.", [CANCEL], [FEES]),
        ],
    }
    (folder / "possible_answer").mkdir(parents=True, exist_ok=True)
    for part, rows in parts.items():
        asked = [
            {"id": key, "question": [[{"role": "user", "content": text}]], "function": functions}
            for key, text, functions, _ in rows
        ]
        right = [{"id": key, "ground_truth": calls} for key, _, _, calls in rows]
        for where, lines in ((folder, asked), (folder / "possible_answer", right)):
            (where / f"BFCL_v4_{part}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
