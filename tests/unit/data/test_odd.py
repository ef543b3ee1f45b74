"""What may be wrong with texts and rows: each rule on both sides of its border, and against a slow twin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rows import random_rows
from templates_for_tests import FAMILY

from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.read.messages import Message
from cot_components.data.rows.odd_rows import prompt_hashes, seen_before, with_gap, without_end, without_role
from cot_components.data.rows.store import PER_TOKEN, Rows
from cot_components.data.text.oddities import goes_round, looks_cut, stray_tags
from cot_components.data.text.segments import Tags
from cot_components.data.text.template_habits import adds, loses_earlier_thought
from cot_components.datasets import chat_format
from cot_components.models import hf_tokenizer
from cot_components.roles import Role


@pytest.mark.parametrize(
    ("cut", "text"),
    [
        *(
            (True, text)
            for text in ("so x =", "Let f(", "first,", "Answer: ", "```py\na = 1\n", r"\boxed{\frac{1", "a\\")
        ),
        *((False, text) for text in ("Paris", "**Paris**", "```py\na\n```", r"\boxed{\frac{1}{2}}", "1.", "", "x - y")),
    ],
)
def test_answers_that_seem_cut(cut: bool, text: str) -> None:
    assert looks_cut(text) is cut


def test_thoughts_that_go_round() -> None:
    again = "Wait, let me check that once more. "
    assert goes_round(again * 4) and goes_round("A different beginning of it all. " + again * 5)
    assert not goes_round(again * 3) and not goes_round("Hm. " * 50) and not goes_round("")
    assert not goes_round(again * 4 + "x" * 400)


def test_tags_of_others_are_found() -> None:
    text = "<think>a</think> <answer>1</answer> <|im_end|> [THINK] <b> x<y>z </Reasoning>"
    assert stray_tags(text, Tags()) == ["<answer>", "</answer>", "<|im_end|>", "[THINK]", "</Reasoning>"]
    assert "<answer>" not in stray_tags(text, Tags("<answer>", "</answer>"))


def some_rows() -> Rows:
    flat = random_rows(30, vocabulary=3).flat(range(30))
    columns = {name: getattr(flat, name).astype(kind) for name, kind in PER_TOKEN.items()}
    return Rows(**columns, row_start=flat.row_start, ids=flat.ids)


def test_rows_by_their_tokens() -> None:
    rows = some_rows()
    parts = [slice(a, b) for a, b in zip(rows.row_start, rows.row_start[1:], strict=False)]
    assert without_end(rows, [1, 2]).tolist() == [i for i, p in enumerate(parts) if rows.tokens[p][-1] == 0]
    assert without_role(rows, Role.THOUGHT).tolist() == [
        i for i, p in enumerate(parts) if Role.THOUGHT not in rows.roles[p]
    ]
    prompts = [rows.tokens[p][rows.roles[p] == Role.PROMPT].tolist() for p in parts]
    again = [i for i, prompt in enumerate(prompts) if prompt in prompts[:i]]
    assert seen_before(prompt_hashes(rows)).tolist() == again and again
    half = [i for i, prompt in enumerate(prompts) if prompt in prompts[:10]]
    assert seen_before(prompt_hashes(rows), prompt_hashes(rows)[:10]).tolist() == half


def test_a_thought_without_its_middle_is_found() -> None:
    rows = some_rows()
    assert not len(with_gap(rows))
    long = int(np.argmax(rows.lengths))
    counters = rows.counters.copy()
    here = np.flatnonzero(rows.roles[: rows.row_start[long + 1]] == Role.THOUGHT)[-3:]
    counters[here] += 5
    assert with_gap(replace(rows, counters=counters)).tolist() == [long]


def test_what_a_template_adds_and_loses(tmp_path: Path) -> None:
    default = (
        "{%- if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{%- endif %}"
        + FAMILY["chatml, strips"]
    )
    write_byte_tokenizer(tmp_path)
    tokenizer = hf_tokenizer(str(tmp_path))
    turns = [Message("user", "a"), Message("assistant", "<think>why</think>b"), Message("user", "c")]
    turns.append(Message("assistant", "<think>so</think>d"))
    for source, without, with_system, loses in (
        (default, "You are helpful.", "", True),
        (FAMILY["chatml, keeps"], "", "", False),
        (FAMILY["chatml, keeps, dated"], "Today is 26 July 2024.", "Today is 26 July 2024.", False),
    ):
        path = tmp_path / "template.jinja"
        path.write_text(source)
        chat = chat_format(tokenizer, template=str(path))
        spelled = [
            adds(chat, system=system).replace("<|im_start|>", "").replace("<|im_end|>", "") for system in (False, True)
        ]
        assert [" ".join(words.split()) for words in spelled] == [without, with_system]
        assert loses_earlier_thought(chat, turns) is loses and not loses_earlier_thought(chat, turns[2:])
