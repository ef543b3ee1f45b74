"""`tune run icot_sft`, as typed: thoughts leave on schedule, bad input ends in a sentence."""

import json

import pytest
import torch
from commands import must, tune, user_error

from cot_components.viz.log import read_log

TINY = [
    "model.embed_dim=16",
    "model.num_heads=2",
    "model.num_layers=1",
    "dataset.num_rows=64",
    "batch_size=8",
    "epochs=11",
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


GOOD = "1 2 * 3 4||8 4 0 + 0 3 6 0 #### 8 8 4 0\n"


@pytest.mark.parametrize(
    ("lines", "overrides", "sentence"),
    [
        (GOOD + "1 2 * 3 4 #### 1\n", [], "train.txt:2"),
        (GOOD + "1 2 * 3 4||5\n", [], "train.txt:2"),
        (
            GOOD,
            ["evaluation.source=train.txt", "evaluation.split=train"],
            "train.txt:1 of the test data asks what row 0",
        ),
        (GOOD, ["model.max_seq_len=16"], "row 0, the longest, has"),
        (GOOD, ["epochs=3"], "the longest thought has 9 tokens and is removed whole only after 11 epochs"),
        (GOOD, ["curriculum.per_epoch=0"], "never, because per_epoch is 0"),
        (GOOD, ["curriculum.unit=step"], "unit is 'step'"),
        (GOOD, ["curriculum.side=up"], "curriculum.side"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, lines, overrides, sentence):
    (tmp_path / "train.txt").write_text(lines)
    (tmp_path / "config.yaml").write_text(_quickstart_on("train.txt"))
    assert sentence in user_error(
        tune("icot_sft", "--config", "config.yaml", *TINY[:3], "batch_size=1", *overrides, cwd=tmp_path)
    )


def _quickstart_on(path: str) -> str:
    """The quickstart with a file in place of generated data."""
    from commands import CONFIGS
    from omegaconf import OmegaConf

    config = OmegaConf.load(CONFIGS / "icot_sft" / "quickstart.yaml")
    config.dataset = {
        "_component_": "cot_components.icot_datasets.icot_dataset",
        "source": path,
        "format": "icot",
        "transforms": {},
    }
    config.epochs, config.output_dir = 11, "out"
    return OmegaConf.to_yaml(config)
