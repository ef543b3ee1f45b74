"""Models of torchtune's builders as folders that `transformers` loads: the same logits, tokenizer, stop ids."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from torchtune.config import instantiate
from torchtune.models.gemma import gemma
from torchtune.models.gemma2 import gemma2
from torchtune.models.llama3 import llama3
from torchtune.models.llama3_2 import llama3_2
from torchtune.models.mistral import mistral
from torchtune.models.qwen2 import qwen2
from transformers import AutoModelForCausalLM, AutoTokenizer

from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.errors import UserError
from cot_components.models import from_folder
from cot_components.models.adapter import adapt, logits
from cot_components.models.export import save_pretrained
from cot_components.models.families.gpt2 import gpt2
from cot_components.models.load import start_from_scratch
from cot_components.models.think_tokens import grow_vocabulary

VOCABULARY = 384
SIZES = {"vocab_size": VOCABULARY, "num_layers": 2, "num_heads": 4, "embed_dim": 64, "max_seq_len": 256}
LLAMA = {**SIZES, "num_kv_heads": 2, "intermediate_dim": 96}
MODELS = {
    "Llama-3.2, tied": (llama3_2, LLAMA, "LLAMA3_2", "LlamaForCausalLM"),
    "Llama-3.2, untied": (llama3_2, {**LLAMA, "tie_word_embeddings": False}, "LLAMA3", "LlamaForCausalLM"),
    "Llama-3": (llama3, LLAMA, "LLAMA3", "LlamaForCausalLM"),
    "Mistral": (mistral, LLAMA, "LLAMA3", "LlamaForCausalLM"),
    "Qwen2.5, tied": (qwen2, {**LLAMA, "tie_word_embeddings": True}, "QWEN2", "Qwen2ForCausalLM"),
    "Qwen2.5, untied": (qwen2, {**LLAMA, "tie_word_embeddings": False}, "QWEN2", "Qwen2ForCausalLM"),
    "GPT-2": (gpt2, SIZES, None, "GPT2LMHeadModel"),
}


@pytest.mark.parametrize("name", MODELS)
def test_transformers_and_torchtune_load_what_we_write(tmp_path, name):
    make, settings, kind, their_class = MODELS[name]
    torch.manual_seed(0)
    ours = start_from_scratch(make(**settings))
    with torch.no_grad():  # biases and norms, which begin as 0 and 1, must be carried over too
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    ours = adapt(ours).eval()
    write_byte_tokenizer(tmp_path / "base")
    save_pretrained(ours, tmp_path / "out", tokenizer_dir=tmp_path / "base", stop_ids=(7, 9), pad_id=3)

    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(theirs).__name__ == their_class
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    tokens = torch.randint(0, VOCABULARY, (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (logits(ours, tokens) - theirs.eval()(tokens).logits).abs().max() < 2e-4
    how = theirs.generation_config
    assert how.eos_token_id == [7, 9] and how.pad_token_id == 3 and how.do_sample is False
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [{"role": "user", "content": "1 + 1?"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert theirs.generate(torch.tensor([ids]), max_new_tokens=4)[0, : len(ids)].tolist() == list(ids)

    if kind:
        node = {"_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": str(tmp_path / "out")}
        node |= {"checkpoint_files": ["model.safetensors"], "model_type": kind, "output_dir": str(tmp_path)}
        again = instantiate(OmegaConf.create(node)).load_checkpoint()["model"]
        first = ours.state_dict()
        assert len(first) > 15 and all(torch.equal(first[key], again[key]) for key in first)


@pytest.fixture(name="start")
def _start(tmp_path):
    """A folder to start from; `start(key=value)` changes its config.json."""
    folder = save_pretrained(start_from_scratch(llama3_2(**LLAMA)), tmp_path / "start")

    def change(**changes):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return str(folder)

    return change


def test_fields_of_the_starting_config_are_kept(start, tmp_path):
    """Also the context, whatever the longest row of this run; a vocabulary that has grown is told."""
    model = from_folder(path=start(bos_token_id=5, note="kept"), max_seq_len=64, quiet=True)
    grow_vocabulary(model, VOCABULARY + 2)
    save_pretrained(model, tmp_path / "out", stop_ids=(7,))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["bos_token_id"] == 5 and written["note"] == "kept" and written["max_position_embeddings"] == 256
    assert written["vocab_size"] == VOCABULARY + 2
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").lm_head.out_features == VOCABULARY + 2


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_number_format_is_that_of_the_weights(start, tmp_path, name):
    save_pretrained(from_folder(path=start(**{name: "bfloat16"}), quiet=True), tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float32


@pytest.mark.parametrize(("stop_ids", "end"), [((9,), 9), ((), VOCABULARY - 1)])
def test_the_end_token_of_gpt2_is_the_tokenizer_s(tmp_path, stop_ids, end):
    save_pretrained(gpt2(**SIZES), tmp_path / "out", stop_ids=stop_ids)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == end


@pytest.mark.parametrize("make", [gemma, gemma2])
def test_what_computes_something_else_is_refused(tmp_path, make):
    """Their weights have Llama's names and shapes, so a folder would load and answer wrongly."""
    model = make(**SIZES, head_dim=16, num_kv_heads=1, intermediate_dim=48)
    with pytest.raises(UserError, match="cannot write"):
        save_pretrained(model, tmp_path / "out")
