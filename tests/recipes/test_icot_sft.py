"""`tune run icot_sft`, as typed: thoughts leave on schedule, bad input ends in a sentence."""

import json
import re
import shutil

import pytest
import torch
from commands import CONFIGS, cot, must, tune, user_error
from lookalikes import is_real, shared_data
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers_for_tests import gpt2_originals, write_files

from cot_components.data.generated.multiplication import draw_operands, multiplication_lines
from cot_components.models.export import save_pretrained
from cot_components.models.families.gpt2 import gpt2
from cot_components.models.gpt2_bpe import gpt2_tokenizer
from cot_components.runs.log import read_log

TINY = [
    "model.embed_dim=16",
    "model.num_heads=2",
    "model.num_layers=1",
    "dataset.num_rows=64",
    "batch_size=8",
    "epochs=11",
    "curriculum.pretrain_epochs=1",
    "model.dropout=0",
    "evaluation.max_rows=8",
    "evaluate_every_n_steps=null",
    "log_every_n_steps=1",
]
STEPS_PER_EPOCH, THOUGHT = 8, 9


def run(cwd, *overrides, config="icot_sft/quickstart"):
    return tune("icot_sft", "--config", config, *TINY, *overrides, cwd=cwd)


def steps(folder):
    return [record for record in read_log(folder) if "objective" in record]


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("icot")
    schedule = "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
    must(run(folder, "output_dir=out", f"lr_scheduler._component_={schedule}", "lr_scheduler.num_warmup_steps=3"))
    return folder / "out"


def test_thoughts_leave_token_by_token(finished):
    """Explicit for two epochs, then one token an epoch; the smoothing adds to it, never takes back."""
    records = steps(finished)
    assert [r["stage"] for r in records] == [max(0, r["step"] // STEPS_PER_EPOCH - 1) for r in records]
    assert all(r["removed"] >= r["stage"] and r["removed"] + r["thought_tokens"] == THOUGHT for r in records)
    assert len(records) == 11 * STEPS_PER_EPOCH and records[-1]["thought_tokens"] == 0
    assert sum(r["removed"] > r["stage"] for r in records) > 0
    assert records[-1]["loss"] < records[0]["loss"]


def test_optimizer_and_schedule_start_anew_with_each_removal(finished):
    records = steps(finished)
    begins = [r["step"] for r in records if r["lr"] == 0]
    assert begins == [0, *range(2 * STEPS_PER_EPOCH, 11 * STEPS_PER_EPOCH, STEPS_PER_EPOCH)]


def test_evaluations_say_how_much_is_removed(finished):
    (last,) = [r for r in read_log(finished) if "answer_accuracy" in r]
    assert last["stage"] == last["removed"] == THOUGHT and last["step"] == 11 * STEPS_PER_EPOCH
    saved = json.loads((finished / "evaluations" / "step_88.json").read_text())
    assert saved["examples"][0]["completion"].startswith("<thought>")


def test_the_export_generates_in_transformers(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(finished / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer(" 2 1 * 3 4 ", return_tensors="pt").input_ids
    prompt = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
    assert prompt.shape == (1, 7)
    assert model.generate(prompt, max_new_tokens=3, do_sample=False, eos_token_id=-1).shape == (1, 10)


@pytest.mark.parametrize(("curriculum", "left"), [("curriculum.start=all", 0), ("curriculum.per_epoch=0", THOUGHT)])
def test_no_and_explicit_chain_of_thought_are_settings(tmp_path, curriculum, left):
    partial = "curriculum.partial=true"
    must(run(tmp_path, "output_dir=out", curriculum, partial, "curriculum.smoothing=.inf", "epochs=1"))
    assert {record["thought_tokens"] for record in steps(tmp_path / "out")} == {left}


def test_the_methods_compose_in_one_config(tmp_path):
    """Blur over what the curriculum leaves, and a target loss; the weights differ from either alone."""
    blur = ["dataset.transforms.blur._component_=cot_components.transforms.Blur", "dataset.transforms.blur.ratio=0.9"]
    rest = ["dataset.transforms.blur.keep_first=0", "log_blurred_every=1", "loss=cot_components.losses.dft"]
    must(run(tmp_path, "output_dir=out", *blur, *rest))
    records = steps(tmp_path / "out")
    assert records[0]["supervised_fraction"] < 0.7 and "loss_blurred" in records[0]
    assert records[0]["objective"] < records[0]["loss"]
    assert records[-1]["thought_tokens"] == 0 and "loss_blurred" not in records[-1]


def _quickstart_on(path: str) -> str:
    """The quickstart with a file in place of generated data."""
    config = OmegaConf.load(CONFIGS / "icot_sft" / "quickstart.yaml")
    config.dataset = {
        "_component_": "cot_components.datasets.icot_dataset",
        "source": path,
        "format": "icot",
        "transforms": {},
    }
    config.epochs, config.output_dir = 11, "out"
    return OmegaConf.to_yaml(config)


PACED = ["curriculum.pace=accuracy", "curriculum.measure_every=1"]
GOOD = "1 2 * 3 4||8 4 0 + 0 3 6 0 #### 8 8 4 0\n"


@pytest.mark.parametrize(
    ("lines", "overrides", "sentence"),
    [
        (GOOD + "1 2 * 3 4 #### 1\n", [], "train.txt:2"),
        (GOOD + "1 2 * 3 4||5\n", [], "train.txt:2"),
        (
            GOOD,
            ["evaluation.source=train.txt", "evaluation.split=train", "evaluation.subset=null"],
            "train.txt:1 of the test data asks what row 0",
        ),
        (GOOD, ["model.max_seq_len=16"], "row 0, the longest, has"),
        (GOOD, ["epochs=3"], "the longest thought has 9 tokens and is removed whole only after 10 epochs"),
        (GOOD, ["curriculum.per_epoch=0"], "never, because per_epoch is 0"),
        (GOOD, ["curriculum.unit=step"], "unit is 'step'"),
        (GOOD, ["curriculum.side=up"], "curriculum.side"),
        (GOOD, ["curriculum.pace=accuracy", "curriculum.bar=95"], "curriculum: bar must be"),
        (GOOD, [PACED[0], "dataset_val=train.txt"], "takes 901 steps to remove it, but the run has 11"),
        (GOOD, [*PACED, "dataset_val=train.txt"], "row 0 of the test data asks what row 0"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, lines, overrides, sentence):
    (tmp_path / "train.txt").write_text(lines)
    (tmp_path / "config.yaml").write_text(_quickstart_on("train.txt"))
    assert sentence in user_error(
        tune("icot_sft", "--config", "config.yaml", *TINY[:3], "batch_size=1", *overrides, cwd=tmp_path)
    )


def test_an_exported_model_is_evaluated_and_timed(finished, tmp_path):
    """`cot_eval` on the run's folder finds what the run found; the speed table names every run."""
    same = [f"model.path={finished / 'model'}", "evaluation.max_rows=8"]
    must(tune("cot_eval", "--config", "cot_eval/icot", *same, "output_dir=eval", cwd=tmp_path))
    ours = json.loads((finished / "evaluations" / "step_88.json").read_text())
    again = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    assert [e["completion"] for e in again["examples"]] == [e["completion"] for e in ours["examples"]]
    speed = ["speed", finished, "--rows", "4", "--batch-size", "4"]
    assert re.search(r"out +[\d.]+ +0\.0 % of 4 +[\d.]+ \(1\.00x\) +[\d.]+ \(1\.00x\)", must(cot(*speed, cwd=tmp_path)))
    shutil.copytree(finished, tmp_path / "twin" / finished.name)
    both = must(cot("speed", finished, f"twin/{finished.name}", *speed[2:], cwd=tmp_path))
    assert f"twin/{finished.name}" in both and both.count("0.0 % of 4") == 2
    assert "holds no finished run" in user_error(cot("speed", tmp_path, cwd=tmp_path))


def test_published_files_and_pretrained_weights(tmp_path):
    """`gpt2_4x4` on a folder in hub layout, the paper's own test file, and that file's pairs left out of training."""
    torch.manual_seed(0)
    originals = gpt2_originals(tmp_path / "originals")
    vocabulary = write_files(gpt2_tokenizer(str(originals)), tmp_path / "gpt2") / "tokenizer.json"
    size = {"vocab_size": Tokenizer.from_file(str(vocabulary)).get_vocab_size(), "num_layers": 1, "num_heads": 2}
    size |= {"embed_dim": 16, "max_seq_len": 128}
    save_pretrained(gpt2(**size), tmp_path / "gpt2")
    file = shared_data(tmp_path) / "icot_mult" / "4_by_4" / "valid.txt"
    if not is_real():
        file.write_text("\n".join(multiplication_lines(*draw_operands(4, 3))) + "\n")
    config = OmegaConf.load(CONFIGS / "icot_sft" / "gpt2_4x4.yaml")
    config.dataset.update(num_rows=16, exclude=[str(file)])
    config.evaluation.update(source=str(file), split="train", subset=None, max_rows=2)
    config.model.path = str(tmp_path / "gpt2")
    config.update(epochs=1, evaluate_every_n_steps=None, num_workers=0, output_dir="out", log_every_n_steps=1)
    config.curriculum.partial = True
    OmegaConf.save(config, tmp_path / "config.yaml")
    must(tune("icot_sft", "--config", "config.yaml", "device=cpu", cwd=tmp_path))
    (record,) = steps(tmp_path / "out")
    assert record["thought_tokens"] == pytest.approx(47, abs=1) and "removed" in record
    saved = json.loads((tmp_path / "out" / "evaluations" / "step_1.json").read_text())["examples"]
    assert [example["where"] for example in saved] == [f"{file}:{line}" for line in (1, 2)]
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("gpt2", "out/model"))
    moved = max(float((after[name] - before[name]).abs().max()) for name in after)
    assert after.keys() == before.keys() and 0 < moved < 1e-3


def test_step_lists_lose_whole_steps(tmp_path):
    """ProsQA-like rows: a step leaves per epoch, whatever its length."""
    rows = [{"question": f"is {i} odd?", "steps": ["it ends", f"in {i}"], "answer": str(i % 2 == 1)} for i in range(16)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    config = OmegaConf.create(_quickstart_on("rows.json"))
    config.dataset.format, config.evaluation, config.epochs = "steps", None, 3
    config.curriculum.update(unit="step", smoothing=float("inf"))
    OmegaConf.save(config, tmp_path / "config.yaml")
    must(tune("icot_sft", "--config", "config.yaml", *TINY[:3], "batch_size=16", "log_every_n_steps=1", cwd=tmp_path))
    assert [(r["removed"], r["thought_steps"]) for r in steps(tmp_path / "out")] == [(0, 2), (1, 1), (2, 0)]
