"""`tune run bt_sft` on the real model, as typed: killed by SIGKILL it goes on bit for bit, and its export speaks."""

import os
import signal
import subprocess
import time

import pytest
import torch
from commands import TUNE, environment, must, tune
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cot_components.errors import UserError
from cot_components.models.smollm2 import cached_smollm2
from cot_components.runs.log import read_log

STEPS = 4
SHORT = ["dataset.source=generated", "dataset.max_rows=8", "dataset_val=null", "evaluation=null", "lr_scheduler=null"]
SHORT += ["packed_tokens=null", "batch_size=2", "gradient_accumulation_steps=1", "device=cpu", "dtype=fp32"]
SHORT += ["model.max_seq_len=256", "model.lora.rank=4", "optimizer.lr=1e-5", "save_every_n_steps=1"]


@pytest.fixture(scope="module")
def command():
    try:
        folder = cached_smollm2()
    except UserError as error:
        pytest.fail(str(error), pytrace=False)
    return ["bt_sft", "--config", "bt_sft/any", f"model.path={folder}", *SHORT]


def steps(out):
    return [(record["step"], record["loss"]) for record in read_log(out) if "loss" in record]


def test_it_goes_on_after_sigkill_and_its_export_speaks(command, tmp_path):
    must(tune(*command, "output_dir=calm", cwd=tmp_path))
    words = [str(TUNE), "run", *command, "output_dir=killed"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment(), **quiet)
    try:
        while process.poll() is None and not (tmp_path / "killed" / "checkpoints" / "step_00000001").exists():
            time.sleep(0.02)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "finished.json").exists()
    must(tune(*command, "output_dir=killed", cwd=tmp_path))
    calm, killed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("calm", "killed"))
    assert calm.keys() == killed.keys() and all(torch.equal(calm[name], killed[name]) for name in calm)
    assert len(steps(tmp_path / "calm")) == STEPS and steps(tmp_path / "calm") == steps(tmp_path / "killed")
    assert "Paris" in answer(tmp_path / "killed" / "model", "What is the capital of France?")


def answer(folder, question):
    """What `transformers` makes of the exported folder, greedily."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    messages = [{"role": "user", "content": question}]
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**given, max_new_tokens=24, do_sample=False)
    return tokenizer.decode(said[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
