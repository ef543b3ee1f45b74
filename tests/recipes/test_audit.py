"""`cot audit`: a file with one row of each fault, the exit code, the page, what a model makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from thinking import THINKING

from cot_components.cli.main import main
from cot_components.data.rows.scores import open_scores

GOOD = ("1 + 1?", "<think>one and one more is two of them, as I have just said</think>Answer: 2")
ROWS = (
    GOOD,
    ("2 + 2?", "<think>two and two more is four of them</think>Answer: 4"),
    ("3 + 1?", "<think>never closed"),
    ("4 + 1?", "Answer: 5"),
    ("5 + 1?", "<think> </think>Answer: 6"),
    ("6 + 1?", "<think>it is <answer>7</answer> here</think>Answer: 7"),
    ("write <answer>?", "<think>they want <answer> from me</think>ok"),
    ("7 + 1?", f"<think>{'I count it up once again. ' * 6}</think>Answer: 8"),
    ("8 + 1?", "<think>eight and one more is nine of them</think>so the sum ="),
    GOOD,
    ("2 + 2?", "<think>double it and you get there</think>Answer: 4"),
    ("9 + 1?", "<think>one and one more is two of them, as I have just said</think>Answer: 10"),
)
FOUND = {
    "left out: <think> is never closed": [3],
    "no thought, and no tags": [4],
    "an empty thought between its tags, which is learnt": [5],
    "tags inside the thought": [6],
    "a thought that repeats one sentence again and again": [8],
    "an answer that seems cut": [9],
    "the thought of an earlier row": [10, 12],
    "the same as an earlier row": [10],
    "the prompt of an earlier row, another answer": [11],
}


@pytest.fixture
def audit(hub, tmp_path, monkeypatch, capsys):
    """The command on rows of one's own: exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(rows, *words: str | Path, tested=(("7 * 7?", "49"),), error: bool = False) -> tuple[int, str]:
        for name, some in {"train.jsonl": rows, "test.jsonl": tested}.items():
            lines = (json.dumps({"instruction": prompt, "response": response}) for prompt, response in some)
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        given = [f"tokenizer.path={hub / 'model'}", "dataset.source=train.jsonl", "dataset.max_rows=null"]
        given += ["dataset_val=null", "evaluation.source=test.jsonl", "evaluation.split=train", "output_dir=out"]
        code = main(["audit", "bt_sft/quickstart", *given, *map(str, words)])
        said = capsys.readouterr()
        return code, said.err if error else said.out

    return run


def places(printed: str, about: str) -> list[int]:
    """Lines of the training file behind a finding; none where it is not told."""
    line = next((line for line in printed.splitlines() if f"x {about}:" in line), "")
    return [int(number) for number in re.findall(r"train\.jsonl:(\d+)", line)]


def test_every_finding_names_its_rows(audit, tmp_path):
    code, printed = audit(
        ROWS, "dataset.transforms.blur.ratio=1", "dataset.transforms.blur.keep_first=0", "--out", "a.html"
    )
    assert code == 0
    for about, lines in FOUND.items():
        assert places(printed, about) == lines, about
    assert "12 rows read, 11 kept, 1 dropped" in printed and "0 of 1 questions of the evaluation" in printed
    shares = re.search(r"as encoded: ([\d.]+)% of (\d+) tokens; blur: ([\d.]+)% of \2 tokens", printed)
    assert shares is not None and 0 < float(shares[3]) < float(shares[1])
    page = (tmp_path / "a.html").read_text()
    assert all(about.replace("<", "&lt;").replace(">", "&gt;") in page for about, lines in FOUND.items() if lines)


def test_rows_that_selectors_leave_out_are_named_with_the_reason(audit):
    one_each = "dataset.select={one: {_component_: cot_components.selectors.AtRandom, per_prompt: 1}}"
    _, printed = audit([GOOD, *ROWS[3:]], one_each)
    (gone,) = places(printed, "left out by select.one: another row of the prompt was drawn")
    assert gone in (1, 8) and "10 rows read, 10 kept" in printed and "9 trained on" in printed


def test_strict_ends_with_1_where_something_is_wrong(audit):
    assert audit(ROWS, "--strict")[0] == 1
    fine = [GOOD, ROWS[1]]
    code, printed = audit(fine, "--strict")
    assert code == 0 and re.search(r"wrong +nothing", printed)
    for words, tested, about in (
        (
            ["dataset.transforms.weigh._component_=cot_components.transforms.ByRole", NO_ROLE],
            (),
            "no label left after the transforms",
        ),
        (["packed_tokens=20"], (), "longer than packed_tokens, 20"),
        (["dataset_val=test.jsonl"], (GOOD,), "a row of dataset_val has the question of a training row"),
        ([], (GOOD,), "a question of the evaluation is trained on"),
    ):
        code, printed = audit(fine, "--strict", *words, tested=tested or (("7 * 7?", "Answer: 49"),))
        assert code == 1 and about in printed, about


def test_an_empty_thought_that_the_prompt_holds_is_told_as_such(audit, tmp_path):
    path = tmp_path / "switched.jinja"
    path.write_text(THINKING["switched"], encoding="utf-8")
    code, printed = audit(ROWS[3:5], *(f"dataset.{key}" for key in (f"template={path}", "empty_thought=template")))
    assert code == 0 and places(printed, "no thought, and no tags") == []
    assert places(printed, "no thought: the prompt ends in an empty one, which is not learnt") == [
        1,
        2,
    ]
    assert places(printed, "an empty thought between its tags, which is learnt") == []


NO_ROLE = "dataset.transforms.weigh.factors={thought: 0, answer: 0, think_open: 0, think_close: 0}"


def test_a_model_says_which_rows_it_finds_unlikely(audit, hub):
    rows = [GOOD, ROWS[1], ("7?", "<think>zzq%%%&&&@@@ ###!</think>~~~{{{")]
    code, printed = audit(rows, "--model", hub / "model", "loss._component_=cot_components.losses.dft")
    assert code == 0
    (folder,) = Path("out/audit").iterdir()
    scores = open_scores(folder)
    nll, entropy = (scores.finished(name).astype(np.float64) for name in ("nll", "entropy"))
    p = np.exp(-nll)
    wanted = f"all: mean probability {p.mean():.3f}, entropy {entropy.mean():.3f}, {(p > 0.9).mean():.1%} above 0.9, "
    assert wanted + f"{(p < 0.1).mean():.1%} below 0.1" in printed
    means = {}
    for row in range(len(rows)):
        values = scores.column("nll")[scores.row_start[row] : scores.row_start[row + 1]]
        means[row] = -values[~np.isnan(values)].astype(np.float64).mean()
    worst = min(means, key=means.__getitem__)
    assert f"unlikely     train.jsonl:{worst + 1} ({means[worst]:.2f})" in printed and "studied" in printed
    assert "studied" not in audit(rows, "--model", hub / "model")[1]


def test_only_known_components_are_built(audit, tmp_path):
    (tmp_path / "rows_of_mine.py").write_text("def rows(tokenizer, *, source: str, max_rows: int): ...\n")
    code, said = audit([GOOD], "dataset._component_=rows_of_mine.rows", error=True)
    assert code == 2 and "--allow rows_of_mine" in said
