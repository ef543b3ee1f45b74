"""The tokenizer and the chat template beside exported weights are those that were trained with."""

from pathlib import Path

import pytest
from tiny_models import llama_tied
from tiny_tokenizers import CHATML_TOKENS, added_token, qwen2_5, qwen_rules, write_folder
from torchtune.models.qwen2._tokenizer import PRETOKENIZE_REGEX
from transformers import AutoTokenizer

from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.text.templates import read_json
from cot_components.datasets import reasoning_dataset
from cot_components.datasets.icot import multiplication_dataset
from cot_components.models.export import save_pretrained
from cot_components.models.families import FAMILIES
from cot_components.models.folder import Hub
from cot_components.models.gpt2_bpe import compact_tokenizer
from cot_components.models.tokenizers import hf_tokenizer
from cot_components.training.export import export_model

TEMPLATE = "{% for message in messages %}<|{{ message.role }}|>NEW {{ message.content }}<|end|>{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<|assistant|>NEW {% endif %}"


def exported(folder: Path, data, tokenizer: dict, start: Path | None = None) -> Path:
    model = llama_tied()
    if start is not None:
        start = start.expanduser()
        model.hub = Hub(start, FAMILIES["llama"], read_json(start / "config.json"), {})
    return export_model(model, folder / "out", model.state_dict(), data, {"tokenizer": tokenizer})


@pytest.mark.parametrize("where", ["dataset", "tokenizer", "nowhere"])
def test_the_template_is_the_one_trained_with(tmp_path, where):
    folder = write_byte_tokenizer(tmp_path / "byte")
    (tmp_path / "new.jinja").write_text(TEMPLATE)
    new = {"template": str(tmp_path / "new.jinja")}
    given = {name: new if name == where else {} for name in ("dataset", "tokenizer")}
    node = {"_component_": "cot_components.models.hf_tokenizer", "path": str(folder), **given["tokenizer"]}
    made = hf_tokenizer(str(folder), **given["tokenizer"])
    out = exported(tmp_path, reasoning_dataset(made, source="generated", max_rows=2, **given["dataset"]), node)
    prompt = AutoTokenizer.from_pretrained(out).apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert ("NEW hi" in prompt) == (where != "nowhere")
    assert (out / "chat_template.jinja").is_file() == (where != "nowhere" or (folder / "chat_template.jinja").is_file())


def test_folders_below_home(tmp_path, monkeypatch):
    """Tokenizer files and the config.json of the starting weights are found there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_byte_tokenizer(tmp_path / "byte")
    save_pretrained(llama_tied(), tmp_path / "start")
    config = tmp_path / "start" / "config.json"
    config.write_text(config.read_text().replace("{", '{"kept": 1,', 1))
    node = {"_component_": "cot_components.models.hf_tokenizer", "path": "~/byte"}
    data = reasoning_dataset(hf_tokenizer("~/byte"), source="generated", max_rows=2)
    out = exported(tmp_path, data, node, Path("~/start"))
    assert (out / "tokenizer.json").is_file() and '"kept": 1' in (out / "config.json").read_text()


def test_rows_without_a_chat_have_no_template(tmp_path):
    data = multiplication_dataset(compact_tokenizer(), num_digits=2, num_rows=2)
    out = exported(tmp_path, data, {"_component_": "cot_components.models.compact_tokenizer"})
    assert (out / "tokenizer.json").is_file() and not (out / "chat_template.jinja").is_file()


def hub_of_qwen(folder: Path, *, same: bool) -> Path:
    """A starting folder with torchtune's own Qwen2.5 tokenizer as a tokenizer.json, or another one."""
    rules = qwen_rules()
    split = {"type": "Split", "pattern": {"Regex": PRETOKENIZE_REGEX}, "behavior": "Isolated", "invert": False}
    if same:  # GPT-2's expression keeps numbers whole
        parts = [split, {**rules["pre_tokenizer"], "use_regex": False}]
        rules["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    rules["added_tokens"] = [added_token(151_643 + i, text) for i, text in enumerate(CHATML_TOKENS)]
    write_folder(folder, rules, eos_token="<|im_end|>")
    return save_pretrained(llama_tied(), folder)


def own_of_qwen(folder: Path) -> dict:
    files = {"path": str(folder / "own" / "vocab.json"), "merges_file": str(folder / "own" / "merges.txt")}
    return {"_component_": "torchtune.models.qwen2_5.qwen2_5_tokenizer", **files}


@pytest.mark.parametrize("start", ["same", "other", "broken"])
def test_torchtune_s_own_tokenizer_takes_the_files_of_the_starting_weights(tmp_path, start):
    (tmp_path / "own").mkdir()
    data = reasoning_dataset(qwen2_5(tmp_path / "own"), source="generated", max_rows=2)
    hub = hub_of_qwen(tmp_path / "hub", same=start != "other")
    if start == "broken":
        (hub / "tokenizer.json").write_text("no json")
    out = exported(tmp_path, data, own_of_qwen(tmp_path), hub)
    assert (out / "model.safetensors").is_file() and (out / "vocab.json").is_file() == (start != "same")
    assert (out / "tokenizer.json").is_file() == (start == "same")
    if start == "same":
        assert AutoTokenizer.from_pretrained(out).encode("the 12") == data.chat.tokenizer.encode_text("the 12")
