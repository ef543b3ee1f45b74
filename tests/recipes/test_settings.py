"""Settings that are no method: what must change nothing changes nothing, the rest trains; and `cot_eval`."""

import json
import shutil

import pytest
import torch
from bfcl import write_bfcl
from commands import tune
from lookalikes import shared_data
from tiny_runs import run

from cot_components.runs.log import read_log

SHORT = ["dataset.max_rows=48", "dataset_val=null", "evaluation=null", "epochs=1", "batch_size=8"]


def losses(hub, out, *overrides, **options):
    words = [f"tokenizer.path={hub / 'model'}", *SHORT, "log_every_n_steps=1", f"output_dir={out}", *overrides]
    assert run("bt_sft", words, **options).code == 0
    return [record["loss"] for record in read_log(out) if "loss" in record]


@pytest.fixture(scope="module")
def plain(hub, tmp_path_factory):
    return losses(hub, tmp_path_factory.mktemp("settings") / "plain")


@pytest.mark.parametrize(
    ("override", "tolerance"),
    [("num_workers=2", 0), ("enable_activation_checkpointing=true", 1e-5), ("dtype=bf16", 2e-2)],
)
def test_what_must_change_nothing(hub, tmp_path, plain, monkeypatch, override, tolerance):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    found = losses(hub, tmp_path / "out", override)
    assert len(plain) == 6 and found == pytest.approx(plain, rel=tolerance, abs=0)
    assert (found != plain) == (override == "dtype=bf16") or tolerance == 1e-5


def test_spans_are_drawn_alike_by_workers(hub, tmp_path):
    span = ["dataset.transforms.blur.granularity=span", "epochs=2"]
    one, two = (losses(hub, tmp_path / f"{n}", *span, f"num_workers={n}") for n in (0, 2))
    assert len(one) == 12 and one == two


def test_packs_and_a_constant_rate(hub, tmp_path, plain):
    packed = losses(hub, tmp_path / "packed", "packed_tokens=600")  # longer than the model's context
    assert len(packed) > 4 and packed[-1] < packed[0]
    logger = f"{{_component_: torchtune.training.metric_logging.DiskLogger, log_dir: '{tmp_path / 'logs'}'}}"
    constant = losses(hub, tmp_path / "constant", "lr_scheduler=null", f"metric_logger={logger}")
    assert constant[-1] < plain[-1]  # no warm-up: it has learned more after six steps
    assert "loss_thought" in next((tmp_path / "logs").glob("*.txt")).read_text()


@pytest.mark.parametrize(("every", "logged"), [(0, 0), (100, 1)])
def test_a_run_shorter_than_its_log_is_finished(hub, tmp_path, every, logged):
    """Nothing evaluated, and no step but the last is due: the run ends well, with all that it leaves."""
    out, settings = tmp_path / "short", [f"log_every_n_steps={every}", "log_blurred_every=0"]
    assert len(losses(hub, out, *settings, pictures=True)) == logged
    assert (out / "report.html").exists() and (out / "curves.png").exists() == (logged > 0)


def test_thinking_traces_of_a_real_model(hub, tmp_path, capsys):
    """A look-alike where the data is not at hand."""
    source = shared_data(tmp_path / "data") / "think_qwen3_small" / "messages.jsonl"
    words = "tokenizer.max_seq_len=1536 model.max_seq_len=2048 dataset.too_long=cut_thought dataset.strict=false "
    words += "dataset.max_dropped=0.9 dataset_val=0.02 evaluation.source=generated evaluation.max_rows=2 "
    words += "evaluation.max_new_tokens=4 evaluate_every_n_steps=null epochs=1 batch_size=1 max_steps_per_epoch=4 "
    words += "log_every_n_steps=1 log_blurred_every=1"
    paths = [f"dataset.source={source}", f"tokenizer.path={hub / 'model'}", f"output_dir={tmp_path / 'out'}"]
    assert run("bt_sft", [*paths, *words.split()]).code == 0
    printed = capsys.readouterr().out
    assert "rows read" in printed and "thought " in printed
    records = [record for record in read_log(tmp_path / "out") if "loss" in record]
    assert len(records) == 4
    for record in records:
        assert all(0 < record[f"loss_{part}"] < 10 for part in ("thought", "blurred", "answer"))


def score(hub, out, *words, config=None):
    """Examples and metrics of `cot_eval` on the tiny model."""
    few = ["evaluation.max_new_tokens=6", "evaluation.temperature=1.0", f"output_dir={json.dumps(str(out))}"]
    assert run("cot_eval", [f"model.path={hub / 'model'}", *few, *words], config=config).code == 0
    return json.loads((out / "evaluation.json").read_text())


def test_cot_eval_scores_a_checkpoint(hub, tmp_path, capsys):
    out = tmp_path / "scores [/b] $5"  # any name will do
    saved = score(hub, out, "evaluation.max_rows=3", "evaluation.num_samples=2")
    printed = capsys.readouterr().out
    assert "answers correct" in printed and "scores [/b] $5/evaluation.json" in printed.replace("\n", "")
    assert len(saved["examples"]) == 6 and "answer_accuracy" in saved["metrics"]


def test_any_order_of_rows_gives_one_result(hub, tmp_path, capsys):
    """Of a template that opens the thought of some rows only."""
    template = tmp_path / "sometimes.jinja"
    template.write_text(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}"
        "<|assistant|>{% if 'why' in messages[0].content %}<think>{% endif %}{% endif %}"
    )
    asked = [("what", "Answer: 2"), ("why", "<think>one more</think>Answer: 2"), ("when", "Answer: 2")]
    rows = [{"prompt": f"{word} is 1 + 1?", "completion": said} for word, said in asked]
    results = []
    for order in ((0, 1, 2), (1, 2, 0)):
        data = tmp_path / f"rows_{order[0]}.jsonl"
        data.write_text("".join(json.dumps(rows[i]) + "\n" for i in order))
        source = [f"template={template}", f"evaluation.source={data}", "evaluation.split=train"]
        saved = score(hub, tmp_path / data.stem, *source, "evaluation.comparer=math")
        printed = capsys.readouterr().out
        assert "3 examples" in printed and "held-out" not in printed and "cut by max_new_tokens" in printed
        results.append({e["prompt"][0]["content"]: e["completion"] for e in saved["examples"]})
    assert results[0] == results[1]
    opened = {prompt: completion.startswith("<think>") for prompt, completion in results[0].items()}
    assert [opened[row["prompt"]] for row in rows] == [False, True, False]


def test_calls_are_scored_against_all_that_are_right(hub, tmp_path, capsys):
    model = shutil.copytree(hub / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    asked = [f"evaluation.source={write_bfcl(tmp_path / 'bfcl')}", "evaluation.subset=simple_python parallel"]
    words = [f"model.path={model}", "device=cpu", "dtype=fp32", *asked]
    saved = score(hub, tmp_path / "calls", *words, config="cot_eval/bfcl")
    printed = capsys.readouterr().out
    assert "answers correct" in printed and "3 examples; 95 % intervals" in printed
    assert [example["correct"] for example in saved["examples"]] == [False] * 3
    assert "Rome, Italy" in saved["examples"][0]["reference"]


def test_what_cot_eval_refuses(hub, tmp_path, refused):
    paths = [f"model.path={hub / 'model'}", f"output_dir={tmp_path / 'out'}"]
    assert "num_samples above 1 needs a temperature" in refused(run("cot_eval", [*paths, "evaluation.num_samples=2"]))
    two = tune("--nproc_per_node 2 cot_eval --config cot_eval/quickstart", *paths, cwd=tmp_path)
    assert two.returncode and "cot_eval runs as one process, not 2" in two.stderr
