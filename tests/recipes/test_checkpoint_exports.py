"""The folder for `transformers` in a checkpoint of an unfinished run: the model as it was at that step."""

import pytest
import torch
from contract import checkpoint, overrides_for, run
from safetensors.torch import load_file

from cot_components.models.adapter import logits
from cot_components.models.load import load_model
from cot_components.runs.checkpoint import read_state


@pytest.mark.parametrize("name", ["bt_sft", "icot_sft"])  # a Llama with a chat template; a GPT-2
def test_a_checkpoint_loads_in_transformers(hub, tmp_path, name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    words = [*overrides_for(name, hub), "epochs=1", "evaluation=null", "dataset_val=null", f"output_dir={out}"]
    assert run(name, [*words, "optimizer.lr=1e-2", "save_every_n_steps=2", "keep_checkpoints=9"]).code == 0
    tokens = torch.randint(0, 20, (2, 12), generator=torch.Generator().manual_seed(0))
    folder = checkpoint(out, 2) / "hf"
    ours = load_model(
        read_state(checkpoint(out, 2))["config"]["model"], device=torch.device("cpu"), dtype=torch.float32
    )
    ours.load_state_dict(load_file(checkpoint(out, 2) / "model.safetensors"), strict=False)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    last = AutoModelForCausalLM.from_pretrained(out / "model").eval()
    with torch.no_grad():
        expected = logits(ours.eval(), tokens)
        assert (theirs(tokens).logits - expected).abs().max() < 1e-4
        assert (last(tokens).logits - expected).abs().max() > 1e-2  # trained further since
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("12")["input_ids"]).strip() == "12"
    assert theirs.generation_config.eos_token_id and theirs.generation_config.do_sample is False
