"""The curriculum from end to end: thoughts leave on schedule, in generated rows, rows of files, and published sets."""

import json
import re
import shutil

import pytest
import torch
from commands import CONFIGS
from lookalikes import is_real, shared_data
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tiny_runs import PUBLISHED_PACE, run
from tiny_tokenizers import gpt2_originals, write_files
from tokenizers import Tokenizer

from cot_components.cli.main import main
from cot_components.data.generated.multiplication import draw_operands, multiplication_lines
from cot_components.models.export import save_pretrained
from cot_components.models.families.gpt2 import gpt2
from cot_components.models.gpt2_bpe import gpt2_tokenizer
from cot_components.runs.log import read_log

TINY = ["model.embed_dim=16", "model.num_heads=2", "model.num_layers=1", "model.dropout=0", "log_every_n_steps=1"]
FULL = [*TINY, "dataset.num_rows=64", "batch_size=8", "epochs=11", "curriculum.pretrain_epochs=1"]
FULL += ["evaluation.max_rows=8", "evaluate_every_n_steps=null"]
FULL += [f"{key}={value}" for key, value in PUBLISHED_PACE.items()]
STEPS_PER_EPOCH, THOUGHT = 8, 9


def steps(out):
    return [record for record in read_log(out) if "objective" in record]


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("icot") / "out"
    assert run("icot_sft", [*FULL, f"output_dir={out}", "lr_scheduler.num_warmup_steps=3"]).code == 0
    return out


def test_thoughts_leave_token_by_token(finished):
    """Explicit for two epochs, then one token an epoch; the smoothing adds to it, never takes back."""
    records = steps(finished)
    assert [r["stage"] for r in records] == [max(0, r["step"] // STEPS_PER_EPOCH - 1) for r in records]
    assert all(r["removed"] >= r["stage"] and r["removed"] + r["thought_tokens"] == THOUGHT for r in records)
    assert len(records) == 11 * STEPS_PER_EPOCH and records[-1]["thought_tokens"] == 0
    assert sum(r["removed"] > r["stage"] for r in records) > 0
    assert records[-1]["loss"] < records[0]["loss"]


def test_optimizer_and_schedule_start_again_with_each_removal(finished):
    begins = [record["step"] for record in steps(finished) if record["lr"] == 0]
    assert begins == [0, *range(2 * STEPS_PER_EPOCH, 11 * STEPS_PER_EPOCH, STEPS_PER_EPOCH)]


def test_evaluations_say_how_much_is_removed(finished):
    (last,) = [record for record in read_log(finished) if "answer_accuracy" in record]
    assert last["stage"] == last["removed"] == THOUGHT and last["step"] == 11 * STEPS_PER_EPOCH
    saved = json.loads((finished / "evaluations" / "step_88.json").read_text())
    assert saved["examples"][0]["completion"].startswith("<thought>")


def config_on(folder, source, form, **changes):
    """The quickstart with a file in place of generated data."""
    config = OmegaConf.load(CONFIGS / "icot_sft" / "quickstart.yaml")
    rows = {"_component_": "cot_components.datasets.icot_dataset", "source": str(source), "format": form}
    config.dataset = {**rows, "transforms": {}}
    config.curriculum.pace = "exact"
    config.update(epochs=11, dataset_val=None, output_dir=str(folder / "out"), **changes)
    return config


PACED = ["curriculum.pace=accuracy", "curriculum.measure_every=1"]
GOOD = "1 2 * 3 4||8 4 0 + 0 3 6 0 #### 8 8 4 0\n"
ON_TRAIN = ["evaluation.source={file}", "evaluation.split=train", "evaluation.subset=null"]


@pytest.mark.parametrize(
    ("lines", "overrides", "said"),
    [
        (GOOD + "1 2 * 3 4 #### 1\n", [], "train.txt:2"),
        (GOOD + "1 2 * 3 4||5\n", [], "train.txt:2"),
        (GOOD, ON_TRAIN, "train.txt:1 of the test data has the same question as row 0"),
        (GOOD, [PACED[0], "dataset_val={file}"], "takes 901 steps to remove it, but the run has 11"),
        (GOOD, [*PACED, "dataset_val={file}"], "row 0 of the test data has the same question as row 0"),
    ],
)
def test_bad_rows_of_a_file_are_one_sentence(tmp_path, refused, lines, overrides, said):
    file = tmp_path / "train.txt"
    file.write_text(lines)
    OmegaConf.save(config_on(tmp_path, file, "icot"), tmp_path / "config.yaml")
    words = [*TINY, "batch_size=1", *(word.format(file=file) for word in overrides)]
    assert said in refused(run("icot_sft", words, config=tmp_path / "config.yaml"))


def test_step_lists_lose_whole_steps(tmp_path):
    """ProsQA-like rows: a step leaves per epoch, whatever its length."""
    rows = [{"question": f"is {i} odd?", "steps": ["it ends", f"in {i}"], "answer": str(i % 2 == 1)} for i in range(16)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    config = config_on(tmp_path, tmp_path / "rows.json", "steps", evaluation=None, batch_size=16)
    config.curriculum.update(unit="step", smoothing=float("inf"))
    OmegaConf.save(config, tmp_path / "config.yaml")
    assert run("icot_sft", [*TINY, "epochs=3"], config=tmp_path / "config.yaml").code == 0
    assert [(r["removed"], r["thought_steps"]) for r in steps(tmp_path / "out")] == [(0, 2), (1, 1), (2, 0)]


def test_an_exported_model_is_evaluated_and_timed(finished, tmp_path, capsys, refused):
    """`cot_eval` on the run's folder finds what the run found; the speed table names every run."""
    same = [f"model.path={finished / 'model'}", "evaluation.max_rows=8", f"output_dir={tmp_path / 'eval'}"]
    assert run("cot_eval", same, config="cot_eval/icot").code == 0
    paths = (finished / "evaluations" / "step_88.json", tmp_path / "eval" / "evaluation.json")
    ours, again = ([e["completion"] for e in json.loads(path.read_text())["examples"]] for path in paths)
    assert ours == again and len(ours) == 8
    shutil.copytree(finished, tmp_path / "twin" / finished.name)
    capsys.readouterr()
    assert main(["speed", str(finished), str(tmp_path / "twin" / "out"), "--rows", "4", "--batch-size", "4"]) == 0
    table = capsys.readouterr().out
    assert "twin/out" in table and table.count("0.0 % of 4") == 2
    assert re.search(r"out +[\d.]+ +0\.0 % of 4 +[\d.]+ \(1\.00x\) +[\d.]+ \(1\.00x\)", table)
    assert "holds no finished run" in refused(main(["speed", str(tmp_path)]))


def test_published_files_and_pretrained_weights(tmp_path):
    """`gpt2_4x4` on a folder in hub layout, the paper's own test file, and that file's pairs left out of training."""
    torch.manual_seed(0)
    originals = gpt2_originals(tmp_path / "originals")
    vocabulary = write_files(gpt2_tokenizer(str(originals)), tmp_path / "gpt2") / "tokenizer.json"
    size = {"vocab_size": Tokenizer.from_file(str(vocabulary)).get_vocab_size(), "num_layers": 1, "num_heads": 2}
    save_pretrained(gpt2(**size, embed_dim=16, max_seq_len=128), tmp_path / "gpt2")
    file = shared_data(tmp_path) / "icot_mult" / "4_by_4" / "valid.txt"
    if not is_real():
        file.write_text("\n".join(multiplication_lines(*draw_operands(4, 3))) + "\n")
    config = OmegaConf.load(CONFIGS / "icot_sft" / "gpt2_4x4.yaml")
    config.dataset.update(num_rows=16, exclude=[str(file)])
    config.evaluation.update(source=str(file), split="train", subset=None, max_rows=2)
    config.model.path = str(tmp_path / "gpt2")
    config.update(epochs=1, evaluate_every_n_steps=None, num_workers=0, log_every_n_steps=1, device="cpu")
    config.update(output_dir=str(tmp_path / "out"))
    config.curriculum.partial = True
    OmegaConf.save(config, tmp_path / "config.yaml")
    assert run("icot_sft", [], config=tmp_path / "config.yaml").code == 0
    (record,) = steps(tmp_path / "out")
    assert record["thought_tokens"] == pytest.approx(47, abs=1) and "removed" in record
    saved = json.loads((tmp_path / "out" / "evaluations" / "step_1.json").read_text())["examples"]
    assert [example["where"] for example in saved] == [f"{file}:{line}" for line in (1, 2)]
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("gpt2", "out/model"))
    moved = max(float((after[name] - before[name]).abs().max()) for name in after)
    assert after.keys() == before.keys() and 0 < moved < 1e-3
