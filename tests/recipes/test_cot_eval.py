"""`tune run cot_eval`, as typed."""

import json
import shutil

from bfcl_for_tests import write_bfcl
from commands import must, tune, user_error


def test_it_scores_a_checkpoint(hub, tmp_path):
    printed = must(
        tune(
            "cot_eval",
            "--config",
            "cot_eval/quickstart",
            f"model.path={hub / 'model'}",
            "evaluation.max_rows=3",
            "evaluation.max_new_tokens=6",
            "evaluation.temperature=1.0",
            "evaluation.num_samples=2",
            'output_dir="scores [/b] $5"',  # any name will do
            cwd=tmp_path,
        )
    )
    assert "answers correct" in printed and "scores [/b] $5/evaluation.json" in printed
    saved = json.loads((tmp_path / "scores [/b] $5" / "evaluation.json").read_text())
    assert len(saved["examples"]) == 6 and "answer_accuracy" in saved["metrics"]


def test_any_order_of_rows_gives_one_result(hub, tmp_path):
    """Of a template that opens the thought of some rows only."""
    (tmp_path / "sometimes.jinja").write_text(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}"
        "<|assistant|>{% if 'why' in messages[0].content %}<think>{% endif %}{% endif %}"
    )
    asked = [("what", "Answer: 2"), ("why", "<think>one more</think>Answer: 2"), ("when", "Answer: 2")]
    rows = [{"prompt": f"{word} is 1 + 1?", "completion": said} for word, said in asked]
    results = []
    for order in ((0, 1, 2), (1, 2, 0)):
        data = tmp_path / f"rows_{order[0]}.jsonl"
        data.write_text("".join(json.dumps(rows[i]) + "\n" for i in order))
        printed = must(
            tune(
                "cot_eval",
                "--config",
                "cot_eval/quickstart",
                f"model.path={hub / 'model'}",
                f"template={tmp_path / 'sometimes.jinja'}",
                f"output_dir={tmp_path / data.stem}",
                f"evaluation.source={data}",
                "evaluation.split=train",
                "evaluation.max_new_tokens=6",
                "evaluation.comparer=math",
                "evaluation.temperature=1.0",
                cwd=tmp_path,
            )
        )
        assert "3 examples" in printed and "held-out" not in printed and "cut by max_new_tokens" in printed
        saved = json.loads((tmp_path / data.stem / "evaluation.json").read_text())
        results.append({e["prompt"][0]["content"]: e["completion"] for e in saved["examples"]})
    assert results[0] == results[1]
    opened = {prompt: completion.startswith("<think>") for prompt, completion in results[0].items()}
    assert [opened[row["prompt"]] for row in rows] == [False, True, False]


def test_calls_are_scored_against_all_that_are_right(hub, tmp_path):
    model = shutil.copytree(hub / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    start = [f"model.path={model}", "device=cpu", "dtype=fp32", "output_dir=calls"]
    asked = [f"evaluation.source={write_bfcl(tmp_path / 'bfcl')}", "evaluation.subset=simple_python parallel"]
    words = ["--config", "cot_eval/bfcl", *start, *asked, "evaluation.max_new_tokens=4"]
    printed = must(tune("cot_eval", *words, cwd=tmp_path))
    assert "answers correct" in printed and "3 examples; 95 % intervals" in printed
    saved = json.loads((tmp_path / "calls" / "evaluation.json").read_text())
    assert [example["correct"] for example in saved["examples"]] == [False] * 3
    assert "Rome, Italy" in saved["examples"][0]["reference"]


def test_greedy_samples_are_refused(hub, tmp_path):
    result = tune(
        "cot_eval",
        "--config",
        "cot_eval/quickstart",
        f"model.path={hub / 'model'}",
        "evaluation.num_samples=2",
        cwd=tmp_path,
    )
    assert "num_samples above 1 needs a temperature" in user_error(result)


def test_two_processes_would_write_one_file(hub, tmp_path):
    start = f"model.path={hub / 'model'}"
    result = tune("--nproc_per_node", "2", "cot_eval", "--config", "cot_eval/quickstart", start, cwd=tmp_path)
    assert result.returncode and "cot_eval runs as one process, this is 2" in result.stderr
