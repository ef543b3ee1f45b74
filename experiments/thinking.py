"""Does a model that thinks still think when it is asked to, after training on answers without thoughts?

The start has learnt the small tasks with a thought for each. Its chat template is given a switch: with
`enable_thinking=false` the prompt ends in an empty thought. It is then trained for 50 steps of 32 rows on other tasks.

| rows | contents |
|---|---|
| answers only | a question and its answer, no thought |
| one family thinks | the same questions; those of one of the four families of tasks (chain) keep their thoughts |

| arm | what it learns from an answer without a thought |
|---|---|
| start | nothing: it is not trained |
| template | `empty_thought: template`: the answer, after a prompt that ends in the empty thought |
| none | `empty_thought: none`: the answer, after the prompt that asks for a thought |
| refuse | `empty_thought: refuse`, bad rows dropped: nothing. With answers only no row is left, so that is the start |
| block written | to write an empty thought: the data contain it, and the template has no switch |

Every model is asked 240 held-out questions twice, with thinking on and off, and answers greedily.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cot_components.data.generated.tasks import make_problems
from cot_components.data.text.templates import read_template
from cot_components.errors import UserError
from cot_components.evaluation.saved import read_evaluation
from cot_components.files import sha256
from experiments.blur import BLUR, adapted
from experiments.runner import once, recipe
from experiments.starts import QUIET, Start, student
from experiments.study import Cell, Study

BLOCK = "<think>\n\n</think>\n\n"
SWITCH = (
    "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
"""Appended to a chat template without a switch, adds one."""
ARMS = ("start", "template", "none", "refuse", "block written")
SETTINGS: dict[str, str | None] = {"answers only": None, "one family thinks": "chain"}
"""Setting -> the family whose rows have a thought."""


class Scale(NamedTuple):
    """What is trained, and how.

    start:     the model that thinks
    training:  config of `bt_sft`, and overrides
    asking:    overrides of `cot_eval/quickstart`
    num_rows:  trained on
    """

    start: Start
    training: Sequence[str]
    asking: Sequence[str]
    num_rows: int


_SHORT = ["optimizer.lr=1e-3", "lr_scheduler.num_warmup_steps=10", "epochs=1"]
TINY = Scale(student, ["bt_sft/quickstart", f"{BLUR}.ratio=0", *_SHORT], [], num_rows=1600)


def cell_of(scale: Scale, cell: Cell) -> Mapping[str, float]:
    """Train the start once, then ask the questions with thinking on and off."""
    start, out = scale.start(cell), cell.fresh_folder()
    out.mkdir(parents=True)
    source = read_template(start)
    if source is None:
        raise UserError(f"{start} has no chat template")
    (out / "switched.jinja").write_text(source.rstrip("\n") + SWITCH, encoding="utf-8")
    untrained = cell.arm == "start" or (cell.arm == "refuse" and not SETTINGS[cell.setting])
    if untrained:
        words = ["thinking", str(start), *map(sha256, sorted(start.glob("*.safetensors"))), *scale.asking]
        figures = once(cell, words, lambda: ask_twice(scale, start, out))
    else:
        figures = ask_twice(scale, train(scale, cell, start, out), out)
    shutil.rmtree(out)
    return figures


def ask_twice(scale: Scale, model: Path, out: Path) -> dict[str, float]:
    """The results of `ask` with thinking on and off."""
    on, off = ask(scale, model, "true", out), ask(scale, model, "false", out)
    return {f"{name}_on": value for name, value in on.items()} | {f"{name}_off": value for name, value in off.items()}


def train(scale: Scale, cell: Cell, start: Path, out: Path) -> Path:
    """The model that an arm trains."""
    written = cell.arm == "block written"
    rows = out / "rows.jsonl"
    write_rows(rows, scale.num_rows, cell, block=BLOCK if written else "")
    config, *overrides = scale.training
    recipe(
        "bt_sft",
        config,
        *(*QUIET, *overrides, f"seed={cell.seed}", f"output_dir={out / 'run'}"),
        *(*adapted(start, config), f"tokenizer.path={start}", f"dataset.source={rows}", "dataset.max_rows=null"),
        *([] if written else [f"dataset.template={out / 'switched.jinja'}", f"dataset.empty_thought={cell.arm}"]),
        *(["dataset.strict=false", "dataset.max_dropped=1.0"] if cell.arm == "refuse" else []),
    )
    return out / "run" / "model"


def write_rows(path: Path, num_rows: int, cell: Cell, *, block: str) -> None:
    """Questions with their answers; `block` is put before those without a thought."""
    problems = make_problems(split="train", count=num_rows, seed=1000 + cell.seed)
    answers = [p.response if p.family == SETTINGS[cell.setting] else f"{block}Answer: {p.answer}" for p in problems]
    rows = [{"prompt": p.question, "completion": a} for p, a in zip(problems, answers, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def ask(scale: Scale, model: Path, thinking: str, out: Path) -> dict[str, float]:
    """Share of answers with a thought, and of right answers."""
    asked = out / f"asked_{thinking}"
    told = [f"template={out / 'switched.jinja'}", f"evaluation.thinking={thinking}", f"output_dir={asked}"]
    recipe("cot_eval", "cot_eval/quickstart", f"model.path={model}", *told, *scale.asking)
    result = read_evaluation(asked / "evaluation.json")
    return {"thinks": float(result.metrics()["thought_rate"]), "right": float(result.metrics()["answer_accuracy"])}


def cell(cell: Cell) -> Mapping[str, float]:
    """At the size of the quickstart."""
    return cell_of(TINY, cell)


STUDY = Study(
    name="thinking",
    question="Trained on answers without thoughts, does a model still think when it is asked to?",
    answer="Not after answers alone, unless they are refused: under `none`, or when it learns to write the empty "
    "thought, it never thinks again, and under `template` it does so in 36 +- 71 % of its answers; with thoughts in "
    "one family of four it thinks in 98 +- 8 % under `template`, and in 25 % when answers follow the prompt that asks "
    "for a thought.",
    findings="The thoughts that remain are worth less: under `template` 3.5 % of the answers are right after answers "
    "alone, and 20 % with thoughts in one family, against 53 +- 86 % before. `refuse` trains on thoughts or not at "
    "all and keeps all of them; 41 % are right after the one family alone. The start varies a lot by seed (75, 72 and "
    "13 % right), so no difference in accuracy is clear with three seeds. It has 0.2 million parameters and has never "
    "seen an empty thought before: asked not to think, it thinks in 46 % of its answers. A published model with a "
    "switch has been trained on it and may keep more. One learning rate, not tuned.",
    about=__doc__,
    model="Llama, 0.2 M, after one epoch of the tasks aloud",
    effect=("thinks_on", "none", "answers only"),
    arms=ARMS,
    settings=tuple(SETTINGS),
    setting_label="rows",
    metrics={
        "thinks_on": "thinks when it is asked to",
        "right_on": "right when it is asked to think",
        "thinks_off": "thinks when it is asked not to",
        "right_off": "right when it is asked not to think",
    },
    percent=("thinks_on", "right_on", "thinks_off", "right_off"),
    cell=cell,
    seeds=3,
)
