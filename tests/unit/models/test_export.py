"""Models of every family as folders that `transformers` loads: the same logits, a tokenizer, how to generate."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from torchtune.config import instantiate
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
SMALL_GPT2 = {"num_layers": 2, "num_heads": 4, "embed_dim": 64, "max_seq_len": 256}


def llama(**more):
    from torchtune.models.llama3_2 import llama3_2

    shape = {"num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 96}
    return llama3_2(VOCABULARY, max_seq_len=256, **shape, **more)


def llama3():
    from torchtune.models.llama3 import llama3 as build

    return build(VOCABULARY, 2, 4, 2, 64, 256, intermediate_dim=96)


def qwen(tied):
    from torchtune.models.qwen2 import qwen2

    return qwen2(VOCABULARY, 2, 4, 2, 64, 96, 256, tie_word_embeddings=tied)


def mistral():
    from torchtune.models.mistral import mistral as build

    return build(VOCABULARY, 2, 4, 2, 64, 96, 256)


FAMILIES = {
    "Llama-3.2, tied": (llama, "LLAMA3_2", "LlamaForCausalLM"),
    "Llama-3.2, untied": (lambda: llama(tie_word_embeddings=False), "LLAMA3", "LlamaForCausalLM"),
    "Llama-3": (llama3, "LLAMA3", "LlamaForCausalLM"),
    "Mistral": (mistral, "LLAMA3", "LlamaForCausalLM"),
    "Qwen2.5, tied": (lambda: qwen(True), "QWEN2", "Qwen2ForCausalLM"),
    "Qwen2.5, untied": (lambda: qwen(False), "QWEN2", "Qwen2ForCausalLM"),
    "GPT-2": (
        lambda: gpt2(vocab_size=VOCABULARY, num_layers=2, num_heads=4, embed_dim=64, max_seq_len=256),
        None,
        "GPT2LMHeadModel",
    ),
}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_transformers_loads_what_we_write(tmp_path, name):
    make, _, their_class = FAMILIES[name]
    torch.manual_seed(0)
    ours = make()
    start_from_scratch(ours)
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
    assert theirs.generation_config.eos_token_id == [7, 9] and theirs.generation_config.pad_token_id == 3
    assert theirs.generation_config.do_sample is False
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "1 + 1?"}], add_generation_prompt=True)
    ids = prompt["input_ids"] if hasattr(prompt, "keys") else prompt
    answer = theirs.generate(torch.tensor([ids]), max_new_tokens=4)
    assert answer[0, : len(ids)].tolist() == list(ids) and answer.shape[1] > len(ids)


@pytest.mark.parametrize("name", [name for name, (_, kind, _) in FAMILIES.items() if kind])
def test_torchtune_reads_it_back(tmp_path, name):
    make, kind, _ = FAMILIES[name]
    torch.manual_seed(0)
    ours = make()
    start_from_scratch(ours)
    save_pretrained(ours, tmp_path / "out")
    again = make()
    node = {"_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": str(tmp_path / "out")}
    node |= {"checkpoint_files": ["model.safetensors"], "model_type": kind, "output_dir": str(tmp_path)}
    again.load_state_dict(instantiate(OmegaConf.create(node)).load_checkpoint()["model"])
    first, second = ours.state_dict(), again.state_dict()
    assert len(first) > 15 and all(torch.equal(first[key], second[key]) for key in first)


def test_fields_of_the_starting_config_are_kept(tmp_path):
    """Also the context, whatever the longest row of this run; a vocabulary that has grown is told."""
    folder = save_pretrained(start_from_scratch(llama()), tmp_path / "start")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "bos_token_id": 5, "note": "kept"}))
    model = from_folder(path=str(folder), max_seq_len=64, quiet=True)
    grow_vocabulary(model, VOCABULARY + 2)
    save_pretrained(model, tmp_path / "out", stop_ids=(7,))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["bos_token_id"] == 5 and written["note"] == "kept" and written["max_position_embeddings"] == 256
    assert written["vocab_size"] == VOCABULARY + 2
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").lm_head.out_features == VOCABULARY + 2


@pytest.mark.parametrize(("stop_ids", "end"), [((9,), 9), ((), VOCABULARY - 1)])
def test_the_end_token_of_gpt2_is_the_tokenizer_s(tmp_path, stop_ids, end):
    model = gpt2(vocab_size=VOCABULARY, **SMALL_GPT2)
    save_pretrained(model, tmp_path / "out", stop_ids=stop_ids)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == end


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_number_format_is_that_of_the_weights(tmp_path, name):
    folder = save_pretrained(start_from_scratch(llama()), tmp_path / "start")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: "bfloat16"}))
    save_pretrained(from_folder(path=str(folder), quiet=True), tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float32


def gemma():
    from torchtune.models.gemma import gemma as build

    return build(VOCABULARY, 1, 2, 16, 1, 32, 48, 64)


def gemma2():
    from torchtune.models.gemma2 import gemma2 as build

    return build(VOCABULARY, 2, 2, 16, 1, 32, 48, 64)


@pytest.mark.parametrize("make", [gemma, gemma2])
def test_what_computes_otherwise_is_refused(tmp_path, make):
    """Their weights have Llama's names and shapes, so a folder would load and answer wrongly."""
    model = make()
    with pytest.raises(UserError, match=r"cannot write \w+ as a Hugging Face folder; known: Llama .*; GPT-2$"):
        save_pretrained(model, tmp_path / "out")
