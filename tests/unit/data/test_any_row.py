"""Whatever JSON stands where a format wants something else: a row is read or refused, and what is read is whole."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cot_components.data.bad_rows import RowError
from cot_components.data.read.arrow import as_structs
from cot_components.data.read.formats import FORMATS, detect, read_row
from cot_components.data.read.turns import PARTS, ROLES

CALL = {"name": "f", "arguments": {"a": 1}}
KEYS = st.sampled_from(
    [
        *("role", "from", "content", "value", "text", "tool_calls", "function_call", "reasoning", "weight"),
        *("type", "input", "thinking", "name", "arguments"),
    ]
)
TEXTS = st.sampled_from(
    [
        *("", "a", "[", "\ud800", "Thought: x", "c #### 1", "q||c #### 1", "<think>", '"name": "f"'),
        *(json.dumps(CALL), f"<tool_call>{json.dumps(CALL)}</tool_call>", "<tool_call>"),
        *("<tool_response>1</tool_response>", *ROLES, *PARTS["text"], *PARTS["thought"], *PARTS["call"]),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from([CALL, [CALL]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(sorted(ROLES))},
        optional={
            "content": VALUES,
            "tool_calls": VALUES,
            "function_call": VALUES,
            "reasoning": VALUES,
            "weight": VALUES,
        },
    )
    | VALUES,
    max_size=5,
)


def columns_of(name: str) -> st.SearchStrategy[dict[str, Any]]:
    value = VALUES | TURNS | TURNS.map(lambda turns: json.dumps(turns, allow_nan=True))
    required, optional = FORMATS[name].required, FORMATS[name].optional
    return st.fixed_dictionaries(dict.fromkeys(required, value), optional=dict.fromkeys(optional, value))


ROWS = st.sampled_from(sorted(FORMATS)).flatmap(columns_of)


@given(ROWS, st.booleans())
def test_any_row_is_read_whole_or_refused(row, is_typed):
    row = as_structs(row) if is_typed else row
    try:
        content = read_row(row, FORMATS[detect(row, {})], {})
    except RowError as fault:
        assert fault.reason and "\n" not in fault.reason
        return
    spoken = [message for message in content.messages if message.role != "system"]
    assert spoken[0].role == "user" and spoken[-1].role == "assistant"
    for message in content.messages:
        (message.content + (message.thought or "")).encode()
        assert message.role in set(ROLES.values()) and message.weight >= 0
        assert message.content.strip() or message.role in ("system", "tool")
        assert message.thought is None or message.role == "assistant"
