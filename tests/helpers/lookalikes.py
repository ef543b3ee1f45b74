"""Small generated stand-ins for the public data sets of `COT_SHARED_DATA`: same files, columns and odd cases, own text.

A test takes `shared_data(tmp_path)` as the folder and `DATA_SETS` for what reading it must give, so that one test
function covers both. No real data set has a broken tag or line; `degenerate.py` has one of each kind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from degenerate import HOSTILE

from cot_components.data.text.segments import Tags

LONG_THOUGHT = 36_000


def is_real() -> bool:
    return bool(os.environ.get("COT_SHARED_DATA"))


def shared_data(fallback: Path) -> Path:
    """The real folder if `COT_SHARED_DATA` names one, otherwise the look-alikes, written below `fallback` once."""
    if is_real():
        return Path(os.environ["COT_SHARED_DATA"])
    folder = fallback / "lookalikes"
    if not folder.exists():
        write_lookalikes(folder)
    return folder


@dataclass(frozen=True)
class Counts:
    """What reading gives: rows; traces with a thought, a blank one, a reference answer; rows dropped per reason."""

    rows: int
    thoughts: int
    blank_thoughts: int = 0
    references: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


THINK, MARCO = Tags(), Tags("<Thought>", "</Thought>")


@dataclass(frozen=True)
class DataSet:
    """A file under the shared folder, how to read it, what comes out, and how its look-alike is made."""

    path: str
    format: str
    real: Counts
    lookalike: Counts
    make: Callable[[], list[Any]]
    tags: Tags = THINK
    columns: dict[str, str] | None = None

    @property
    def expected(self) -> Counts:
        return self.real if is_real() else self.lookalike


def sentences(count: int, start: int = 0) -> str:
    return " ".join(f"First I take {i} and add {i + 1}, which gives {2 * i + 1}." for i in range(start, start + count))


def talk(question: str, reply: str, **more: Any) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}], **more}


def qwen3_small() -> list[dict]:
    pairs = [(sentences(2), "5"), (sentences(3) + "\n\nWait, let me check.\n", "7"), (HOSTILE, ""), ("Hm.", "")]
    pairs += [(sentences(1) + " \u00d7 \u2212 \u2192", "-1"), ("It says `a < b` and `c > d`.", "0.5")]
    rows = []
    for i, (thought, answer) in enumerate(pairs):
        content = f"<think>\n{thought}\n</think>\n\nThe result is **{answer or 'yes'}**.\n\nAnswer: {answer or 'yes'}"
        meta = {"id": f"m-{i}", "answer": answer, "type": "arith", "meta": {"eval_count": i}}
        rows.append(talk(f"Question {i}? {HOSTILE if i == 2 else ''}", content, **meta))
    return rows


def toolrl() -> list[dict]:
    """Tags in the prompts, other tags in some thoughts, and blanks instead of line feeds around the thought."""
    system = "Write <think> your thoughts </think>, then <tool_call> or <response>, as in <think>..</think>."
    rows = []
    for i, thought in enumerate(
        [sentences(2), "I must write <tool_call> now.", "Either <response> or </tool_call>.", HOSTILE, sentences(1)]
    ):
        call = {"name": f"tool {i}", "parameters": {"n": i}}
        response = "Which one do you mean?" if i == 4 else None
        end = f"<response> {response} </response>" if response else f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
        messages = [
            {"role": "system", "content": system},
            {
                "role": "user",
                "content": f"**History**\n<user> Do {i} </user>" + ("\n<think> old </think>" if i == 1 else ""),
            },
            {"role": "assistant", "content": f"<think> {thought} </think>\n{end}"},
        ]
        calls = [] if response else [call]
        rows.append({"id": i, "messages": messages, "think": thought, "tool_calls": calls, "response": response})
    return rows


def skythought() -> list[dict]:
    thoughts = [sentences(20), sentences(4, start=7), "Let \\(x < 2\\) & $y > 3$.", "x " * (LONG_THOUGHT // 2)]
    meta = {"complete": True}
    return [
        talk(
            f"Find $x_{i}$.",
            f"<think>\n{thought}\n</think>\n\nSo we get \\boxed{{{i}}}.",
            **{"id": f"s-{i}", "answer": str(i), "correct": i % 2 == 0, **meta},
        )
        for i, thought in enumerate(thoughts)
    ]


def marco_o1() -> list[dict]:
    """Other tags; the answer is in a wrapper of its own, which is not always closed. The wrapper is answer text."""
    endings = [
        "yes\n</Output>",
        "```\nint a;\n```\n</Output>",
        "**Expected Output:**\n[(1, 2)]",
        '<a href="#">x</a>\n</Output>',
    ]
    return [
        {
            "instruction": f"Is {i} even?\\nOptions:\\n- yes\\n- no",
            "response": f"<Thought>\nok, {sentences(2, i)}\n\n</Thought>\n<Output>\n{ending}",
        }
        for i, ending in enumerate(endings)
    ]


def gsm8k() -> list[dict]:
    answers = [
        "3 + 4 = <<3+4=7>>7\n#### 7",
        "1000 * 2 = <<1000*2=2000>>2000\nDone.\n#### 2,000",
        "Half of 1.\n#### 0.5",
    ]
    return [{"question": f"How many in case {i}?", "answer": answer} for i, answer in enumerate(answers)]


def numina() -> list[dict]:
    asked = [("human", "Solve case {}."), ("gpt", "\\boxed{{{}}}.")]
    turns = [[{"from": who, "value": said.format(i)} for who, said in asked] for i in range(4)]
    return [{"id": f"n-{i}", "conversations": conversation} for i, conversation in enumerate(turns)]


def icot_mult() -> list[str]:
    return [
        "5 6 3 2 * 7 4 3 4||5 5 5 6 1 + 0 0 6 4 9 0 ( 5 5 1 1 1 1 ) + 0 0 5 9 0 7 0 ( 5 5 6 0 2 8 0 ) + 0 0 0 0 6 4 9 0"
        " #### 5 5 6 0 8 2 0 1",
        "1 0 * 1 0||1 0 0 + 0 0 0 0 #### 1 0 0 0",
    ]


def icot_gsm8k() -> list[str]:
    """Some lines have no reasoning at all."""
    return [
        "Ann has 3 coins and finds 4. How many?||<<3+4=7>> #### 7",
        "Ann buys 2 for $5 each, then 1 more. Cost?||<<2*5=10>> <<10+5=15>> #### 15",
        "Twice what Bob has is 40. How many has Bob?|| #### 20",
    ]


def glaive() -> list[dict]:
    """Several turns, calls and observations."""
    names = ("add", "Look up", "zip.code")
    rows = []
    for i, name in enumerate(names):
        value = json.dumps({"name": name, "arguments": {"n": 37 * i + 4}})
        call = [{"from": "function_call", "value": value}, {"from": "observation", "value": "{}"}]
        question = {"from": "human", "value": f"Do {name}."}
        answer = {"from": "gpt", "value": f"Done, it was {37 * i + 4}."}
        shapes = [[question, answer], [question, *call, answer], [question, answer, question, *call, answer]]
        rows.append({"conversations": shapes[i], "tools": "[]"})
    return rows


def math() -> list[dict]:
    level = {"level": "Level 3", "type": "Algebra"}
    return [{"problem": f"What is $x_{i}$?", **level, "solution": f"$\\boxed{{{i}}}$", "idx": i} for i in range(3)]


def tau_bench() -> list[dict]:
    """OpenAI's calls beside a text or none, results, and a user's goodbye at the end; one trace has no call at all."""
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"n": 1, "who": "Ann"}'}}]
    user, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    beside = [{"role": "assistant", "content": text, "tool_calls": calls} for text in (None, "Let me look.")]
    result = {"role": "tool", "tool_call_id": "1", "name": "f", "content": '{"found": [1, 2]}'}
    called = [turn for call in beside for turn in (user, call, result, answer)]
    trajectories = [[*called, user], [user, beside[0], result], [user, answer, user]]
    return [{"task_id": i, "traj": trajectory} for i, trajectory in enumerate(trajectories)]


LAST_TURN = "the last turn is not the assistant's"
DATA_SETS = (
    DataSet("think_qwen3_small/messages.jsonl", "messages", Counts(329, 329, 0, 266), Counts(6, 6, 0, 4), qwen3_small),
    DataSet("think_toolrl/messages.jsonl", "messages", Counts(400, 400), Counts(5, 5), toolrl),
    DataSet("think_skythought/messages.jsonl", "messages", Counts(1524, 1524, 0, 1524), Counts(4, 4, 0, 4), skythought),
    DataSet("think_marco_o1/CoT_demo.json", "instruction", Counts(125, 125), Counts(4, 4), marco_o1, tags=MARCO),
    DataSet("gsm8k/train.jsonl", "gsm8k", Counts(7473, 7473, 0, 7473), Counts(3, 3, 0, 3), gsm8k),
    DataSet("icot_mult/4_by_4/valid.txt", "icot", Counts(1000, 1000, 0, 1000), Counts(2, 2, 0, 2), icot_mult),
    DataSet("icot_gsm8k/valid.txt", "icot", Counts(500, 500, 6, 500), Counts(3, 3, 1, 3), icot_gsm8k),
    DataSet("numina_cot_1k/numina_cot_sharegpt_data_1k.jsonl", "sharegpt", Counts(1000, 0), Counts(4, 0), numina),
    DataSet("glaive_toolcall/glaive_toolcall_en_demo.json", "sharegpt", Counts(300, 0), Counts(3, 0), glaive),
    DataSet(
        "math/math_test_minus500.jsonl",
        "instruction",
        Counts(4500, 0),
        Counts(3, 0),
        math,
        columns={"instruction": "problem", "response": "solution"},
    ),
    DataSet(
        "tau_bench/gpt-4o-airline.json",
        "messages",
        Counts(200, 0, dropped={LAST_TURN: 18}),
        Counts(3, 0, dropped={LAST_TURN: 1}),
        tau_bench,
        columns={"messages": "traj"},
    ),
)


def write_lookalikes(folder: Path) -> None:
    """All look-alikes, laid out as the shared folder is."""
    for data_set in DATA_SETS:
        path, rows = folder / data_set.path, data_set.make()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            text = json.dumps(rows, indent=4, ensure_ascii=False)
        else:
            text = "".join(
                (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows
            )
        path.write_bytes(text.encode())


def write_magpie(folder: Path, rows_per_shard: tuple[int, ...] = (3, 2)) -> None:
    """A folder in hub layout with the main columns of Magpie-Reasoning-V2: Parquet shards, inline tags."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: llama3.3\nlanguage:\n- en\n---\n\n# Generated\n")
    number = 0
    for shard, num_rows in enumerate(rows_per_shard):
        rows = []
        for _ in range(num_rows):
            prompt, response = f"What is {number} + 1?", f"<think>\n{sentences(2)}\n</think>\n\n\\boxed{{{number + 1}}}"
            turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": response}]
            rows.append({"uuid": str(number), "instruction": prompt, "response": response, "conversations": turns})
            number += 1
        pq.write_table(
            pa.Table.from_pylist(rows), folder / f"data/train-{shard:05}-of-{len(rows_per_shard):05}.parquet"
        )
